"""The names that options take, with what each is: for `fluidgate list`, and for completion in a shell."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from fluidgate.hardware import Gpu

Names = dict[str, str]
"""Name and what it is, in a few words; empty where the name says it."""


def models() -> Names:
    """The built-in models, with the GPUs on which their step time was measured."""
    from fluidgate.hardware import find_model, model_names, profile_names

    profiles = [name.split("/") for name in profile_names()]
    measured = {name: [gpu for model, gpu, _ in profiles if model == name] for name in model_names()}
    return {name: _model(find_model(name), on) for name, on in measured.items()}


def _model(shape: Any, gpus: Iterable[str]) -> str:
    if shape.is_moe:
        return "mixture of experts: its step time comes from `calibrate aiconfigurator`"
    measured = ", ".join(dict.fromkeys(gpus))
    size = f"{shape.parameters / 1e9:.3g} B parameters, requests up to {shape.max_model_len:,} tokens"
    return f"{size}; step time {f'measured on {measured}, else estimated' if measured else 'estimated'}"


def gpus() -> Names:
    """The GPUs with a built-in data sheet."""
    from fluidgate.hardware import find_gpu, gpu_names

    return {name: _gpu(find_gpu(name)) for name in gpu_names()}


def _gpu(gpu: Gpu) -> str:
    return f"{gpu.memory_gib:.3g} GiB, {gpu.hbm_gb_per_s:,.0f} GB/s, {gpu.bf16_tflops:,.4g} TFLOP/s in bf16"


def policies() -> Names:
    """The built-in policies."""
    from fluidgate.policies import policy_class, policy_names

    return {name: _first_line(policy_class(name).__doc__) for name in policy_names()}


def presets() -> Names:
    """The synthetic workloads."""
    from fluidgate.workload import PRESETS

    return {name: preset.source for name, preset in PRESETS.items()}


def formats() -> Names:
    """The formats of traces."""
    from fluidgate.workload.formats import FORMATS

    return {name: _first_line(module.__doc__) for name, module in FORMATS.items()}


def routers() -> Names:
    """The routers in front of replicas."""
    from fluidgate.engine.routing import ROUTERS

    return dict.fromkeys(ROUTERS, "")


def modes() -> Names:
    """The ways to form a batch."""
    from fluidgate.engine.modes import MODES

    return dict.fromkeys(MODES, "")


def preemptions() -> Names:
    """The ways in which a victim of an eviction returns."""
    from fluidgate.engine.config import PreemptionMode

    return dict.fromkeys(get_args(PreemptionMode), "")


def scheduler_presets() -> Names:
    """The schedulers of other simulators, and kinds of servers."""
    from fluidgate.engine.modes import PRESETS

    return dict.fromkeys(PRESETS, "")


def knobs() -> Names:
    """What a what-if can vary."""
    from fluidgate.runs.whatif import KNOBS

    return {name: knob.what for name, knob in KNOBS.items()}


def variants() -> Names:
    """The variants of profiles, with the models and GPUs that have them."""
    from fluidgate.hardware import profile_names

    found: dict[str, list[str]] = {}
    for name in profile_names():
        model, gpu, variant = name.split("/")
        found.setdefault(variant, []).append(f"{model} on {gpu}")
    return {variant: ", ".join(machines) for variant, machines in found.items()}


def completed(names: Callable[[], Names]) -> Callable[[str], list[tuple[str, str]]]:
    """A completion for an option that takes one of these names."""

    def complete(incomplete: str) -> list[tuple[str, str]]:
        return [(name, what) for name, what in names().items() if name.startswith(incomplete)]

    return complete


def _first_line(docstring: str | None) -> str:
    return (docstring or "").split("\n", 1)[0].rstrip(".")
