"""`get_hardware()`: the one call that turns a model and a GPU into a `Hardware`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, floor
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
from fluidgate.hardware.kv_law import IN_FLIGHT_BATCHES, KvLaw
from fluidgate.hardware.model_config import (
    ModelShape,
    canonical_model_name,
    find_model,
    model_names,
    read_model_config,
)
from fluidgate.hardware.profiles import DEFAULT_VARIANT, Profile, find_profile, load_profile, refuse_moe
from fluidgate.hardware.quantization import SIXTEEN_BIT
from fluidgate.hardware.server_defaults import ServerDefaults, server_defaults


@dataclass(frozen=True)
class Serving:
    """How a model is served on a GPU: what sizes its KV cache.

    Attributes:
        tp: tensor-parallel GPUs.
        pp: stages of the pipeline.
        gpu_memory_utilization: fraction of GPU memory the engine may use, in (0, 1].
        num_gpu_blocks: KV blocks, instead of computing them.
        block_size: tokens per KV block; beside states (Mamba, linear attention) vLLM takes larger ones.
        kv_cache_dtype: `auto`, or what vLLM's option of this name takes.
    """

    tp: int = 1
    pp: int = 1
    gpu_memory_utilization: float = DEFAULT_MEMORY_UTILIZATION
    num_gpu_blocks: int | None = None
    block_size: int = 16
    kv_cache_dtype: str = "auto"

    def law(self, shape: ModelShape) -> KvLaw:
        """Of the model's KV cache, served like this."""
        return shape.kv_law(self.block_size, self.tp, self.pp, self.kv_cache_dtype)

    def blocks(self, shape: ModelShape, gpu: Gpu) -> int:
        """KV blocks, as given or as the memory has room for."""
        if self.num_gpu_blocks is not None:
            check_kv_fits(self.law(shape), gpu, self.num_gpu_blocks)
            return self.num_gpu_blocks
        return kv_blocks(
            shape,
            gpu,
            block_size=self.block_size,
            gpu_memory_utilization=self.gpu_memory_utilization,
            tp=self.tp,
            pp=self.pp,
            kv_cache_dtype=self.kv_cache_dtype,
        )


