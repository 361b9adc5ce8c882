"""GPU names, and the KV blocks a model leaves room for."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluidgate.errors import InputError
from fluidgate.hardware import find_gpu, find_model, gpu_names, kv_blocks

LLAMA = find_model("llama-3.1-8b")
A100 = find_gpu("a100-80gb")


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("a100_sxm", "a100-80gb"),
        ("A100-80GB", "a100-80gb"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("h100_sxm", "h100-80gb"),
        ("NVIDIA H200", "h200"),
        ("h200_sxm", "h200"),
        ("b200_sxm", "b200"),
        ("rtx_pro_6000_server", "rtx-pro-6000"),
        ("RTX 4090", "rtx-4090"),
    ],
)
def test_usual_spellings_find_the_gpu(spelling: str, name: str) -> None:
    assert find_gpu(spelling).name == name


def test_unknown_gpu_names_the_nearest_and_all() -> None:
    with pytest.raises(InputError, match=r"unknown GPU 'h300'; did you mean h200\? Known: a100-80gb"):
        find_gpu("h300")


def test_data_sheets_are_whole() -> None:
    for gpu in map(find_gpu, gpu_names()):
        assert min(gpu.memory_gib, gpu.hbm_gb_per_s, gpu.bf16_tflops) > 0
        assert gpu.source


def test_llama_2_7b_on_an_a100_by_hand() -> None:
    # 0.9 · 80 GiB − 6,738,415,616 · 2 B − 2 GiB, in blocks of 16 · 524,288 B.
    left_bytes = 72 * 2**30 - 13_476_831_232 - 2 * 2**30
    assert kv_blocks(find_model("llama-2-7b"), A100) == left_bytes // (16 * 524_288)
    assert 115_000 < 16 * kv_blocks(find_model("llama-2-7b"), A100) < 120_000


def test_a_measured_vllm_run_lies_within_ten_percent() -> None:
    # vLLM logged 2,588 blocks of 16 for Llama-3.1-8B on an RTX 4090.
    assert kv_blocks(LLAMA, find_gpu("rtx-4090")) == pytest.approx(2588, rel=0.1)


def test_more_memory_never_means_fewer_blocks() -> None:
    fractions = [0.4 + 0.01 * i for i in range(61)]
    blocks = [kv_blocks(LLAMA, A100, gpu_memory_utilization=min(f, 1.0)) for f in fractions]
    assert all(b > a for a, b in pairwise(blocks))


@given(st.floats(0.3, 1.0), st.floats(0.0, 5.0), st.sampled_from([1, 2, 4, 8]), st.integers(1, 256))
def test_blocks_use_the_memory_and_no_more(util: float, reserve: float, tp: int, block_size: int) -> None:
    blocks = kv_blocks(LLAMA, A100, block_size=block_size, gpu_memory_utilization=util, tp=tp, reserve_gib=reserve)
    block_bytes = block_size * 131_072 // tp
    left_bytes = (util * 80 - reserve) * 2**30 - 16_060_522_496 / tp
    assert blocks * block_bytes <= left_bytes + 1
    assert (blocks + 1) * block_bytes > left_bytes - 1


@given(st.floats(0.35, 0.99), st.floats(0.0, 4.0))
def test_blocks_grow_with_memory_and_gpus_and_shrink_with_the_reserve(util: float, reserve: float) -> None:
    base = kv_blocks(LLAMA, A100, gpu_memory_utilization=util, reserve_gib=reserve)
    assert kv_blocks(LLAMA, A100, gpu_memory_utilization=util + 0.01, reserve_gib=reserve) > base
    assert kv_blocks(LLAMA, A100, gpu_memory_utilization=util, reserve_gib=reserve + 1) < base
    assert kv_blocks(LLAMA, A100, gpu_memory_utilization=util, reserve_gib=reserve, tp=2) > base


@pytest.mark.parametrize("util", [0.0, -0.5, 1.01, math.nan, math.inf])
def test_impossible_memory_fractions(util: float) -> None:
    with pytest.raises(InputError, match="gpu_memory_utilization = "):
        kv_blocks(LLAMA, A100, gpu_memory_utilization=util)


@pytest.mark.parametrize("reserve", [-1.0, math.nan, math.inf])
def test_impossible_reserves(reserve: float) -> None:
    with pytest.raises(InputError, match="reserve_gib = "):
        kv_blocks(LLAMA, A100, reserve_gib=reserve)


def test_a_model_that_does_not_fit_says_what_takes_the_memory() -> None:
    with pytest.raises(
        InputError, match=r"llama-3.1-70b does not fit on 1 × a100-80gb: of 72.0 GiB .* weights take 131.4"
    ):
        kv_blocks(find_model("llama-3.1-70b"), A100)
    with pytest.raises(InputError, match="block_size = 0"):
        kv_blocks(LLAMA, A100, block_size=0)
    with pytest.raises(InputError, match="mixture of experts"):
        kv_blocks(find_model("qwen3-30b-a3b"), A100)
