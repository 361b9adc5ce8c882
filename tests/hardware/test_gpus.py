"""GPU names, and the KV blocks a model leaves room for."""

import math
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluidgate.errors import InputError
from fluidgate.hardware import (
    Serving,
    estimate_hardware,
    find_gpu,
    find_model,
    get_hardware,
    gpu_names,
    gpus,
    kv_blocks,
)

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


def test_an_unknown_gpu_is_refused_with_all_names_and_the_way_to_give_another() -> None:
    with pytest.raises(InputError, match=r"unknown GPU 'h300'\. Known: a10, .*data sheet: --gpu-memory-gib"):
        find_gpu("h300")
    with pytest.raises(InputError, match=r"unknown GPU 'h100-pci'; did you mean h100-pcie\?"):
        find_gpu("h100-pci")


@pytest.mark.parametrize("name", ["H21", "H2000", "RTX 3091", "MI301X", "A1000"])
def test_another_product_is_no_misspelling(name: str) -> None:
    """An H20 has a seventh of an H200's throughput: a hint from one to the other would be a wrong number."""
    with pytest.raises(InputError) as refusal:
        find_gpu(name)
    assert "did you mean" not in str(refusal.value)


AS_TOOLS_PRINT_THEM = {
    "NVIDIA H100 80GB HBM3": ("h100-80gb", 3350),
    "NVIDIA H100 PCIe": ("h100-pcie", 2039),
    "NVIDIA H100 NVL": ("h100-nvl", 3938),
    "NVIDIA A100-SXM4-80GB": ("a100-80gb", 2039),
    "NVIDIA A100 80GB PCIe": ("a100-80gb-pcie", 1935),
    "NVIDIA A100-PCIE-40GB": ("a100-40gb", 1555),
    "NVIDIA H20": ("h20", 4000),
    "NVIDIA H20-3e": ("h20-141gb", 4800),
    "NVIDIA L4": ("l4", 300),
    "NVIDIA A10G": ("a10g", 600),
    "NVIDIA A10": ("a10", 600),
    "NVIDIA A30": ("a30", 933),
    "NVIDIA L40S": ("l40s", 864),
    "NVIDIA L40": ("l40", 864),
    "Tesla T4": ("t4", 320),
    "NVIDIA GeForce RTX 3090": ("rtx-3090", 936),
    "NVIDIA GeForce RTX 4090": ("rtx-4090", 1008),
    "NVIDIA GeForce RTX 5090": ("rtx-5090", 1792),
    "NVIDIA RTX A6000": ("a6000", 768),
    "NVIDIA B200": ("b200", 7700),
    "NVIDIA GB200": ("gb200", 8000),
    "NVIDIA GH200 480GB": ("gh200-96gb", 4000),
    "AMD Instinct MI300X": ("mi300x", 5300),
    "tpu-v6e": ("tpu-v6e", 1640),
    "NVIDIA A800-SXM4-80GB": ("a800", 2039),
    "NVIDIA H800": ("h800", 3350),
    "Gaudi3": ("gaudi3", 3700),
    "NVIDIA RTX 6000 Ada Generation": ("rtx-6000-ada", 960),
    "NVIDIA GB10": ("gb10", 273),
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": ("rtx-pro-6000", 1792),
    "H100_SXM": ("h100-80gb", 3350),
    "h100_pcie": ("h100-pcie", 2039),
    "NVIDIA H200": ("h200", 4800),
    "NVIDIA H200 NVL": ("h200-nvl", 4800),
    "a100_pcie": ("a100-80gb-pcie", 1935),
    "NVIDIA L40S-48Q": ("l40s", 864),
}


@pytest.mark.parametrize(("printed", "name", "gb_per_s"), [(p, *gpu) for p, gpu in AS_TOOLS_PRINT_THEM.items()])
def test_gpus_are_known_as_their_tools_print_them(printed: str, name: str, gb_per_s: float) -> None:
    gpu = find_gpu(printed)
    assert (gpu.name, gpu.hbm_gb_per_s) == (name, gb_per_s)


def test_no_spelling_is_of_two_gpus() -> None:
    spellings = [simple for name, (_, aliases) in gpus._gpus().items() for simple in (name, *aliases)]
    assert len(spellings) == len(set(spellings))


