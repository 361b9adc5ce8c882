"""The knobs: what can be varied, the values to try if none are given, and what a value changes of a setup."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from math import isclose
from typing import Any

from fluidgate.bounds import MAX_GPUS, MAX_RATE, MAX_REPLICAS, MIN_RATE, check_number, check_whole
from fluidgate.errors import InputError, unknown
from fluidgate.hardware import Hardware, find_gpu
from fluidgate.hardware.quantization import KV_DTYPES
from fluidgate.policies import policy_class
from fluidgate.runs.factors import factor, with_memory
from fluidgate.runs.whatif.setup import MachineSpec, Setup


@dataclass(frozen=True)
class Value:
    """One value of a knob.

    Attributes:
        label: the value in words.
        setup: with it; None where it cannot be had.
        why_not: the reason then.
        is_current: whether it is what the setup has anyway.
    """

    label: str
    setup: Setup | None
    why_not: str = ""
    is_current: bool = False


@dataclass(frozen=True)
class Knob:
    """A part of a setup that can be varied.

    Attributes:
        what: what its values are, in a few words.
        current: the value of a setup whose requests arrive at this rate.
        defaults: the values to try around that one.
        read: a value from its text, without space around it; raises an `InputError` for what is no value of this knob.
        turned: the setup with a value; raises an `InputError` where that cannot be had.
        asked: of a knob of the machine, how that is asked for with a value; None: it is a knob of something else.
    """

    what: str
    current: Callable[[Setup, float], Any]
    defaults: Callable[[Any], Sequence[Any]]
    read: Callable[[str], Any]
    turned: Callable[[Setup, Any], Setup]
    asked: Callable[[MachineSpec, Any], MachineSpec] | None = None


def values_of(name: str, given: Sequence[str] | None, setup: Setup, rate: float) -> tuple[Value, ...]:
    """The values of a knob, each with the setup that it makes.

    Args:
        given: None takes the knob's defaults, and what the setup has.
        rate: at which the requests arrive, requests per second.

    Raises:
        InputError: an unknown knob, no value, one that the knob cannot take or that is given twice.
    """
    if name not in KNOBS:
        raise unknown("knob", name, KNOBS)
    knob = KNOBS[name]
    if knob.asked and setup.spec is None:
        raise InputError(f"{name} changes the machine, which a hardware file states; give --model and --gpu instead")
    if knob.asked and setup.spec is not None:
        setup.spec.refuse_stated_cache(name)
    current = knob.current(setup, rate)
    values = _around(current, knob.defaults(current)) if given is None else list(map(knob.read, given))
    twice = next((value for place, value in enumerate(values) if value in values[:place]), None)
    if twice is not None:
        raise InputError(f"{name} is given the value {twice} twice; give it once")
    return tuple(
        _value(knob, value, label, setup, current) for value, label in zip(values, _labels(values), strict=True)
    )


def workable_machine(name: str, given: Sequence[str] | None, spec: MachineSpec) -> Hardware | None:
    """The machine of the first value that a knob's machine can have; None where none can, or the knob has no machine.

    For a model that does not go on the machine as it is, and may with another value.

    Raises:
        InputError: a value that the knob cannot take.
    """
    if name not in KNOBS:
        return None
    knob, asked = KNOBS[name], KNOBS[name].asked
    if asked is None:
        return None
    for value in knob.defaults(None) if given is None else map(knob.read, given):
        with suppress(InputError):
            return asked(spec, value).load()
    return None


def split_values(name: str, text: str) -> list[str]:
    """Values from a list with commas; those of a policy may hold commas themselves, between parameters."""
    parts = [part.strip() for part in text.split(",")]
    if name != "policy":
        return parts
    joined: list[str] = []
    for part in parts:
        if joined and "=" in part and ":" not in part:
            joined[-1] += f",{part}"
        else:
            joined.append(part)
    return joined


def _labels(values: Sequence[Any]) -> list[str]:
    """The values as tables have them: four digits, or as many more as tell them apart."""
    for digits in range(4, 18):
        labels = [f"{value:.{digits}g}" if isinstance(value, float) else str(value) for value in values]
        if len(set(labels)) == len(values):
            break
    return labels


def _is_same(value: Any, other: Any) -> bool:
    """Whether two values are one, but for rounding: a rate that was set is computed again from the arrivals."""
    return isclose(value, other) if isinstance(value, float) else bool(value == other)


def _around(current: Any, others: Sequence[Any]) -> list[Any]:
    """The defaults with the current value in its place: numbers rise, and among names it comes first."""
    rest = [value for value in others if not _is_same(value, current)]
    return [current, *rest] if isinstance(current, str) else sorted([current, *rest])


def _value(knob: Knob, value: Any, label: str, setup: Setup, current: Any) -> Value:
    is_current = _is_same(value, current)
    try:
        # what it is now stays as it is: a rate scales every draw to itself, which a draw's own rate need not be
        stays = is_current and knob.asked is None
        return Value(label, setup if stays else knob.turned(setup, value), is_current=is_current)
    except InputError as reason:
        return Value(label, None, str(reason), is_current)


def _whole(name: str, text: str, most: int) -> int:
    try:
        number = int(text)
    except ValueError:
        raise InputError(f"{name} value {text!r} must be a whole number, at least 1") from None
    check_whole(name, number, 1, most)
    return number


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        raise InputError(f"rate value {text!r} must be a number of requests per second") from None
    check_number("rate", rate, MIN_RATE, MAX_RATE, "requests per second")
    return rate


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise InputError(f"watermark value {text!r} must be a share of the blocks, at least 0 and below 1")
    return share


def _gpu(text: str) -> str:
    return find_gpu(text).name


def _dtype(text: str) -> str:
    if text != "auto" and text not in KV_DTYPES:
        raise unknown("KV dtype", text, ("auto", *KV_DTYPES))
    return text


def _policy(text: str) -> str:
    policy_class(text.partition(":")[0])
    return text


def _on_gpu(spec: MachineSpec, name: str) -> MachineSpec:
    return spec if name == spec.listed_gpu else replace(spec, gpu=name)


def _engine(setup: Setup, name: str, value: Any) -> Setup:
    return replace(setup, config=replace(setup.config, **{name: value}))


def _machine(
    what: str,
    current: Callable[[MachineSpec], Any],
    others: Sequence[Any],
    read: Callable[[str], Any],
    asked: Callable[[MachineSpec, Any], MachineSpec],
) -> Knob:
    """A knob of the machine, which is asked for again; `values_of` has refused a setup without a spec."""
    return Knob(
        what,
        lambda setup, rate: current(_spec(setup)),
        lambda value: others,
        read,
        lambda setup, value: setup.on(asked(_spec(setup), value)),
        asked,
    )


def _spec(setup: Setup) -> MachineSpec:
    assert setup.spec is not None
    return setup.spec


def _multiplied(name: str, what: str, field: str, *others: float) -> Knob:
    """A knob for a factor that is a field of the setup."""
    return Knob(
        what,
        lambda setup, rate: getattr(setup, field),
        lambda current: [other * current for other in others],
        partial(factor, name),
        lambda setup, value: replace(setup, **{field: value}),
    )


def _limit(name: str, field: str, current: Callable[[Setup], int], *others: int) -> Knob:
    """A knob for a limit of the engine, a whole number."""
    return Knob(
        field,
        lambda setup, rate: current(setup),
        lambda value: others,
        lambda text: _whole(name, text, 2**31 - 1),
        lambda setup, value: _engine(setup, field, value),
    )


KNOBS: dict[str, Knob] = {
    "rate": Knob(
        "requests per second",
        lambda setup, rate: rate,
        lambda rate: [share * rate for share in (0.5, 0.75, 1.25, 1.5)],
        _rate,
        lambda setup, value: replace(setup, rate=value, growth=1.0),
    ),
    "growth": _multiplied("growth", "factor on the rate", "growth", 1.0, 1.25, 1.5, 2.0),
    "output-length": _multiplied("output-length", "factor on output lengths", "output_factor", 0.5, 1.0, 1.5, 2.0),
    "prompt-length": _multiplied("prompt-length", "factor on prompt lengths", "prompt_factor", 0.5, 1.0, 1.5, 2.0),
    "gpu": _machine(
        "names of GPUs", lambda spec: spec.listed_gpu, ("l40s", "a100-80gb", "h100-80gb", "h200"), _gpu, _on_gpu
    ),
    "tp": _machine(
        "tensor-parallel GPUs",
        lambda spec: spec.serving.get("tp", 1),
        (1, 2, 4, 8),
        lambda text: _whole("tp", text, MAX_GPUS),
        lambda spec, value: spec.served(tp=value),
    ),
    "seats": _limit(
        "seats", "max_num_seqs", lambda setup: setup.config.on(setup.hardware).most_seqs, 64, 128, 256, 512, 1024
    ),
    "budget": _limit(
        "budget",
        "max_num_batched_tokens",
        lambda setup: setup.config.on(setup.hardware).token_budget(0),
        *(1024, 2048, 4096, 8192, 16384),
    ),
    "kv-dtype": _machine(
        "dtypes of the KV cache",
        lambda spec: spec.serving.get("kv_cache_dtype", "auto"),
        ("auto", "fp8"),
        _dtype,
        lambda spec, value: spec.served(kv_cache_dtype=value),
    ),
    "watermark": Knob(
        "share of blocks that admission keeps free",
        lambda setup, rate: setup.config.watermark_share,
        lambda current: (0.0, 0.01, 0.05, 0.1),
        _share,
        lambda setup, value: _engine(setup, "watermark", value),
    ),
    "memory": Knob(
        "factor on KV blocks",
        lambda setup, rate: 1.0,
        lambda current: (0.5, 2.0),
        partial(factor, "memory"),
        lambda setup, value: replace(setup, hardware=with_memory(setup.hardware, value)),
    ),
    "policy": Knob(
        "policies, with parameters if you like",
        lambda setup, rate: setup.policy,
        lambda current: ("greedy", "watermark", "concurrency-cap", "fluid"),
        _policy,
        lambda setup, value: replace(setup, policy=value),
    ),
    "replicas": Knob(
        "engines that serve the requests",
        lambda setup, rate: setup.fleet.replicas,
        lambda current: (1, 2, 3, 4),
        lambda text: _whole("replicas", text, MAX_REPLICAS),
        lambda setup, value: replace(setup, fleet=replace(setup.fleet, replicas=value)),
    ),
}
"""By name, in the order in which they are listed."""
