"""Every registered policy passes the conformance kit, with the parameters that a plan gives it and with others."""

import pytest

from fluidgate.fluid import FluidPlan
from fluidgate.policies import (
    ConcurrencyCap,
    Fluid,
    NestedWait,
    Policy,
    RateLimited,
    Wait,
    Watermark,
    make_policy,
    policy_names,
)
from fluidgate.testing import check_policy

OURS = ["concurrency-cap", "fluid", "greedy", "nested-wait", "rate-limited", "wait", "watermark"]


def test_all_are_registered() -> None:
    assert set(OURS) <= set(policy_names())


@pytest.mark.parametrize("spec", [*OURS, "wait:strict=true", "nested-wait:strict=true"])
def test_planned_policies_conform(spec: str, small_plan: FluidPlan) -> None:
    policy = make_policy(spec, small_plan)
    assert policy.may_idle == ("strict" in spec)
    assert policy.needs_output_length == spec.startswith("wait")
    check_policy(policy)


@pytest.mark.parametrize(
    "policy",
    [
        ConcurrencyCap(1.0),
        Fluid(),
        Fluid(0.0, (0.5, 0.25, 0.25), (4.0, 8.0, 2.0), (2.0, 3.0, 8.0)),
        Fluid(1.0, (1.0,), (1000.0,), (1000.0,)),
        RateLimited(0.01),
        RateLimited(50.0),
        Watermark(0.0),
        Watermark(0.9),
        Wait(0.05, False, (2.0, 0.5), (9.0,)),
        Wait(0.0, True, (2.0, 1.0), (9.0,)),
        NestedWait(0.05, False, (3.0, 2.0, 0.5), (3.0, 12.0)),
        NestedWait(0.0, True, (2.0, 1.0), (4.0,)),
    ],
    ids=repr,
)
def test_policies_conform_at_their_extremes(policy: Policy) -> None:
    check_policy(policy)
