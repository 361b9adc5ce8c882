"""The KV law against blocks counted one by one, and against published figures; vLLM's own code is the judge in
tests/parity."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluidgate.errors import InputError
from fluidgate.fluid import Limits, RequestMix, plan
from fluidgate.fluid.plan_rows import all_rows
from fluidgate.hardware import (
    Gpu,
    Hardware,
    KvDtype,
    KvGroup,
    KvLaw,
    KvLayer,
    Serving,
    StepTime,
    estimate_hardware,
    find_gpu,
    find_model,
    get_hardware,
    kv_law,
    read_hardware,
    read_kv_layers,
    read_model_config,
    write_hardware,
)
from fluidgate.jsonfile import JsonObject

groups = st.one_of(
    st.builds(KvGroup, st.sampled_from(["full", "latent"]), st.integers(1, 40), st.sampled_from([1, 4, 16, 32])),
    st.builds(
        KvGroup,
        st.sampled_from(["sliding", "chunked"]),
        st.integers(1, 40),
        st.sampled_from([1, 4, 16, 32]),
        st.integers(1, 200),
    ),
    st.builds(KvGroup, st.just("state"), st.integers(1, 40), st.just(64)),
)
laws = st.lists(groups, min_size=1, max_size=4).map(lambda made: KvLaw(tuple(made)))


def kept(group: KvGroup, tokens: int) -> int:
    """Blocks that hold one of the tokens that the next one attends to, counted one by one."""
    if group.kind == "state":
        return 1
    reach = group.reach or tokens
    first = max(0, tokens - reach) if group.kind != "chunked" else (tokens - 1) // reach * reach
    return len({token // group.block_size for token in range(first, tokens)})


@given(groups, st.integers(1, 500))
def test_blocks_are_those_with_a_token_that_is_still_needed(group: KvGroup, tokens: int) -> None:
    assert group.blocks(tokens) == kept(group, tokens)
    assert group.blocks(np.array([tokens]))[0] == kept(group, tokens)


@given(laws, st.integers(1, 300), st.integers(1, 200))
def test_memory_sums_what_the_pieces_say(law: KvLaw, first: int, count: int) -> None:
    tokens = np.arange(first, first + count)
    pieces = law.pieces(first + count)
    held = np.array([next(p.slope * n + p.intercept for p in reversed(pieces) if p.start <= n) for n in tokens])
    total, squares = law.memory(np.array([first]), np.array([float(count)]))
    assert total[0] == pytest.approx(held.sum())
    assert squares[0] == pytest.approx((held**2).sum())


@pytest.mark.parametrize(
    "group", [KvGroup("full", 8, 16), KvGroup("sliding", 8, 16, 100), KvGroup("chunked", 8, 16, 128)]
)
def test_the_mean_is_that_over_all_alignments(group: KvGroup) -> None:
    """Over many whole blocks the mean of the pieces is the mean of the blocks."""
    law = KvLaw((group,))
    first, count = 1024 + 1, 16 * 128
    blocks = group.blocks(np.arange(first, first + count)).mean()
    mean = law.memory(np.array([first]), np.array([float(count)]))[0][0] / count
    assert mean / law.block_size == pytest.approx(blocks, rel=1e-3)


@given(st.integers(1, 5000), st.integers(1, 3000), st.sampled_from([1, 16, 528]))
def test_one_full_group_is_the_formula_of_the_model(prompt: int, output: int, block_size: int) -> None:
    """model.md §2 and §6, to the last bit: every number of today's plans stays."""
    total, squares = KvLaw.full(block_size).memory(np.array([prompt]), np.array([float(output)]))
    rounding = 0.5 * (block_size - 1)
    first = prompt + rounding
    assert total[0] == output * (prompt + 0.5 * (output - 1.0)) + output * rounding
    m = float(output)
    assert squares[0] == pytest.approx(
        m * first**2 + first * m * (m - 1.0) + (m - 1.0) * m * (2.0 * m - 1.0) / 6.0, rel=1e-14
    )


