"""Grids from aiconfigurator: that they say what it says, which names they take, and what is refused."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from fluidgate.calibration import QueriedHardware, ServerLimits, Spread, query_aiconfigurator
from fluidgate.calibration.aiconfigurator import PREFILL_FACTOR
from fluidgate.errors import InputError
from fluidgate.fluid import plan
from fluidgate.workload import generate

core = pytest.importorskip("aiconfigurator_core", reason="needs aiconfigurator-core: pip install 'fluidgate[hardware]'")
SMALL = ServerLimits(max_num_seqs=128, max_num_batched_tokens=2048, max_model_len=16384)


@pytest.fixture(scope="module")
def mixture() -> QueriedHardware:
    """A mixture of experts, whose step time no four terms describe."""
    return query_aiconfigurator("qwen3-30b-a3b", "h100-80gb", limits=SMALL)


def test_it_says_what_aiconfigurator_says(mixture: QueriedHardware) -> None:
    """Asked directly, at places between the knots; a server's steps with a prefill take 6% more."""
    handle = core.sdk.EngineHandle.compile(
        "Qwen/Qwen3-30B-A3B", "h100_sxm", "vllm", tp_size=1, moe_tp_size=1, moe_ep_size=1
    )
    grid = mixture.hardware.grid
    assert grid is not None
    for n, context in ((3, 777), (37, 901), (93, 333)):
        asked_s = handle.decode_step_latency(n, context - 1, 2) / 1e3
        assert grid.tables_s(n, n * context, 0, 0) == pytest.approx(asked_s, rel=0.01)
    for prompts, length in ((1, 1501), (3, 450)):
        asked_s = handle.predict_prefill_latency(prompts, length) / 1e3
        pairs = prompts * length * (length + 1) / 2
        assert grid.tables_s(0, 0, prompts * length, pairs) == pytest.approx(PREFILL_FACTOR * asked_s, rel=0.02)
    asked_s = handle.mixed_step_latency(600, 50, 600, 2) / 1e3
    assert grid.tables_s(50, 50 * 601, 600, 600 * 601 / 2) == pytest.approx(PREFILL_FACTOR * asked_s, rel=0.02)


def test_what_the_host_does_per_request_is_added_and_told(mixture: QueriedHardware) -> None:
    hardware, points = mixture.hardware, mixture.points
    grid = hardware.grid
    assert grid is not None
    assert grid.sequence_s == hardware.step_time.c_seq == 10e-6
    told = "the GPUs' time, steps with a prefill × 1.06, and 10 µs per scheduled request, assumed"
    assert told in hardware.source
    step = (37, 37 * 901, 600, 600 * 601 / 2)
    assert grid.duration_s(*step, 2) == pytest.approx(grid.tables_s(*step) + 39 * 10e-6, rel=1e-12)
    decodes = points.kind == "decode"
    assert np.array_equal(points.sequences[decodes], points.tokens[decodes])
    assert np.all(points.sequences[points.kind == "chunk"] == 1)


def test_the_error_between_the_knots_is_small_and_told(mixture: QueriedHardware) -> None:
    kinds, error = mixture.points.kind, mixture.interpolation_error
    assert {kind: int((kinds == kind).sum()) for kind in kinds} == dict.fromkeys(
        ("decode", "prefill", "chunk", "mixed"), 100
    )
    assert error.mean() < 0.01
    assert error.max() < 0.1
    assert mixture.points.kv_tokens.max() <= mixture.hardware.num_gpu_blocks * 16
    assert mixture.hardware.relative_error > 0.1  # four terms would not do


def test_the_kv_capacity_and_the_decodes_are_those_of_an_earlier_query(
    mixture: QueriedHardware, shared_dir: Path
) -> None:
    grids = json.loads((shared_dir / "hardware" / "latency_grids.json").read_text())["grids"]
    earlier = next(g for g in grids if (g["model"], g["system"]) == ("Qwen/Qwen3-30B-A3B", "h100_sxm"))
    large = query_aiconfigurator(
        "qwen3-30b-a3b", "h100", limits=ServerLimits(max_model_len=16384, gpu_memory_utilization=0.9)
    ).hardware
    assert large.num_gpu_blocks == earlier["kv_capacity_tokens"] // 16
    assert mixture.hardware.num_gpu_blocks > large.num_gpu_blocks  # smaller batches take less memory
    contexts = np.array(earlier["decode"]["ctx"])
    grid = mixture.hardware.grid
    assert grid is not None
    for n, row in zip(earlier["decode"]["bs"], earlier["decode"]["ms"], strict=True):
        met = contexts < 16384
        if n <= 128:
            found_ms = 1e3 * grid.tables_s(n, n * (contexts[met] + 1), 0, 0)
            assert found_ms == pytest.approx(np.array(row)[met], rel=0.02)


