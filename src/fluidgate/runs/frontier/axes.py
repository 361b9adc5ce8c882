"""The axes of a frontier: the machines and lengths along which the stable rate is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fluidgate.errors import InputError, unknown
from fluidgate.hardware import Hardware, get_hardware
from fluidgate.runs.factors import factor, with_memory


@dataclass(frozen=True)
class Setting:
    """One point of an axis.

    Attributes:
        label: the value, in words.
        hardware: the machine.
        output_scale: factor on all output lengths.
    """

    label: str
    hardware: Hardware
    output_scale: float = 1.0


def settings_on(axis: str | None, values: Sequence[str | float] | None, hardware: Hardware) -> tuple[Setting, ...]:
    """The settings of an axis; without one, the machine itself.

    Args:
        axis: `memory` (values multiply the KV blocks), `output-length` (values multiply output lengths) or
            `model-gpu` (values are `model/gpu` or `model/gpu/tp`, in place of the machine).
        values: None takes the axis's defaults.

    Raises:
        InputError: an unknown axis, values without an axis or none, or a value that the axis cannot take.
    """
    if axis is None:
        if values is not None:
            raise InputError(f"values need an axis: {', '.join(AXES)}")
        return (Setting(hardware.name, hardware),)
    if axis not in AXES:
        raise unknown("axis", axis, AXES)
    defaults, make_setting = AXES[axis]
    settings = tuple(make_setting(str(value), hardware) for value in (defaults if values is None else values))
    if not settings:
        raise InputError(f"axis {axis} needs at least one value")
    labels = [setting.label for setting in settings]
    if len(set(labels)) < len(labels):
        raise InputError(f"a value of axis {axis} is given twice in {', '.join(labels)}")
    return settings


def _memory(value: str, hardware: Hardware) -> Setting:
    times = factor("memory", value)
    return Setting(f"{times:g} × memory", with_memory(hardware, times))


def _output_length(value: str, hardware: Hardware) -> Setting:
    times = factor("output-length", value)
    return Setting(f"{times:g} × output length", hardware, times)


def _model_gpu(value: str, hardware: Hardware) -> Setting:
    parts = value.split("/")
    if len(parts) not in (2, 3) or not (len(parts) == 2 or parts[2].isdigit()):
        raise InputError(f"model-gpu value {value!r} must be model/gpu or model/gpu/tp, such as llama-3.1-8b/h100-80gb")
    machine = get_hardware(parts[0], parts[1], tp=int(parts[2]) if len(parts) == 3 else 1)
    return Setting(machine.name, machine)


AXES: dict[str, tuple[tuple[str, ...], Callable[[str, Hardware], Setting]]] = {
    "memory": (("0.5", "1", "2"), _memory),
    "output-length": (("0.5", "1", "2"), _output_length),
    "model-gpu": (("llama-2-7b/a100-80gb", "llama-3.1-8b/l40s", "llama-3.1-8b/h100-80gb"), _model_gpu),
}
"""Values that an axis takes if none are given, and how a value becomes a setting."""
