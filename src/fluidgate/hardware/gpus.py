"""GPU data sheets, and how many KV blocks a model leaves room for."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fluidgate.bounds import MAX_COUNT, check_name, check_number
from fluidgate.errors import InputError
from fluidgate.hardware._names import resolve, simple_gpu_name
from fluidgate.hardware.kv_law import KvLaw
from fluidgate.hardware.model_config import ModelShape
from fluidgate.jsonfile import JsonObject, read_object
from fluidgate.words import shown

GIB = 2**30
DEFAULT_MEMORY_UTILIZATION = 0.92
"""vLLM's own, in all releases from 0.24 to 0.33 (vllm/config/cache.py)."""
DEFAULT_RESERVE_GIB = 2.0
LINK_EFFICIENCY = 0.5
"""Of a data sheet's link, what an all-reduce of activations gets. Those that aiconfigurator-core has measured, of 4 to
130 MB, get 0.4 to 0.65 of it over two H100 (NVLink), and 0.5 to 0.6 over two RTX PRO 6000 (PCIe)."""


@dataclass(frozen=True)
class Gpu:
    """What a data sheet says of a GPU.

    Attributes:
        name: what fluidgate calls it.
        memory_gib: memory the driver shows, GiB.
        hbm_gb_per_s: memory bandwidth, 10⁹ bytes per second.
        bf16_tflops: dense bfloat16 tensor throughput, 10¹² operations per second.
        source: where the numbers come from.
        fp8_tflops: the same for 8-bit floats; None: it multiplies none.
        link_gb_per_s: what an all-reduce really gets of the link to a server's other GPUs, 10⁹ bytes per second and
            direction, as nccl-tests print it (busbw); `LINK_EFFICIENCY` of what a data sheet states; None: not known.

    Raises:
        InputError: a number that no GPU has.
    """

    name: str
    memory_gib: float
    hbm_gb_per_s: float
    bf16_tflops: float
    source: str
    link_gb_per_s: float | None = None
    fp8_tflops: float | None = None

    def __post_init__(self) -> None:
        check_name("GPU name", self.name)
        check_number("GPU memory", self.memory_gib, 1, 10_000, "GiB")
        check_number("GPU bandwidth", self.hbm_gb_per_s, 1, 1e6, "GB/s")
        check_number("GPU throughput", self.bf16_tflops, 0.1, 1e6, "TFLOP/s")
        if self.link_gb_per_s is not None:
            check_number("GPU link", self.link_gb_per_s, 0.1, 1e5, "GB/s")
        if self.fp8_tflops is not None:
            check_number("GPU throughput in 8 bits", self.fp8_tflops, 0.1, 1e6, "TFLOP/s")

    def tflops(self, in_8_bits: bool) -> float:
        """Dense tensor throughput for matrices of 16 or of 8 bits, 10¹² operations per second."""
        return self.fp8_tflops or self.bf16_tflops if in_8_bits else self.bf16_tflops


_FILE = Path(__file__).with_name("gpus.json")
_KEYS = ("name", "memory_mib", "hbm_gb_per_s", "bf16_tflops", "fp8_tflops", "link_gb_per_s", "source")


def gpu_names() -> list[str]:
    """The GPUs with a built-in data sheet."""
    return list(_gpus())


def canonical_gpu_name(name: str) -> str:
    """One spelling per GPU: `A100_SXM` → `a100-80gb`."""
    simple = simple_gpu_name(name)
    return next((gpu for gpu, (_, aliases) in _gpus().items() if simple in aliases), simple)


def find_gpu(name: str) -> Gpu:
    """The GPU called `name` (`a100_sxm`, `A100-80GB`, `NVIDIA H200` …), or the data sheet in the file of that name.

    Raises:
        InputError: no such GPU, or a file that is no data sheet; says how to give one.
    """
    if name.endswith(".json"):
        return read_gpu(name)
    advice = "For any other, give its data sheet: --gpu-memory-gib, --gpu-bandwidth and --gpu-tflops, or a JSON file."
    key = resolve("GPU", name, canonical_gpu_name(name), _gpus(), advice, may_hint=_is_same_number, likeness=0.75)
    return _gpus()[key][0]


def read_gpu(path: Path | str) -> Gpu:
    """The data sheet in a JSON file: `name`, `memory_mib`, `hbm_gb_per_s` and `bf16_tflops`; `fp8_tflops`,
    `link_gb_per_s` (for several GPUs, as the data sheet states it) and `source` are optional.

    Raises:
        InputError: no such file, or a key that is missing, unknown or malformed.
    """
    sheet = read_object(path, "a GPU's data sheet (JSON)")
    sheet.refuse_others(_KEYS)
    try:
        return _gpu(sheet, source=str(path))
    except InputError as problem:
        where = str(path)
        raise problem if where in str(problem) else InputError(f"{where}: {problem}") from None


