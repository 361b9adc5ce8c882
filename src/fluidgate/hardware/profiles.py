"""Built-in profiles: step times fitted to published latency grids, one per model, GPU and variant."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fluidgate.errors import InputError
from fluidgate.hardware.calibration import COEFFICIENTS
from fluidgate.hardware.core import Hardware, StepTime
from fluidgate.hardware.gpus import canonical_gpu_name, find_gpu
from fluidgate.hardware.grid_curves import GridCurves
from fluidgate.hardware.model_config import ModelShape, canonical_model_name, find_model
from fluidgate.jsonfile import JsonObject, read_object

DEFAULT_VARIANT = "four-term"
_FILE = Path(__file__).with_name("profiles.json")


@dataclass(frozen=True)
class Profile:
    """One entry of `profiles.json`, written by `tools/fit_profiles.py`.

    Attributes:
        model, gpu: canonical names.
        variant: `four-term` (vLLM, one GPU), `tp4` (four GPUs), another engine's name, `paper`, or `vidur`.
        tp: tensor-parallel GPUs.
        gpu_memory_utilization: memory fraction that the number of blocks assumes; None where it is a given
            figure.
        error_by_kind: mean absolute relative error of the fit per kind of step.
        hardware: the numbers.
    """

    model: str
    gpu: str
    variant: str
    tp: int
    gpu_memory_utilization: float | None
    error_by_kind: Mapping[str, float]
    hardware: Hardware

    @property
    def name(self) -> str:
        """`model/gpu/variant`."""
        return f"{self.model}/{self.gpu}/{self.variant}"


def profile_names() -> list[str]:
    """Every built-in profile as `model/gpu/variant`."""
    return [profile.name for profile in _profiles()]


def load_profile(model: str, gpu: str, variant: str | None = None) -> Hardware:
    """The built-in profile of a model on a GPU, at the memory fraction 0.9.

    Args:
        model, gpu: names in any usual spelling (`meta-llama/Llama-2-7b-hf`, `a100_sxm`).
        variant: `four-term` if None; `tp4` and the like name tensor parallelism, `paper` the paper's linear
            model, `vidur` a grid of the steps that Vidur simulates.

    Raises:
        InputError: unknown model or GPU, a mixture of experts, or no profile of this pair and variant.
    """
    shape, known_gpu = find_model(model), find_gpu(gpu)
    refuse_moe(shape)
    profile = find_profile(shape.name, known_gpu.name, variant)
    if profile is not None:
        return profile.hardware
    variants = [p.variant for p in _profiles() if (p.model, p.gpu) == (shape.name, known_gpu.name)]
    pair = f"{shape.name} on {known_gpu.name}"
    if variants:
        asked = variant or DEFAULT_VARIANT
        raise InputError(f"{pair} has no profile variant '{asked}'; it has {', '.join(variants)}: name one of these")
    raise InputError(
        f"there is no profile of {pair}; use get_hardware() for an estimate from data sheets, or one of "
        f"{', '.join(profile_names())}"
    )


def find_profile(model: str, gpu: str, variant: str | None = None) -> Profile | None:
    """The profile of this pair and variant (`four-term` if None); None if there is none."""
    key = canonical_model_name(model), canonical_gpu_name(gpu), (variant or DEFAULT_VARIANT).lower()
    return next((p for p in _profiles() if (p.model, p.gpu, p.variant) == key), None)


def refuse_moe(shape: ModelShape) -> None:
    """Refuse a mixture of experts: a step reads the experts that its batch needs, so its time is not affine."""
    if shape.is_moe:
        raise InputError(
            f"{shape.name} is a mixture of experts: its step time is not affine; make a hardware file with its grid: "
            "`fluidgate calibrate aiconfigurator`"
        )


@cache
def _profiles() -> tuple[Profile, ...]:
    return tuple(_profile(entry) for entry in read_object(_FILE, "the built-in profiles").objects("profiles"))


def _curves(entry: JsonObject) -> GridCurves:
    axes = {"shared": 2, "decodes": 2, "prefill": 1, "prefill_ramp": 1}
    return GridCurves(**{name: entry.numbers(name, axes=count) for name, count in axes.items()})


def _profile(entry: JsonObject) -> Profile:
    model, gpu, variant = entry.text("model"), entry.text("gpu"), entry.text("variant")
    tp, block_size = entry.integer("tp"), entry.integer("block_size")
    on = f"{tp} × {gpu}" if tp > 1 else gpu
    hardware = Hardware(
        name=f"{model} on {on}" + ("" if variant in (DEFAULT_VARIANT, f"tp{tp}") else f" ({variant})"),
        step_time=StepTime(*(entry.number(name) for name in COEFFICIENTS)),
        num_gpu_blocks=entry.integer("num_gpu_blocks"),
        block_size=block_size,
        source=entry.text("source"),
        relative_error=entry.number("mean_error") if entry.has("mean_error") else math.nan,
        grid=_curves(entry.object("curves")).grid() if entry.has("curves") else None,
        kv_law=find_model(model).kv_law(block_size, tp),
    )
    errors = entry.object("error_by_kind")
    return Profile(
        model=model,
        gpu=gpu,
        variant=variant,
        tp=tp,
        gpu_memory_utilization=entry.number("gpu_memory_utilization") if entry.has("gpu_memory_utilization") else None,
        error_by_kind={kind: errors.number(kind) for kind in errors.values},
        hardware=hardware,
    )