def test_tensor_parallel_experts_and_whole_experts_differ() -> None:
    sliced, whole = (
        query_aiconfigurator("qwen3-30b-a3b", "h100", spread=Spread(tp=2, expert_parallel=whole), limits=SMALL).hardware
        for whole in (False, True)
    )
    assert sliced.grid != whole.grid
    assert "moe_tp_size 2, moe_ep_size 1" in sliced.source
    assert "moe_tp_size 1, moe_ep_size 2" in whole.source
    assert sliced.name == "qwen3-30b-a3b on 2 × h100-80gb (vllm)"


def test_a_folder_with_a_config_is_a_model(tmp_path: Path, mixture: QueriedHardware) -> None:
    bundled = Path(core.__file__).parent / "model_configs" / "Qwen--Qwen3-30B-A3B_config.json"
    shutil.copy(bundled, tmp_path / "config.json")
    found = query_aiconfigurator(str(tmp_path), "h100", limits=SMALL, num_gpu_blocks=500).hardware
    assert found.grid == mixture.hardware.grid
    assert found.num_gpu_blocks == 500
    assert "num_gpu_blocks as given" in found.source


def test_contexts_of_decodes_count_beside_a_prefill_where_attention_is_booked_with_the_rest() -> None:
    """DeepSeek-V3: a prompt token more never makes a step shorter, and longer contexts make it longer."""
    spread = Spread(tp=8, expert_parallel=True)
    grid = query_aiconfigurator("deepseek-v3", "h200", spread=spread, limits=SMALL).hardware.grid
    assert grid is not None
    for decodes, context in ((8, 16000), (64, 4000), (128, 1000)):
        alone, beside = grid.tables_s(decodes, decodes * context, [0, 1], [0, 1])
        assert beside >= alone
        short, long = grid.tables_s(decodes, [decodes * 10, decodes * context], 512, 512 * 513 / 2)
        added = np.diff(grid.tables_s(decodes, [decodes * 10, decodes * context], 0, 0)).item()
        assert long - short == pytest.approx(added, rel=0.2)


def test_8_bit_weights_do_not_make_an_8_bit_cache() -> None:
    """DeepSeek-V3 under vLLM: 61 layers of 576 elements in 16 bits a token. With 8 bits there were 70,438 blocks."""
    limits = ServerLimits(max_num_seqs=512, max_model_len=32768, gpu_memory_utilization=0.9)
    wide, narrow = (
        query_aiconfigurator(
            "deepseek-v3", "h200", spread=Spread(tp=8, expert_parallel=True, kv_cache_dtype=dtype), limits=limits
        ).hardware
        for dtype in ("auto", "fp8")
    )
    assert (wide.num_gpu_blocks, narrow.num_gpu_blocks) == (35219, 70438)
    assert str(wide.law.dtype) == "bfloat16, the model's dtype"
    traffic = generate("azure-conv-2023", n=4000, seed=0, rate=8.0)
    assert plan(traffic, wide, max_num_seqs=512, max_num_batched_tokens=8192).stability.binding == "memory"
    stated = query_aiconfigurator("nvidia/Llama-3.1-70B-Instruct-FP8", "h100", spread=Spread(tp=4), limits=SMALL)
    assert str(stated.hardware.law.dtype) == "fp8, by the checkpoint's KV scheme (modelopt)"


def test_blocks_of_windows_are_counted_by_group() -> None:
    """gpt-oss-120b on an H200: 70.6 GB over blocks of 18 layers, 2,048 bytes a token and layer."""
    limits = ServerLimits(max_num_seqs=256, max_model_len=32768, gpu_memory_utilization=0.9)
    machine = query_aiconfigurator("gpt-oss-120b", "h200", limits=limits).hardware
    assert machine.law.bytes_per_block == 16 * 18 * 2048
    assert machine.num_gpu_blocks == pytest.approx(119_691, rel=0.001)
    assert int(machine.law.blocks(258)) == 26


def test_a_slower_link_costs_what_the_activations_take() -> None:
    """Qwen3-32B on two GPUs: 64 layers × 2 × 5,120 × 2 bytes a token, over 16 instead of 64 GB/s."""
    limits = ServerLimits(max_num_seqs=64, max_num_batched_tokens=1024, max_model_len=4096)
    fast, slow = (
        query_aiconfigurator("qwen3-32b", "rtx-pro-6000", spread=Spread(tp=2, link_gb_per_s=link), limits=limits)
        for link in (None, 16.0)
    )
    token_s = 64 * 2 * 5120 * 2 * (1 / 16e9 - 1 / 64e9)
    for step in ((32, 32 * 500, 0, 0), (0, 0, 512, 512 * 513 / 2)):
        one, other = (machine.hardware.grid.tables_s(*step).item() for machine in (fast, slow))  # type: ignore[union-attr]
        assert other - one == pytest.approx((step[0] + step[2]) * token_s)


