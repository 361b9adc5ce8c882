"""Names, specs and parameters of policies: what they become, and what is refused."""

import numpy as np
import pytest

from fluidgate.errors import InputError
from fluidgate.fluid import FluidPlan, plan
from fluidgate.policies import (
    ConcurrencyCap,
    Fluid,
    Greedy,
    NestedWait,
    Policy,
    RateLimited,
    Wait,
    Watermark,
    make_policy,
    policy,
    policy_names,
)
from fluidgate.testing import small_hardware
from fluidgate.workload import Workload


def test_a_name_takes_its_parameters_from_the_plan(small_plan: FluidPlan) -> None:
    assert make_policy("greedy", small_plan) == Greedy()
    assert make_policy("concurrency-cap", small_plan) == ConcurrencyCap(small_plan.concurrency_cap)
    assert make_policy("rate-limited", small_plan) == RateLimited(small_plan.rate_limit)
    assert make_policy("watermark", small_plan) == Watermark(small_plan.watermark)


def test_a_planned_cap_admits_at_least_one() -> None:
    classify = Workload(np.arange(4.0), np.full(4, 80), np.ones(4, np.int64), name="long prompts, one token out")
    short_budget = plan(classify, small_hardware(), max_num_batched_tokens=16)
    assert short_budget.concurrency_cap == pytest.approx(16 / 80)
    assert make_policy("concurrency-cap", short_budget) == ConcurrencyCap(1.0)


def test_planned_wait_paces_within_memory(small_plan: FluidPlan) -> None:
    wait = make_policy("wait", small_plan)
    assert isinstance(wait, Wait)
    shares = np.array(wait.thresholds) / sum(wait.thresholds)
    assert shares == pytest.approx(small_plan.wait.rate / small_plan.wait.rate.sum())
    assert wait.output_edges == tuple(small_plan.wait.output_edges)
    assert sum(wait.thresholds) <= small_plan.rate_limit
    strict = make_policy("wait:strict=true", small_plan)
    assert isinstance(strict, Wait)
    assert strict.thresholds == tuple(small_plan.wait.integer)


def test_planned_nested_wait_paces_within_memory(small_plan: FluidPlan) -> None:
    nested = make_policy("nested-wait", small_plan)
    assert isinstance(nested, NestedWait)
    assert nested.thresholds[0] == pytest.approx(0.98 * small_plan.rate_limit)
    assert all(a >= b for a, b in zip(nested.thresholds, nested.thresholds[1:], strict=False))


