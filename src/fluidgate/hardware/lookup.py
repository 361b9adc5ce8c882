"""`get_hardware()`: the one call that turns a model and a GPU into a `Hardware`."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from fluidgate.errors import InputError
from fluidgate.hardware.core import Hardware
from fluidgate.hardware.estimate import estimate_step_time
from fluidgate.hardware.gpus import (
    DEFAULT_MEMORY_UTILIZATION,
    GIB,
    Gpu,
    check_kv_fits,
    check_memory_utilization,
    find_gpu,
    gpu_names,
    kv_blocks,
)
from fluidgate.hardware.model_config import (
    ModelShape,
    canonical_model_name,
    find_model,
    model_names,
    read_model_config,
)
from fluidgate.hardware.profiles import DEFAULT_VARIANT, Profile, find_profile, load_profile, refuse_moe
from fluidgate.hardware.quantization import SIXTEEN_BIT


def get_hardware(
    model: str,
    gpu: str | Gpu,
    *,
    tp: int = 1,
    gpu_memory_utilization: float = DEFAULT_MEMORY_UTILIZATION,
    num_gpu_blocks: int | None = None,
    kv_cache_tokens: int | None = None,
    block_size: int = 16,
    variant: str | None = None,
    config: Path | str | None = None,
) -> Hardware:
    """The step time and KV capacity of a model on a GPU, from a profile or, without one, an estimate.

    `source` of the result says which. A memory fraction other than the profile's changes its capacity by that
    much memory. What the server says of its KV cache, `num_gpu_blocks` or `kv_cache_tokens`, overrides any capacity.

    Args:
        model: name of the model; with `config`, any name.
        gpu: name of the GPU, a data sheet, or the path of one (`read_gpu`).
        tp: tensor-parallel GPUs.
        gpu_memory_utilization: fraction of GPU memory the engine may use, in (0, 1].
        num_gpu_blocks: KV blocks, instead of computing them.
        kv_cache_tokens: the same in tokens, as vLLM logs them ("GPU KV cache size").
        block_size: tokens per KV block.
        variant: profile variant (`load_profile`); None takes the one for `tp`.
        config: the model's `config.json`, or its directory.

    Raises:
        InputError: unknown model or GPU, a mixture of experts, no such variant, a value out of range, no room
            for KV, or more KV than the GPU has memory.
    """
    known_gpu = gpu if isinstance(gpu, Gpu) else find_gpu(gpu)
    shape = _shape(model, config)
    refuse_moe(shape)
    check_memory_utilization(gpu_memory_utilization)
    if block_size < 1:
        raise InputError(f"block_size = {block_size} must be at least 1 token")
    shape.kv_bytes_per_token_per_gpu(tp)  # refuses a tp that does not divide the model
    num_gpu_blocks = _blocks_given(num_gpu_blocks, kv_cache_tokens, block_size)
    if num_gpu_blocks is not None:
        check_kv_fits(shape, known_gpu, num_gpu_blocks, block_size, tp)
    profile = _profile(shape, known_gpu, tp, variant) if _is_built_in(known_gpu, tp) else None
    if profile is not None:
        return _profiled(profile, shape, known_gpu, gpu_memory_utilization, num_gpu_blocks, block_size)
    return estimate_hardware(
        shape,
        known_gpu,
        tp=tp,
        gpu_memory_utilization=gpu_memory_utilization,
        num_gpu_blocks=num_gpu_blocks,
        block_size=block_size,
    )


def _is_built_in(gpu: Gpu, tp: int) -> bool:
    """Whether profiles of a GPU of this name are for this data sheet; one GPU alone uses no link."""
    if gpu.name not in gpu_names():
        return False
    sheet = find_gpu(gpu.name)
    return gpu == (replace(sheet, link_gb_per_s=gpu.link_gb_per_s) if tp == 1 else sheet)


def _blocks_given(num_gpu_blocks: int | None, kv_cache_tokens: int | None, block_size: int) -> int | None:
    """The KV blocks that the user states, in blocks or in tokens; None where neither is stated."""
    if kv_cache_tokens is None:
        return num_gpu_blocks
    if num_gpu_blocks is not None:
        raise InputError("the KV cache is given twice, as num_gpu_blocks and as kv_cache_tokens; give one of them")
    if kv_cache_tokens < 2 * block_size:
        raise InputError(f"kv_cache_tokens = {kv_cache_tokens} does not hold two blocks of {block_size} tokens")
    return kv_cache_tokens // block_size


def _shape(model: str, config: Path | str | None) -> ModelShape:
    if config is None:
        return find_model(model)
    return replace(read_model_config(config), name=canonical_model_name(model))


def _profile(shape: ModelShape, gpu: Gpu, tp: int, variant: str | None) -> Profile | None:
    # A config that differs from the model of that name describes another model: its profile would be wrong.
    if shape.name not in model_names() or replace(shape, checkpoint_bytes=None) != find_model(shape.name):
        if variant is not None:
            raise InputError(f"variant '{variant}': {shape.name} as its config.json describes it has no profile")
        return None
    variant_name = variant or (DEFAULT_VARIANT if tp == 1 else f"tp{tp}")
    profile = find_profile(shape.name, gpu.name, variant_name)
    if profile is None and variant is not None:
        load_profile(shape.name, gpu.name, variant)  # raises the sentence that lists the variants
    if profile is not None and tp not in (1, profile.tp):
        raise InputError(f"profile {profile.name} is for tp = {profile.tp}, not {tp}; leave variant or tp out")
    return profile


def _profiled(
    profile: Profile,
    shape: ModelShape,
    gpu: Gpu,
    gpu_memory_utilization: float,
    num_gpu_blocks: int | None,
    block_size: int,
) -> Hardware:
    base = profile.hardware
    if num_gpu_blocks is not None:
        return replace(base, num_gpu_blocks=num_gpu_blocks, block_size=block_size, source=_given(base.source))
    stated = profile.gpu_memory_utilization
    if stated is None and gpu_memory_utilization != DEFAULT_MEMORY_UTILIZATION:
        # The profile's capacity is a given figure, not a fraction of the memory: another
        # fraction computes it again.
        blocks = kv_blocks(
            shape, gpu, block_size=block_size, gpu_memory_utilization=gpu_memory_utilization, tp=profile.tp
        )
        return replace(base, num_gpu_blocks=blocks, block_size=block_size)
    more_bytes = 0.0 if stated is None else (gpu_memory_utilization - stated) * gpu.memory_gib * GIB
    more_tokens = more_bytes / shape.kv_bytes_per_token_per_gpu(profile.tp)
    blocks = math.floor((base.num_gpu_blocks * base.block_size + more_tokens) / block_size)
    return replace(base, num_gpu_blocks=blocks, block_size=block_size)


def estimate_hardware(
    shape: ModelShape,
    gpu: Gpu,
    *,
    tp: int = 1,
    gpu_memory_utilization: float = DEFAULT_MEMORY_UTILIZATION,
    num_gpu_blocks: int | None = None,
    block_size: int = 16,
) -> Hardware:
    """Step time and KV capacity from a model's dimensions and a data sheet alone; name and source say so.

    Raises:
        InputError: a mixture of experts, a value out of range, no room for KV, or more KV than the GPU has memory.
    """
    refuse_moe(shape)
    source = f"ESTIMATE, not measured: roofline from the data sheet of {gpu.name} ({gpu.source}){_stored(shape)}"
    blocks = num_gpu_blocks
    if blocks is None:
        blocks = kv_blocks(shape, gpu, block_size=block_size, gpu_memory_utilization=gpu_memory_utilization, tp=tp)
    else:
        check_kv_fits(shape, gpu, blocks, block_size, tp)
        source = _given(source)
    return Hardware(
        name=f"{shape.name} on {f'{tp} × ' if tp > 1 else ''}{gpu.name} (estimate)",
        step_time=estimate_step_time(shape, gpu, tp),
        num_gpu_blocks=blocks,
        block_size=block_size,
        source=source,
    )


def _stored(shape: ModelShape) -> str:
    """How the weights are stored, where it is not in 16 bits."""
    if shape.scheme == SIXTEEN_BIT:
        return ""
    kv = ", KV in 8 bits" if shape.scheme.kv_element_bytes == 1 else ""
    return f"; {shape.weight_bytes / GIB:.1f} GiB of weights ({shape.scheme.title}), computed at the bf16 rate{kv}"


def _given(source: str) -> str:
    return f"{source}; num_gpu_blocks as given"