def test_a_grid_comes_with_the_limits_that_the_server_sets_by_itself() -> None:
    """vLLM's on an H100 are 1,024 seats and 8,192 tokens; a grid that reaches less far leaves them unknown."""
    whole = query_aiconfigurator("qwen3-30b-a3b", "h100", limits=ServerLimits(max_model_len=8192)).hardware.server
    assert (whole.max_num_seqs, whole.max_num_batched_tokens, whole.max_model_len) == (1024, 8192, 40960)
    small = query_aiconfigurator("qwen3-30b-a3b", "h100", limits=SMALL).hardware.server
    assert (small.max_num_seqs, small.max_num_batched_tokens) == (None, None)


def test_replicas_of_attention_and_precision_are_options() -> None:
    rank = query_aiconfigurator(
        "deepseek-v3",
        "h200",
        spread=Spread(attention_dp=8, expert_parallel=True),
        limits=SMALL,
        engine_version="0.24.0",
    ).hardware
    assert "one of 8 data-parallel replicas" in rank.source
    assert "vllm 0.24.0" in rank.source
    whole, half = (
        query_aiconfigurator("qwen3-32b", "h100", spread=Spread(precision=precision), limits=SMALL).hardware
        for precision in ("auto", "fp8")
    )
    assert half.num_gpu_blocks > whole.num_gpu_blocks, "smaller weights"
    with pytest.raises(InputError, match=r"has not measured vllm 0.1 on h100_sxm; it has 0.24.0, 0.27.0"):
        query_aiconfigurator("qwen3-32b", "h100", engine_version="0.1", limits=SMALL)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("llama-9", "h100"), "unknown model 'llama-9'; did you mean"),
        (("llama-3.1-8b", "rtx-4090"), "unknown GPU 'rtx-4090'"),
        (("llama-3.1-405b", "a100"), "cannot tell the step times of llama-3.1-405b on a100-80gb"),
    ],
)
def test_what_it_does_not_know_is_refused(arguments: tuple[str, str], named: str) -> None:
    with pytest.raises(InputError, match=named):
        query_aiconfigurator(*arguments, limits=SMALL)


def test_other_refusals() -> None:
    with pytest.raises(InputError, match="has not measured 'tgi' on h100_sxm; it has sglang, trtllm, vllm"):
        query_aiconfigurator("llama-3.1-8b", "h100", engine="tgi", limits=SMALL)
    with pytest.raises(InputError, match=r"llama-3\.1-8b on 3 × h100-80gb: .*tp_size 3"):
        query_aiconfigurator("llama-3.1-8b", "h100", spread=Spread(tp=3), limits=SMALL)
    with pytest.raises(InputError, match="max_num_seqs = 1 must be at least 2"):
        ServerLimits(max_num_seqs=1)
    with pytest.raises(InputError, match=r"max_model_len = 99999999999 must be .* at most 16,777,216"):
        ServerLimits(max_model_len=99999999999)
    for given in (0, -5, 1):
        with pytest.raises(InputError, match=f"num_gpu_blocks = {given} must be a whole number, at least 2"):
            query_aiconfigurator("llama-3.1-8b", "h100", limits=SMALL, num_gpu_blocks=given)
    with pytest.raises(InputError, match=r"a KV memory of 32 tokens .* give more KV blocks"):
        query_aiconfigurator("llama-3.1-8b", "h100", limits=SMALL, num_gpu_blocks=2)
    with pytest.raises(InputError, match="KV blocks of 16 tokens take 1,953 GiB on each GPU, and h100-80gb has 80"):
        query_aiconfigurator("llama-3.1-8b", "h100", limits=SMALL, num_gpu_blocks=1_000_000)
    with pytest.raises(InputError, match="precision = 'int3' is not one of auto, bfloat16, "):
        query_aiconfigurator("llama-3.1-8b", "h100", limits=SMALL, spread=Spread(precision="int3"))
    with pytest.raises(InputError, match="the link between GPUs counts where tensor parallelism"):
        Spread(attention_dp=2, link_gb_per_s=16.0)
    with pytest.raises(InputError, match=r"gpu_memory_utilization = 1.5 must be"):
        ServerLimits(gpu_memory_utilization=1.5)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", r"config\.json:1: is not JSON"),
        ("[1]", r"config\.json: holds a JSON list, not an object"),
        ('{"num_attention_heads": 32}', r"config\.json: 'architectures' is missing"),
        ('{"num_attention_heads": 0}', r"config\.json: 'num_attention_heads' = 0 must be at least 1"),
    ],
)
def test_a_broken_config_is_named(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=named):
        query_aiconfigurator(str(tmp_path), "h100", limits=SMALL)


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiconfigurator_core", None)
    with pytest.raises(InputError, match=r"pip install 'fluidgate\[hardware\]'"):
        query_aiconfigurator("llama-3.1-8b", "h100", limits=SMALL)