def test_a_window_holds_no_more_than_its_tokens_and_two_broken_blocks() -> None:
    group = KvGroup("sliding", 1, 16, 128)
    assert {int(group.blocks(n)) for n in range(200, 400)} == {8, 9}
    assert group.most_blocks(131072, 4096) == -(-(127 + 4096) // 16) + 1


def test_gpt_oss_holds_a_second_group_for_short_requests() -> None:
    """258 tokens take 17 blocks and 9 of the windows; 1,342 take 84 and 9."""
    layers = ((KvLayer("sliding", 8, 128, 128),), (KvLayer("full", 8, 128),)) * 18
    law = kv_law(layers, dtype=KvDtype("bfloat16"))
    assert [(group.layers, group.kind) for group in law.groups] == [(18, "sliding"), (18, "full")]
    assert law.bytes_per_block == 16 * 18 * 2048
    assert int(law.blocks(258)) == 17 + 9
    assert int(law.blocks(1342)) == 84 + 9


def test_published_block_sizes_of_hybrid_models() -> None:
    """vLLM's log: "Setting attention block size to 1056 tokens" for Qwen3.5-35B-A3B, to 544 for Qwen3-Next."""
    common = {
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 32,
        "full_attention_interval": 4,
        "hidden_size": 2048,
    }
    for layers, more, block_size in ((40, {"mamba_ssm_dtype": "float32"}, 1056), (48, {}, 544)):
        config = JsonObject(common | more | {"num_hidden_layers": layers}, "config.json")
        law = kv_law(read_kv_layers(config), dtype=KvDtype("bfloat16"))
        assert {group.block_size for group in law.groups} == {block_size}
        assert sorted(group.kind for group in law.groups) == ["full", "state", "state", "state"]
        assert law.block_size == block_size


def test_windows_alone_keep_the_block_size_of_the_server(tmp_path: Path) -> None:
    """Mistral-7B v0.1: 32 layers with a window of 4,096 tokens, and no other; a block is still one of 16 tokens."""
    config = {
        "model_type": "mistral",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_hidden_layers": 32,
        "sliding_window": 4096,
        "vocab_size": 32000,
        "max_position_embeddings": 32768,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    machine = get_hardware("mistral-7b-v0.1", "a100-80gb", config=tmp_path)
    assert machine.block_size == 16
    assert machine.kv_capacity_tokens == 16 * (machine.num_gpu_blocks - 1)
    stable = plan(RequestMix([1.0], [8000], [1000]), machine, max_num_seqs=None).stability
    blocks = machine.law.blocks(np.arange(8000, 9000)).sum()
    assert stable.memory_limit == pytest.approx((machine.num_gpu_blocks - 1) / blocks, rel=0.01)


def gemma(place: Path, **changes: Any) -> Path:
    """Gemma 3 1B by its published dimensions."""
    config = {
        "model_type": "gemma3_text",
        "hidden_size": 1152,
        "intermediate_size": 6912,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "num_hidden_layers": 26,
        "sliding_window": 512,
        "vocab_size": 262144,
        "torch_dtype": "bfloat16",
        "max_position_embeddings": 32768,
    }
    (place / "config.json").write_text(json.dumps(config | changes))
    return place


def test_a_model_with_windows_is_planned_with_its_groups(tmp_path: Path) -> None:
    machine = get_hardware("gemma-3-1b", "l4", config=gemma(tmp_path))
    assert machine.kv_law is not None
    assert sorted(group.layers for group in machine.law.groups) == [3, 3, 4, 4, 4, 4, 4], "22 windows, 4 full layers"
    mix = RequestMix([1.0, 2.0], [300, 4000], [900, 400])
    made = plan(mix, machine)
    limits = Limits.of(machine)
    assert limits.law is machine.kv_law
    # By hand: the memory of one request over its life, block by block, against the pool.
    pool = machine.num_gpu_blocks - 1
    lives = [np.arange(prompt, prompt + output) for prompt, output in ((300, 900), (4000, 400))]
    blocks = np.array([machine.law.blocks(life).sum() for life in lives]) / np.array([900, 400])
    assert blocks[1] < 0.5 * 6 * 4200 / 16, "windows forget"
    assert made.stability.memory_limit == pytest.approx(
        pool / ((1.0 * 900 * blocks[0] + 2.0 * 400 * blocks[1]) / 3.0), rel=0.01
    )
    assert "groups" in dict(all_rows(made))["KV capacity"]


def test_hardware_files_keep_the_law(tmp_path: Path) -> None:
    machine = get_hardware("gemma-3-1b", "l4", config=gemma(tmp_path))
    write_hardware(machine, tmp_path / "hardware.json")
    assert read_hardware(tmp_path / "hardware.json").kv_law == machine.kv_law
    plain = get_hardware("llama-3.1-8b", "h100-80gb")
    write_hardware(plain, tmp_path / "hardware.json")
    assert read_hardware(tmp_path / "hardware.json").law == plain.law


@pytest.mark.parametrize(
    ("kv_cache", "message"),
    [
        ({"groups": []}, "'groups' is empty"),
        ({"groups": [{"kind": "wide", "layers": 1, "block_size": 16}]}, "'kind' = 'wide' is not one of"),
        ({"groups": [{"kind": "sliding", "layers": 1, "block_size": 16}]}, "'reach' belongs to sliding"),
        ({"groups": [{"kind": "full", "layers": 1, "block_size": 16, "reach": 9}]}, "'reach' belongs to sliding"),
        ({"groups": [{"kind": "full", "layers": 1, "block_size": 32}]}, "blocks of 32 tokens; give the same"),
        ({"groups": [{"kind": "full", "layers": 0, "block_size": 16}]}, "'layers' = 0 must be at least 1"),
    ],
)
def test_a_law_in_a_file_that_cannot_be(tmp_path: Path, kv_cache: dict[str, Any], message: str) -> None:
    file = tmp_path / "hardware.json"
    write_hardware(Hardware("machine", StepTime(0.01), 100), file)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"kv_cache": kv_cache}))
    with pytest.raises(InputError) as refusal:
        read_hardware(file)
    assert str(refusal.value).startswith(str(file))
    assert message in str(refusal.value)


