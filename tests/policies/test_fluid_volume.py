"""`fluid-volume`: the order of the queue, and that a large request is not starved."""

from collections.abc import Callable

import numpy as np
import pytest

from fluidgate.engine import RunRecords
from fluidgate.errors import InputError
from fluidgate.fluid import FluidPlan, plan
from fluidgate.kernel import interpreted
from fluidgate.policies import Fluid, FluidVolume, make_policy
from fluidgate.policies.protocol import Request
from fluidgate.testing import check_policy, small_hardware, small_workloads

TWO_CLASSES = ((0.75, 0.25), (10.0, 20.0), (4.0, 8.0, 30.0, 50.0))
"""Shares, prompts, and two output quantiles for each class."""


@pytest.fixture(scope="module")
def overload_plan() -> FluidPlan:
    return plan(next(w for w in small_workloads() if w.name == "overload"), small_hardware())


def rank(policy: FluidVolume, arrival_s: float, prompt_tokens: int, class_id: int = 0) -> float:
    assert policy.rank is not None
    return float(interpreted(policy.rank)(policy.pack(), Request(0, arrival_s, prompt_tokens, -1, class_id)))


def volume(prompt_tokens: float, outputs: tuple[float, ...]) -> float:
    lengths = np.array(outputs)
    return float((prompt_tokens * lengths + lengths * (lengths - 1) / 2).mean())


def test_rank_is_arrival_and_patience_for_the_volume() -> None:
    policy = FluidVolume(0.1, *TWO_CLASSES, patience_s=100.0)
    mean = 0.75 * volume(10.0, (4.0, 8.0)) + 0.25 * volume(20.0, (30.0, 50.0))
    for prompt, class_id, outputs in ((10, 0, (4.0, 8.0)), (3, 0, (4.0, 8.0)), (20, 1, (30.0, 50.0))):
        expected = 7.0 + 100.0 * volume(prompt, outputs) / mean
        assert rank(policy, 7.0, prompt, class_id) == pytest.approx(expected)


def test_without_patience_the_order_is_that_of_arrival() -> None:
    policy = FluidVolume(0.1, *TWO_CLASSES, patience_s=0.0)
    assert rank(policy, 3.5, 900, 1) == 3.5


def test_without_a_prior_short_prompts_go_first() -> None:
    assert rank(FluidVolume(), 0.0, 10) < rank(FluidVolume(), 0.0, 500)


def test_small_requests_pass_a_large_one_until_it_has_waited_long_enough(
    simulate: Callable[..., RunRecords],
) -> None:
    # One block per token, 40 blocks, a second per iteration: the first request fills the engine until 20 s. A large one
    # waits from 1 s on, small ones come every second from 2 s. The large one's rank is 1 + patience · (its volume ÷ the
    # prior's): it enters before those that come later than that.
    prior = ((1.0,), (2.0,), (10.0,))
    requests = [(0.0, 19, 20), (1.0, 12, 10), *((float(t), 2, 10) for t in range(2, 12))]
    relative = (volume(12, (10.0,)) - volume(2, (10.0,))) / volume(2, (10.0,))
    for patience_s in (0.0, 3.0, 100.0):
        records = simulate(FluidVolume(0.1, *prior, patience_s=patience_s), requests, blocks=40, max_idle_s=1.0)
        passing = [row for row in range(2, 12) if records.arrival_s[row] < 1.0 + patience_s * relative]
        later = [row for row in range(2, 12) if row not in passing]
        assert (records.first_scheduled_s[passing] <= records.first_scheduled_s[1]).all()
        assert (records.first_scheduled_s[later] >= records.first_scheduled_s[1]).all()


def test_plans_a_patience_of_ten_service_times(overload_plan: FluidPlan) -> None:
    policy = make_policy("fluid-volume", overload_plan)
    assert isinstance(policy, FluidVolume)
    service_s = overload_plan.mix.mean_output_tokens * overload_plan.stability.iteration_time_s
    assert policy.patience_s == pytest.approx(10 * service_s)
    fluid = make_policy("fluid", overload_plan)
    assert isinstance(fluid, Fluid)
    assert (policy.shares, policy.output_quantiles) == (fluid.shares, fluid.output_quantiles)


@pytest.mark.parametrize("policy", [FluidVolume(), FluidVolume(0.0, *TWO_CLASSES, patience_s=0.5)], ids=repr)
def test_conforms(policy: FluidVolume) -> None:
    check_policy(policy)


def test_refuses_a_patience_that_is_no_time() -> None:
    with pytest.raises(InputError, match=r"policy fluid-volume: patience_s = -1\.0 must be at least 0 s"):
        FluidVolume(patience_s=-1.0)