def test_a_data_sheet_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text('{"name": "mine", "memory_mib": 98304, "hbm_gb_per_s": 1200, "bf16_tflops": 200}')
    gpu = find_gpu(str(file))
    assert (gpu.name, gpu.memory_gib, gpu.hbm_gb_per_s, gpu.bf16_tflops) == ("mine", 96, 1200, 200)
    assert gpu.source == str(file)
    assert get_hardware("llama-3.1-8b", gpu).name == "llama-3.1-8b on mine (estimate)"


@pytest.mark.parametrize(
    ("sheet", "message"),
    [
        ('{"name": "mine", "memory_mib": 98304, "hbm_gb_per_s": 1200}', "'bf16_tflops' is missing"),
        ('{"name": "mine", "memory_gib": 96, "hbm_gb_per_s": 1, "bf16_tflops": 2}', "'memory_gib' is not a known key"),
        ('{"name": "mine", "memory_mib": 96, "hbm_gb_per_s": 9, "bf16_tflops": 2}', "GPU memory = 0.09375 must be"),
        ('{"name": "mine", "memory_mib": 98304, "hbm_gb_per_s": 0, "bf16_tflops": 2}', "GPU bandwidth = 0.0 must be"),
        ("[]", "holds a JSON list"),
    ],
)
def test_a_data_sheet_that_cannot_be_is_refused(tmp_path: Path, sheet: str, message: str) -> None:
    file = tmp_path / "mine.json"
    file.write_text(sheet)
    with pytest.raises(InputError) as refusal:
        find_gpu(str(file))
    assert message in str(refusal.value)
    assert str(file) in str(refusal.value)


def test_tokens_taken_for_blocks_are_found_out() -> None:
    """vLLM logs 432,992 tokens for Llama-3.1-8B on an A100; as blocks of 16 tokens they would be 846 GiB."""
    with pytest.raises(InputError, match=r"432,992 KV blocks .* take 846 GiB .* has 80; .* --kv-cache-tokens 432992"):
        get_hardware("llama-3.1-8b", "a100-80gb", num_gpu_blocks=432_992)
    with pytest.raises(InputError, match="take 846 GiB"):
        estimate_hardware(LLAMA, A100, Serving(num_gpu_blocks=432_992))
    assert get_hardware("llama-3.1-8b", "a100-80gb", kv_cache_tokens=432_992).num_gpu_blocks == 27_062


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_gpu_blocks": 100, "kv_cache_tokens": 1600}, "given twice"),
        ({"kv_cache_tokens": 31}, "kv_cache_tokens = 31 does not hold two blocks of 16"),
    ],
)
def test_a_kv_cache_that_cannot_be_is_refused(given: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        get_hardware("llama-3.1-8b", "a100-80gb", **given)


def test_data_sheets_are_whole() -> None:
    for gpu in map(find_gpu, gpu_names()):
        assert min(gpu.memory_gib, gpu.hbm_gb_per_s, gpu.bf16_tflops) > 0
        assert gpu.source


def test_llama_2_7b_on_an_a100_by_hand() -> None:
    # 0.9 · 80 GiB − 6,738,415,616 · 2 B − 2 GiB, in blocks of 16 · 524,288 B.
    left_bytes = 72 * 2**30 - 13_476_831_232 - 2 * 2**30
    blocks = kv_blocks(find_model("llama-2-7b"), A100, gpu_memory_utilization=0.9)
    assert blocks == left_bytes // (16 * 524_288)
    assert 115_000 < 16 * blocks < 120_000


def test_vllms_own_share_of_the_memory_is_the_default() -> None:
    """(0.92 · 22.494 − 14.958 − 2) GiB over blocks of 2 MiB is 1,913.4 for Llama-3.1-8B on an L4; 0.9 leaves 1,683."""
    assert kv_blocks(LLAMA, find_gpu("l4")) == 1913
    assert kv_blocks(LLAMA, find_gpu("l4"), gpu_memory_utilization=0.9) == 1683


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
        InputError, match=r"llama-3.1-70b does not fit on 1 × a100-80gb: of 73.6 GiB .* weights take 131.4"
    ):
        kv_blocks(find_model("llama-3.1-70b"), A100)
    with pytest.raises(InputError, match="block_size = 0"):
        kv_blocks(LLAMA, A100, block_size=0)
    with pytest.raises(InputError, match="mixture of experts"):
        kv_blocks(find_model("qwen3-30b-a3b"), A100)
