"""GPU data sheets, and how many KV blocks a model leaves room for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fluidgate.errors import InputError
from fluidgate.hardware._names import resolve, simple_gpu_name
from fluidgate.hardware.model_config import ModelShape

GIB = 2**30
DEFAULT_MEMORY_UTILIZATION = 0.9
DEFAULT_RESERVE_GIB = 2.0


@dataclass(frozen=True)
class Gpu:
    """What a data sheet says of a GPU.

    Attributes:
        name: what fluidgate calls it.
        memory_gib: memory the driver shows, GiB.
        hbm_gb_per_s: memory bandwidth, 10⁹ bytes per second.
        bf16_tflops: dense bfloat16 tensor throughput, 10¹² operations per second.
        source: where the numbers come from.
    """

    name: str
    memory_gib: float
    hbm_gb_per_s: float
    bf16_tflops: float
    source: str


_AIC = "aiconfigurator-core 0.12 system file {}.yaml; memory as nvidia-smi shows it"
_SHEET = "NVIDIA data sheet of the {}; memory as nvidia-smi shows it"
_GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("a100-80gb", 81920 / 1024, 2039, 312, _AIC.format("a100_sxm")),
        Gpu("a100-40gb", 40960 / 1024, 1555, 312, _SHEET.format("A100 40GB")),
        Gpu("h100-80gb", 81559 / 1024, 3350, 989, _AIC.format("h100_sxm")),
        Gpu("h200", 143771 / 1024, 4800, 989, _AIC.format("h200_sxm")),
        Gpu("b200", 183359 / 1024, 7700, 2250, _AIC.format("b200_sxm")),
        Gpu("l40s", 46068 / 1024, 864, 362, _AIC.format("l40s")),
        Gpu(
            "rtx-4090",
            24564 / 1024,
            1008,
            165,
            _SHEET.format("RTX 4090 (Ada architecture paper, FP32 accumulation)"),
        ),
        Gpu("rtx-pro-6000", 97887 / 1024, 1792, 468, _AIC.format("rtx_pro_6000_server")),
        Gpu("l4", 23034 / 1024, 300, 121, _AIC.format("l4")),
        Gpu("a10g", 23028 / 1024, 600, 70, _SHEET.format("A10G")),
    )
}
_ALIASES = {
    "a100": "a100-80gb",
    "a100-sxm": "a100-80gb",
    "a100-sxm4-80gb": "a100-80gb",
    "a100-sxm4-40gb": "a100-40gb",
    "h100": "h100-80gb",
    "h100-sxm": "h100-80gb",
    "h100-80gb-hbm3": "h100-80gb",
    "h200-sxm": "h200",
    "b200-sxm": "b200",
    "rtx4090": "rtx-4090",
    "4090": "rtx-4090",
    "geforce-rtx-4090": "rtx-4090",
    "rtx-pro-6000-server": "rtx-pro-6000",
}


def gpu_names() -> list[str]:
    """The GPUs with a data sheet."""
    return list(_GPUS)


def canonical_gpu_name(name: str) -> str:
    """One spelling per GPU: `A100_SXM` → `a100-80gb`."""
    simple = simple_gpu_name(name)
    return _ALIASES.get(simple, simple)


def find_gpu(name: str) -> Gpu:
    """The GPU called `name` (`a100_sxm`, `A100-80GB`, `NVIDIA H200` …).

    Raises:
        InputError: no such GPU; names the nearest and all of them.
    """
    advice = "For any other GPU write a hardware file."
    return _GPUS[resolve("GPU", name, canonical_gpu_name(name), _GPUS, advice)]


def check_memory_utilization(gpu_memory_utilization: float) -> None:
    """Refuse a memory fraction outside (0, 1]."""
    if not (0 < gpu_memory_utilization <= 1):
        raise InputError(f"gpu_memory_utilization = {gpu_memory_utilization} must be above 0 and at most 1")


def kv_blocks(
    model: ModelShape,
    gpu: Gpu,
    *,
    block_size: int = 16,
    gpu_memory_utilization: float = DEFAULT_MEMORY_UTILIZATION,
    tp: int = 1,
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
        reserve_gib: memory per GPU for neither weights nor KV, GiB.

    Raises:
        InputError: a value out of range, or a model that does not fit.
    """
    check_memory_utilization(gpu_memory_utilization)
    if block_size < 1:
        raise InputError(f"block_size = {block_size} must be at least 1 token")
    if not (math.isfinite(reserve_gib) and reserve_gib >= 0):
        raise InputError(f"reserve_gib = {reserve_gib} must be a finite number of GiB, at least 0")
    block_bytes = block_size * model.kv_bytes_per_token_per_gpu(tp)
    usable_gib = gpu_memory_utilization * gpu.memory_gib
    weights_gib = model.weight_bytes / tp / GIB
    blocks = math.floor((usable_gib - weights_gib - reserve_gib) * GIB / block_bytes)
    if blocks < 2:
        raise InputError(
            f"{model.name} does not fit on {tp} × {gpu.name}: of {usable_gib:.1f} GiB usable per GPU, "
            f"weights take {weights_gib:.1f} and the reserve {reserve_gib:.1f}; use more GPUs (tp), a larger "
            "memory fraction or a smaller model"
        )
    return blocks