def test_a_cache_of_8_bits_holds_twice_the_tokens() -> None:
    """`--kv-cache-dtype fp8`: half the bytes a token, and half the time to read them."""
    wide, narrow = (get_hardware("llama-3.1-8b", "h100-80gb", kv_cache_dtype=dtype) for dtype in ("auto", "fp8"))
    assert narrow.num_gpu_blocks == pytest.approx(2 * wide.num_gpu_blocks, abs=1)
    assert narrow.step_time.c_kv == pytest.approx(0.5 * wide.step_time.c_kv)
    assert str(narrow.law.dtype) == "fp8, as asked"
    with pytest.raises(InputError, match="kv_cache_dtype = 'fp7' is not one of auto, bfloat16"):
        get_hardware("llama-3.1-8b", "h100-80gb", kv_cache_dtype="fp7")


def test_stages_of_a_pipeline_divide_layers_and_weights() -> None:
    shape, gpu = find_model("llama-3.1-70b"), find_gpu("h100-80gb")
    four, two = (estimate_hardware(shape, gpu, Serving(tp=tp, pp=pp)) for tp, pp in ((4, 1), (2, 2)))
    assert two.num_gpu_blocks == four.num_gpu_blocks, "the same share of weights and of KV on each of four GPUs"
    assert "each GPU idles 50% of a step" in two.source
    assert two.step_time.c0 > four.step_time.c0


def test_tokens_of_several_groups_are_what_the_server_logs(tmp_path: Path) -> None:
    """And the plan prints them again, to be compared with the log."""
    machine = get_hardware("gemma-3-1b", "l4", config=gemma(tmp_path), kv_cache_tokens=100_000)
    assert machine.law.size_tokens(machine.num_gpu_blocks, 32768, 2 * 2048) == pytest.approx(100_000, abs=50)
    rows = dict(all_rows(plan(RequestMix([1.0], [300], [900]), machine)))
    assert "as vLLM logs it, 100,0" in rows["KV capacity"]


def test_a_multimodal_checkpoint_needs_the_bytes_of_its_other_parts(tmp_path: Path) -> None:
    text = json.loads((gemma(tmp_path) / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": text}))
    with pytest.raises(InputError, match="marks a multimodal model, whose other parts are not counted"):
        read_model_config(tmp_path)
    index = {"metadata": {"total_size": 2_100_000_000}, "weight_map": {}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert read_model_config(tmp_path).weight_bytes == 2_100_000_000


def test_a_gpu_of_another_size_holds_what_its_memory_says(tmp_path: Path) -> None:
    """(share·memory − weights − reserve) / bytes of a block, by hand."""
    shape = read_model_config(gemma(tmp_path))
    machine = estimate_hardware(shape, Gpu("own", 10.0, 500, 50, "own"), Serving(gpu_memory_utilization=0.5))
    left = 0.5 * 10 * 2**30 - shape.weight_bytes - 2 * 2**30
    assert machine.num_gpu_blocks == left // (4 * 16 * 2 * 256 * 2)


def test_a_decode_reads_its_windows_whatever_its_context(tmp_path: Path) -> None:
    """22 layers read 512 tokens at most, 4 read all: two vectors of 256 elements in 16 bits each."""
    step = estimate_hardware(read_model_config(gemma(tmp_path)), find_gpu("l4")).step_time
    bytes_per_s = find_gpu("l4").hbm_gb_per_s * 1e9 * 0.95
    assert step.c_kv == pytest.approx(4 * 2 * 256 * 2 / bytes_per_s)
    assert step.c_seq == pytest.approx(10e-6 + 22 * 512 * 2 * 256 * 2 / bytes_per_s)
