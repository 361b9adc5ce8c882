"""Names of policies: `@policy("mine")` adds one, `make_policy` builds one from a name or a spec such as
`concurrency-cap:cap=25`."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fluidgate.errors import InputError, unknown
from fluidgate.policies.protocol import Policy

if TYPE_CHECKING:
    from fluidgate.fluid import FluidPlan

P = TypeVar("P", bound=type[Policy])

_REGISTRY: dict[str, type[Policy]] = {}


def policy(name: str) -> Callable[[P], P]:
    """Class decorator: make a frozen dataclass of a `Policy` subclass and register it under `name`."""

    def register(cls: P) -> P:
        dataclass(frozen=True)(cls)
        cls.name = name
        _REGISTRY[name] = cls
        return cls

    return register


def policy_names() -> list[str]:
    """The registered names, sorted."""
    return sorted(_REGISTRY)


def policy_class(name: str) -> type[Policy]:
    """The policy registered under `name`.

    Raises:
        InputError: an unknown name; says which known one is nearest.
    """
    if name not in _REGISTRY:
        raise unknown("policy", name, policy_names())
    return _REGISTRY[name]


def make_policy(spec: str | Policy, plan: FluidPlan | Callable[[], FluidPlan]) -> Policy:
    """A policy from `name` or `name:key=value,key=value`; parameters that are not named come from the plan.

    Args:
        plan: or a function that makes one, called only if the policy needs it.

    Raises:
        InputError: an unknown name or parameter, or a value that is not a number.
    """
    if isinstance(spec, Policy):
        return spec
    name, _, rest = spec.partition(":")
    cls = policy_class(name)
    overrides = _overrides(cls, rest)
    if _is_set(cls, overrides):
        return cls(**overrides)
    return cls.from_plan(plan() if callable(plan) else plan, **overrides)


def _is_set(cls: type[Policy], overrides: Mapping[str, object]) -> bool:
    """Whether the overrides leave nothing to take from a plan."""
    plans = cls.from_plan.__func__ is not Policy.from_plan.__func__  # type: ignore[attr-defined]
    return not plans or {field.name for field in fields(cls)} <= set(overrides)


def load_policy_file(path: Path | None) -> None:
    """Run a user's Python file, so that the policies it registers can be used by name; None: do nothing.

    Raises:
        InputError: it is no Python file, or its code fails.
    """
    if path is None:
        return
    spec = importlib.util.spec_from_file_location(f"fluidgate_policies_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise InputError(f"{path}: is not a Python file; give the file that defines the policy")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses look up deferred annotations there
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's own code raises
        raise InputError(f"{path}: {type(error).__name__}: {error}; run the file with python to see where") from error


def _overrides(cls: type[Policy], rest: str) -> dict[str, Any]:
    kinds = {field.name: str(field.type) for field in fields(cls)}
    values: dict[str, Any] = {}
    for item in filter(None, rest.split(",")):
        key, equals, text = item.partition("=")
        if key in cls.renamed:
            raise InputError(f"policy {cls.name}: {key} is now called {cls.renamed[key]}; use that name")
        if not equals or key not in kinds:
            allowed = ", ".join(sorted(kinds)) or "none"
            raise InputError(f"policy {cls.name}: {item!r} is not key=value with a known key (known: {allowed})")
        by_class = kinds[key].startswith("tuple")
        wanted = "numbers with slashes between them" if by_class else "a number, true or false"
        try:
            values[key] = tuple(float(part) for part in text.split("/")) if by_class else _value(text)
        except ValueError:
            raise InputError(f"policy {cls.name}: {key}={text!r} is not {wanted}") from None
    return values


def _value(text: str) -> float | bool:
    truth = {"true": True, "false": False}.get(text.lower())
    return float(text) if truth is None else truth