def get_hardware(
    model: str | None,
    gpu: str | Gpu,
    *,
    tp: int = 1,
    pp: int = 1,
    gpu_memory_utilization: float = DEFAULT_MEMORY_UTILIZATION,
    num_gpu_blocks: int | None = None,
    kv_cache_tokens: int | None = None,
    block_size: int = 16,
    kv_cache_dtype: str = "auto",
    variant: str | None = None,
    config: Path | str | None = None,
) -> Hardware:
    """The step time and KV capacity of a model on a GPU, from a profile or, without one, an estimate.

    `source` of the result says which, and `server` what vLLM sets by itself there. A memory fraction other than the
    profile's changes its capacity by that much memory. What the server says of its KV cache, `num_gpu_blocks` or
    `kv_cache_tokens`, overrides any capacity.

    Args:
        model: name of the model; with `config` any name, or None for that of its folder or file.
        gpu: name of the GPU, a data sheet, or the path of one (`read_gpu`).
        tp: tensor-parallel GPUs.
        pp: stages of the pipeline, which hold the layers in turn. The step time is that of one batch at a time, so each
            GPU idles 1 - 1/pp of it: vLLM keeps up to `pp` batches in flight, and does better.
        gpu_memory_utilization: fraction of GPU memory the engine may use, in (0, 1].
        num_gpu_blocks: KV blocks, instead of computing them.
        kv_cache_tokens: the same in tokens, as vLLM logs them ("GPU KV cache size").
        block_size: tokens per KV block; beside states (Mamba, linear attention) vLLM takes larger ones.
        kv_cache_dtype: of the KV cache, as vLLM's option of this name; `auto` is the checkpoint's, or the model's.
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
    serving = Serving(tp, pp, gpu_memory_utilization, num_gpu_blocks, block_size, kv_cache_dtype)
    law = serving.law(shape)  # refuses a parallelism that does not divide the model
    server = server_defaults(known_gpu.name, known_gpu.memory_gib, shape.max_model_len)
    num_gpu_blocks = stated_blocks(num_gpu_blocks, kv_cache_tokens, law, server)
    serving = replace(serving, num_gpu_blocks=num_gpu_blocks)
    if num_gpu_blocks is not None:
        check_kv_fits(law, known_gpu, num_gpu_blocks)
    built_in = _is_built_in(known_gpu, tp)
    if variant is not None and not built_in:
        raise InputError(f"variant '{variant}': {known_gpu.name} as its data sheet describes it has no profile")
    profile = _profile(shape, known_gpu, serving, variant) if built_in else None
    if profile is not None:
        return replace(_profiled(profile, shape, known_gpu, serving), server=server)
    return estimate_hardware(shape, known_gpu, serving)


def _is_built_in(gpu: Gpu, tp: int) -> bool:
    """Whether profiles of a GPU of this name are for this data sheet; one GPU alone uses no link."""
    if gpu.name not in gpu_names():
        return False
    sheet = find_gpu(gpu.name)
    return gpu == (replace(sheet, link_gb_per_s=gpu.link_gb_per_s) if tp == 1 else sheet)


def stated_blocks(
    num_gpu_blocks: int | None, kv_cache_tokens: int | None, law: KvLaw, server: ServerDefaults
) -> int | None:
    """The KV blocks that the user states, in blocks or in tokens; None where neither is stated.

    Tokens of several groups of layers are what vLLM logs: the requests of the longest length that fit, times that.

    Raises:
        InputError: both are stated, or tokens that hold nothing or cannot be converted.
    """
    if kv_cache_tokens is None:
        return num_gpu_blocks
    if num_gpu_blocks is not None:
        raise InputError("the KV cache is given twice, as num_gpu_blocks and as kv_cache_tokens; give one of them")
    if not law.is_one_full_group:
        limits = server.with_flags()
        if limits.max_model_len is None:
            raise InputError(
                f"kv_cache_tokens = {kv_cache_tokens:,} of a cache of several kinds ({law.title}) counts requests of "
                "the longest length, and the config does not say how long that is: give num_gpu_blocks"
            )
        most = law.most_blocks(limits.max_model_len, IN_FLIGHT_BATCHES * limits.max_num_batched_tokens)
        return ceil(kv_cache_tokens * most / limits.max_model_len)
    if kv_cache_tokens < 2 * law.block_size:
        raise InputError(f"kv_cache_tokens = {kv_cache_tokens} does not hold two blocks of {law.block_size} tokens")
    return kv_cache_tokens // law.block_size


def _shape(model: str | None, config: Path | str | None) -> ModelShape:
    if config is None:
        if model is None:
            raise InputError("no model is given; name one, or give its config")
        return find_model(model)
    shape = read_model_config(config)
    return replace(shape, name=canonical_model_name(shape.name if model is None else model))


def _profile(shape: ModelShape, gpu: Gpu, serving: Serving, variant: str | None) -> Profile | None:
    # A config that differs from the model of that name describes another model: its profile would be wrong.
    plain = replace(shape, checkpoint_bytes=None, dtype="bfloat16")
    if shape.name not in model_names() or plain != find_model(shape.name):
        if variant is not None:
            raise InputError(f"variant '{variant}': {shape.name} as its config.json describes it has no profile")
        return None
    tp = serving.tp
    variant_name = variant or (DEFAULT_VARIANT if tp == 1 else f"tp{tp}")
    profile = find_profile(shape.name, gpu.name, variant_name)
    if profile is None and variant is not None:
        load_profile(shape.name, gpu.name, variant)  # raises the sentence that lists the variants
    if profile is not None and tp not in (1, profile.tp):
        raise InputError(f"profile {profile.name} is for tp = {profile.tp}, not {tp}; leave variant or tp out")
    if profile is not None and serving.pp > 1:
        if variant is not None:
            raise InputError(f"profile {profile.name} is of one stage, not pp = {serving.pp}; leave variant or pp out")
        return None
    return profile


def _profiled(profile: Profile, shape: ModelShape, gpu: Gpu, serving: Serving) -> Hardware:
    serving = replace(serving, tp=profile.tp)
    law, measured = serving.law(shape), shape.kv_law(1, profile.tp)
    base = replace(profile.hardware, block_size=law.block_size, kv_law=law)
    shrunk = law.bytes_per_block / law.block_size / measured.bytes_per_block
    if shrunk != 1.0 and base.grid is not None:
        raise InputError(
            f"profile {profile.name} is a grid of steps with KV in 16 bits; leave kv_cache_dtype (--kv-cache-dtype) or "
            "variant (--variant) out"
        )
    if shrunk != 1.0:
        base = replace(
            base,
            step_time=replace(base.step_time, c_kv=base.step_time.c_kv * shrunk),
            source=f"{base.source}; c_kv × {shrunk:g} for a KV cache of {law.dtype.name}",
        )
    if serving.num_gpu_blocks is not None:
        return replace(base, num_gpu_blocks=serving.num_gpu_blocks, source=_given(base.source))
    stated, share = profile.gpu_memory_utilization, serving.gpu_memory_utilization
    if stated is None and share != DEFAULT_MEMORY_UTILIZATION:
        # The profile's capacity is a given figure, not a fraction of the memory: another fraction computes it again.
        return replace(base, num_gpu_blocks=serving.blocks(shape, gpu))
    more_bytes = 0.0 if stated is None else (share - stated) * gpu.memory_gib * GIB
    fixed = profile.hardware.num_gpu_blocks * profile.hardware.block_size * measured.bytes_per_block
    return replace(base, num_gpu_blocks=floor((fixed + more_bytes) / law.bytes_per_block))


def estimate_hardware(shape: ModelShape, gpu: Gpu, serving: Serving | None = None) -> Hardware:
    """Step time and KV capacity from a model's dimensions and a data sheet alone; name and source say so.

    Raises:
        InputError: a mixture of experts, a value out of range, no room for KV, or more KV than the GPU has memory.
    """
    serving = serving or Serving()
    refuse_moe(shape)
    law, gpus = serving.law(shape), serving.tp * serving.pp
    source = f"ESTIMATE, not measured: roofline from the data sheet of {gpu.name} ({gpu.source}){_stored(shape, gpu)}"
    if serving.pp > 1:
        source += f"; {serving.pp} stages, one batch at a time: each GPU idles {1 - 1 / serving.pp:.0%} of a step"
    return Hardware(
        name=f"{shape.name} on {f'{gpus} × ' if gpus > 1 else ''}{gpu.name} (estimate)",
        step_time=estimate_step_time(shape, gpu, serving.tp, serving.kv_cache_dtype),
        num_gpu_blocks=serving.blocks(shape, gpu),
        block_size=law.block_size,
        source=source if serving.num_gpu_blocks is None else _given(source),
        kv_law=law,
        server=server_defaults(gpu.name, gpu.memory_gib, shape.max_model_len),
    )


def _stored(shape: ModelShape, gpu: Gpu) -> str:
    """How the weights are stored, where it is not in 16 bits."""
    if shape.scheme == SIXTEEN_BIT:
        return ""
    rate = "fp8" if shape.scheme.computes_in_8_bits and gpu.fp8_tflops is not None else "bf16"
    return f"; {shape.weight_bytes / GIB:.1f} GiB of weights ({shape.scheme.title}), computed at the {rate} rate"


def _given(source: str) -> str:
    return f"{source}; num_gpu_blocks as given"