@cache
def _gpus() -> dict[str, tuple[Gpu, frozenset[str]]]:
    """By name: the data sheet, and other spellings of the name."""
    sheets = read_object(_FILE, "the built-in data sheets").objects("gpus")
    return {sheet.text("name"): (_gpu(sheet), frozenset(sheet.values.get("aliases", ()))) for sheet in sheets}


def _gpu(sheet: JsonObject, source: str | None = None) -> Gpu:
    return Gpu(
        name=sheet.text("name"),
        memory_gib=sheet.number("memory_mib") / 1024,
        hbm_gb_per_s=sheet.number("hbm_gb_per_s"),
        bf16_tflops=sheet.number("bf16_tflops"),
        source=sheet.text("source", default=source),
        link_gb_per_s=LINK_EFFICIENCY * sheet.number("link_gb_per_s") if sheet.has("link_gb_per_s") else None,
        fp8_tflops=sheet.number("fp8_tflops") if sheet.has("fp8_tflops") else None,
    )


def _is_same_number(name: str, other: str) -> bool:
    """Whether a name may be a misspelling of the other: an H20 is no H200 mistyped, but another product."""
    return re.findall(r"\d+", name) == re.findall(r"\d+", other)


def check_memory_utilization(gpu_memory_utilization: float) -> None:
    """Refuse a memory fraction outside (0, 1]."""
    if not (0 < gpu_memory_utilization <= 1):
        raise InputError(f"gpu_memory_utilization = {gpu_memory_utilization} must be above 0 and at most 1")


def check_kv_fits(law: KvLaw, gpu: Gpu, num_gpu_blocks: int) -> None:
    """Refuse more KV blocks than a GPU has memory: tokens may have been taken for blocks.

    Raises:
        InputError: they do not fit; says how many tokens would.
    """
    block_size = law.block_size
    if num_gpu_blocks > MAX_COUNT:
        raise InputError(f"num_gpu_blocks = {shown(num_gpu_blocks)} must be at most {MAX_COUNT:,}")
    held_gib = num_gpu_blocks * law.bytes_per_block / GIB
    if held_gib > gpu.memory_gib:
        raise InputError(
            f"{num_gpu_blocks:,} KV blocks of {block_size} tokens take {held_gib:,.0f} GiB on each GPU, and {gpu.name} "
            f"has {gpu.memory_gib:.0f}; if the server logs {num_gpu_blocks:,} tokens, that is "
            f"{num_gpu_blocks // block_size:,} blocks: give these, or --kv-cache-tokens {num_gpu_blocks}"
        )


def kv_blocks(
    model: ModelShape,
    gpu: Gpu,
    *,
    block_size: int = 16,
    gpu_memory_utilization: float = DEFAULT_MEMORY_UTILIZATION,
    tp: int = 1,
    pp: int = 1,
    kv_cache_dtype: str = "auto",
    reserve_gib: float = DEFAULT_RESERVE_GIB,
) -> int:
    """KV blocks that fit: floor((utilization·memory − weights − reserve) / block bytes), per GPU of `tp`.

    The reserve is what the engine holds besides weights and KV: activations of the largest step, CUDA
    context, graphs, communication buffers. The default of 2 GiB lies between the 1.6 GiB that a measured vLLM
    run implies (Llama-3.1-8B on an RTX 4090: 2,588 blocks, if at 0.9) and the 4.2 GiB that
    aiconfigurator-core sets aside. An engine logs its own number of blocks: prefer that.

    Args:
        model: dimensions of the model.
        gpu: data sheet.
        block_size: tokens per block.
        gpu_memory_utilization: fraction of the memory the engine may use, in (0, 1].
        tp: tensor-parallel GPUs; the blocks span all of them, as vLLM counts them.
        pp: stages of the pipeline; each holds its share of the layers.
        kv_cache_dtype: as vLLM's option of this name.
        reserve_gib: memory per GPU for neither weights nor KV, GiB.

    Raises:
        InputError: a value out of range, or a model that does not fit.
    """
    check_memory_utilization(gpu_memory_utilization)
    if not (math.isfinite(reserve_gib) and reserve_gib >= 0):
        raise InputError(f"reserve_gib = {reserve_gib} must be a finite number of GiB, at least 0")
    law = model.kv_law(block_size, tp, pp, kv_cache_dtype)
    usable_gib = gpu_memory_utilization * gpu.memory_gib
    weights_gib = model.weight_bytes / (tp * pp) / GIB
    blocks = math.floor((usable_gib - weights_gib - reserve_gib) * GIB / law.bytes_per_block)
    if blocks < 2:
        raise InputError(
            f"{model.name} does not fit on {tp * pp} × {gpu.name}: of {usable_gib:.1f} GiB usable per GPU, "
            f"weights take {weights_gib:.1f} and the reserve {reserve_gib:.1f}; use more GPUs (tp), a larger "
            "memory fraction or a smaller model"
        )
    return blocks