def test_a_spec_overrides_the_plan(small_plan: FluidPlan) -> None:
    assert make_policy("concurrency-cap:cap=25", small_plan) == ConcurrencyCap(25.0)
    made = make_policy("nested-wait:hold_s=0.5,strict=false", small_plan)
    assert isinstance(made, NestedWait)
    assert (made.hold_s, made.strict) == (0.5, False)
    fluid = make_policy("fluid:shares=0.5/0.5,prompt_tokens=8/8,output_quantiles=5/9,class_timeouts_s=0/3", small_plan)
    assert isinstance(fluid, Fluid)
    assert (fluid.shares, fluid.class_timeouts_s, fluid.class_floors) == ((0.5, 0.5), (0.0, 3.0), ())
    own = Greedy()
    assert make_policy(own, small_plan) is own


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("gready", r"unknown policy 'gready'; did you mean greedy\?"),
        ("watermrk:share=0.1", "did you mean watermark"),
        ("zzz", r"unknown policy 'zzz'. Known: .*greedy"),
        ("", "unknown policy ''"),
        ("concurrency-cap:size=3", r"'size=3' is not key=value with a known key \(known: cap\)"),
        ("concurrency-cap:cap", "'cap' is not key=value"),
        ("greedy:cap=1", r"known: none"),
        ("concurrency-cap:cap=many", "cap='many' is not a number"),
        ("fluid:shares=1/much", "shares='1/much' is not numbers with slashes between them"),
        ("wait:output_edges=5/many", "output_edges='5/many' is not numbers with slashes between them"),
        ("fluid:class_weights=1/3", "policy fluid: class_weights needs one number per class, 1 in all"),
        ("concurrency-cap:cap=", "cap='' is not a number"),
        ("concurrency-cap:cap=0", "policy concurrency-cap: cap = 0.0 must be at least 1"),
    ],
)
def test_bad_specs_are_refused(spec: str, words: str, small_plan: FluidPlan) -> None:
    with pytest.raises(InputError, match=words):
        make_policy(spec, small_plan)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ConcurrencyCap(0.5), "at least 1 request"),
        (lambda: ConcurrencyCap(float("nan")), "at least 1 request"),
        (lambda: ConcurrencyCap(1e300), "finite"),
        (lambda: RateLimited(0.0), "above 0"),
        (lambda: RateLimited(float("inf")), "finite"),
        (lambda: RateLimited(float("nan")), "above 0"),
        (lambda: Watermark(1.0), "below 1"),
        (lambda: Watermark(-0.1), "at least 0"),
        (lambda: Watermark(float("nan")), "at least 0"),
        (lambda: Wait(0.0, False, (1.0,), (5.0,)), "one threshold per type"),
        (lambda: Wait(0.0, False, (1.0, 0.0), (5.0,)), "must be above 0"),
        (lambda: Wait(-1.0, False, (1.0,), ()), "hold_s = -1.0"),
        (lambda: Wait(float("nan"), False, (1.0,), ()), "hold_s = nan"),
        (lambda: Wait(0.0, True, (1.5,), ()), "whole thresholds"),
        (lambda: Wait(0.0, True, (float("inf"),), ()), "finite"),
        (lambda: Wait(float("inf"), False, (1.0,), ()), "finite"),
        (lambda: Wait(0.0, False, (1.0, 1.0, 1.0), (9.0, 5.0)), "must rise"),
        (lambda: Wait(0.0, False, (1.0, float("nan")), (5.0,)), "must be above 0"),
        (lambda: NestedWait(0.0, False, (1.0,), (5.0,)), "one threshold per segment"),
        (lambda: NestedWait(0.0, False, (1.0, -1.0), (5.0,)), "must be above 0"),
        (lambda: NestedWait(0.0, False, (1.0, float("nan")), (5.0,)), "must be above 0"),
        (lambda: NestedWait(0.0, False, (1.0, 1.0, 1.0), (9.0, 5.0)), "must rise"),
        (lambda: NestedWait(0.0, False, (1.0, 1.0), (0.0,)), "above 0 tokens"),
        (lambda: NestedWait(-1.0, False, (1.0,), ()), "hold_s = -1.0"),
        (lambda: NestedWait(0.0, True, (2.0, 0.5), (5.0,)), "whole thresholds"),
    ],
)
def test_bad_parameters_are_refused(make: type[Policy], words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()


def test_parameters_pack_in_field_order() -> None:
    assert Wait(0.5, True, (2.0, 3.0), (7.0,)).pack().tolist() == [0.5, 1.0, 2.0, 2.0, 3.0, 1.0, 7.0]
    assert NestedWait(0.5, False, (2.0,), ()).pack().tolist() == [0.5, 0.0, 1.0, 2.0, 0.0]
    assert Greedy().pack().tolist() == []
    assert ConcurrencyCap(7).pack().dtype == np.float64


@pytest.mark.usefixtures("clean_registry")
def test_a_users_policy_is_made_by_name(small_plan: FluidPlan) -> None:
    @policy("mine")
    class Mine(Policy):
        share: float = 0.5

    assert "mine" in policy_names()
    assert make_policy("mine:share=0.25", small_plan) == Mine(0.25)
    assert Mine().name == "mine"
    with pytest.raises(AttributeError):
        Mine().share = 1.0  # type: ignore[misc]


def test_a_former_name_of_a_parameter_is_refused_with_the_present_one(small_plan: FluidPlan) -> None:
    with pytest.raises(InputError, match="policy fluid: stalled_share is now called evicted_share"):
        make_policy("fluid:stalled_share=0.2", small_plan)


def test_a_plan_is_made_only_for_a_policy_that_needs_one(small_plan: FluidPlan) -> None:
    def never() -> FluidPlan:
        raise AssertionError("nothing is left for a plan to say")

    for spec in ("greedy", "max-utilization", "concurrency-cap:cap=7", "watermark:share=0.1"):
        make_policy(spec, never)
    assert make_policy("concurrency-cap", lambda: small_plan) == make_policy("concurrency-cap", small_plan)
