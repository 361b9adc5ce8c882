"""Every registered policy passes the conformance kit, with the parameters that a plan gives it and with others."""

import pytest

from fluidgate.fluid import plan
from fluidgate.policies import (
    ConcurrencyCap,
    Fluid,
    NestedWait,
    Policy,
    RateLimited,
    Wait,
    Watermark,
    make_policy,
    policy_class,
    policy_names,
)
from fluidgate.testing import PolicyCheck, check_policy, policy_checks, small_hardware, small_workloads

SPECS = [
    "a-min",
    "codel",
    "concurrency-cap",
    "expected-completions",
    "fluid",
    "fluid:timeout_s=20",
    "fluid:announced=true,drop_residents=true",
    "fluid-volume",
    "greedy",
    "interval",
    "known-deadlines",
    "known-lengths",
    "lifo",
    "max-utilization",
    "mc-sf",
    "nested-wait",
    "nested-wait:strict=true",
    "no-evict",
    "past-future",
    "queue-cap",
    "rate-limited",
    "sglang",
    "shortest-first",
    "smallest-volume-first",
    "wait",
    "wait:strict=true",
    "watermark",
]


def planned() -> dict[str, Policy]:
    overload = next(w for w in small_workloads() if w.name == "overload")
    small_plan = plan(overload, small_hardware())
    return {spec: make_policy(spec, small_plan) for spec in SPECS}


PLANNED = planned()


def test_every_policy_of_the_package_is_checked() -> None:
    ours = {name for name in policy_names() if policy_class(name).__module__.startswith("fluidgate.")}
    assert ours == {spec.partition(":")[0] for spec in SPECS}


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, id=f"{spec}: {check.law}")
        for spec, policy in PLANNED.items()
        for check in policy_checks(policy)
    ],
)
def test_planned_policies_conform(check: PolicyCheck) -> None:
    check()


def test_planned_policies_say_what_they_need() -> None:
    strict = {spec for spec in SPECS if spec.endswith(":strict=true")}
    assert {spec for spec, policy in PLANNED.items() if policy.may_idle} == strict
    assert {spec for spec, policy in PLANNED.items() if policy.needs_output_length} == {
        "a-min",
        "known-deadlines",
        "known-lengths",
        "mc-sf",
        "shortest-first",
        "smallest-volume-first",
        "wait",
        "wait:strict=true",
    }


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
