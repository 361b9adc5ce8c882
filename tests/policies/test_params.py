"""Parameters by name: a field is an attribute of `params`, compiled and interpreted."""

import sys
from dataclasses import dataclass

import numba
import numpy as np
import pytest

from fluidgate.engine.compiled import load_program, new_params
from fluidgate.errors import InputError
from fluidgate.kernel import kernel
from fluidgate.policies import Policy, Request

BOTH = pytest.mark.parametrize("compile", [True, False], ids=["compiled", "interpreted"])
REQUEST = Request(row=3, arrival_s=0.5, prompt_tokens=7, output_tokens=-1, class_id=0)


def rank(policy: Policy, *, compile: bool) -> float:
    return float(load_program(policy, compile=compile).decisions[1](new_params(policy), REQUEST))


@dataclass(frozen=True)
class Named(Policy):
    """`size` is the name of an attribute that every array has."""

    on: bool = True
    weights: tuple[float, ...] = (2.0, 3.0)
    size: float = 100.0
    none: tuple[float, ...] = ()

    @staticmethod
    def rank(params, request):  # type: ignore[no-untyped-def]
        total = 0.0
        for weight in params.weights:
            total = 10 * total + weight
        return params.on * total + params.size * request.prompt_tokens + 0.5 * len(params.none)


@BOTH
def test_a_field_has_its_name(compile: bool) -> None:
    assert rank(Named(), compile=compile) == 23 + 700
    assert rank(Named(on=False), compile=compile) == 700
    assert rank(Named(weights=(2.0, 3.0, 4.0), size=1.0, none=(0.0, 0.0)), compile=compile) == 234 + 7 + 1


@dataclass(frozen=True)
class ByPlace(Policy):
    share: float = 0.25
    weights: tuple[float, ...] = (2.0, 3.0)

    @staticmethod
    def rank(params, request):  # type: ignore[no-untyped-def]
        first = 2
        return 1000 * len(params) + 100 * params[1] + params[first] * params[-1] + params[first:].sum() + params[0]


@BOTH
def test_places_in_the_array_stay(compile: bool) -> None:
    assert rank(ByPlace(), compile=compile) == 4000 + 200 + 6 + 5 + 0.25


@kernel
def _weighted(params, request):  # type: ignore[no-untyped-def]
    return params.weight * request.prompt_tokens


@dataclass(frozen=True)
class WeightFirst(Policy):
    weight: float = 2.0
    other: float = 5.0
    rank = staticmethod(_weighted)


@dataclass(frozen=True)
class WeightLast(Policy):
    other: float = 5.0
    weight: float = 3.0

    @staticmethod
    def rank(params, request):  # type: ignore[no-untyped-def]
        return _weighted(params, request)


@BOTH
def test_policies_share_a_helper_that_takes_params(compile: bool) -> None:
    assert [rank(policy, compile=compile) for policy in (WeightFirst(), WeightLast())] == [14, 21]


class PacksItself(WeightLast):
    def pack(self):  # type: ignore[no-untyped-def]
        return np.array([self.weight])


def test_a_policy_that_packs_its_parameters_has_no_names() -> None:
    with pytest.raises(AttributeError, match="weight"):
        rank(PacksItself(), compile=False)


@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="nothing is compiled under NUMBA_DISABLE_JIT")
def test_a_name_that_is_no_field_is_refused() -> None:
    with pytest.raises(InputError, match=r"Unknown attribute 'weight' of type array\(float64, 1d, C\); use numbers"):
        rank(PacksItself(), compile=True)
    with pytest.raises(InputError, match=r"Unknown attribute 'shar' of type params\(share\); did you mean share\?"):
        rank(Misspelt(), compile=True)


@dataclass(frozen=True)
class Misspelt(Policy):
    share: float = 0.25

    @staticmethod
    def rank(params, request):  # type: ignore[no-untyped-def]
        return params.shar


@pytest.mark.parametrize("policy", [Named(), ByPlace(), WeightLast()], ids=lambda policy: type(policy).__name__)
def test_calls_leave_the_references_to_params_as_they_were(policy: Policy) -> None:
    """A reference given back too often frees the array while it is in use."""
    params, ranked = new_params(policy), load_program(policy).decisions[1]
    before = sys.getrefcount(params)
    for _ in range(100):
        ranked(params, REQUEST)
    assert sys.getrefcount(params) == before
