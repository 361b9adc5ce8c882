"""The proposed interval between prompts: 1 where it cannot gain, and near the simulated optimum where it can."""

from dataclasses import replace

import numpy as np
import pytest

from fluidgate.engine import EngineConfig, run
from fluidgate.fluid import FluidPlan, RequestMix, plan
from fluidgate.fluid.interval import INTERVALS
from fluidgate.fluid.plan_rows import all_rows
from fluidgate.hardware import Hardware, StepGrid, StepTime
from fluidgate.hardware.knots import TOKEN_KNOTS_PER_OCTAVE, knots_to
from fluidgate.policies import Greedy, Interval, make_policy
from fluidgate.workload import Workload

DECODES, CONTEXTS, CHUNKS = knots_to(256), knots_to(2048), knots_to(2048)
TOKENS = knots_to(2304, TOKEN_KNOTS_PER_OCTAVE)


def machine(prompt_step_s: float) -> Hardware:
    """10 ms a step and 20 µs a token; a step with a prompt takes `prompt_step_s` more."""
    n, c = np.meshgrid(DECODES, CONTEXTS, indexing="ij")
    chunk, past = np.meshgrid(CHUNKS, CONTEXTS, indexing="ij")
    grid = StepGrid(0.01 + 2e-5 * n + 0 * c, 0.0 * n * c, 0.01 + prompt_step_s + 2e-5 * TOKENS, 0.0 * chunk * past)
    return Hardware("tables", StepTime(0.01, 2e-5), 4000, 16, grid=grid)


def load_at(rate: float, requests: int = 4000) -> Workload:
    rng = np.random.default_rng(3)
    arrival_s = np.cumsum(rng.exponential(1 / rate, requests))
    return Workload(arrival_s, rng.integers(50, 150, requests), rng.integers(50, 150, requests))


def planned(rate: float, prompt_step_s: float) -> FluidPlan:
    return plan(load_at(rate), machine(prompt_step_s), rate=rate)


def simulated_e2e_s(rate: float, prompt_step_s: float, steps: int) -> float:
    load, config = load_at(rate), EngineConfig(prefill_schedule_interval=steps)
    records = run(load, machine(prompt_step_s), Greedy(), config)
    return float((records.last_token_s - load.arrival_s).mean())


def test_an_affine_step_time_leaves_nothing_to_gain() -> None:
    """Neither as four terms, where the plan knows it, nor as tables of the same, where it has to find out."""
    affine = plan(load_at(20.0), replace(machine(0.0), grid=None), rate=20.0)
    assert (affine.prefill_interval.steps, affine.prefill_interval.e2e_s) == (1, ())
    assert dict(all_rows(affine))["prefill interval"] == "1: none shortens mean E2E"
    assert planned(20.0, 0.0).prefill_interval.steps == 1


@pytest.mark.parametrize("rate", [10.0, 30.0])
def test_it_is_near_the_best_where_steps_with_prompts_cost_more(rate: float) -> None:
    """20 ms more for a step with prompts: mean E2E within 3% of what each interval gives, and 2% of the best."""
    found = planned(rate, 0.02).prefill_interval
    by_steps = {steps: simulated_e2e_s(rate, 0.02, steps) for steps in INTERVALS}
    assert found.steps > 1
    assert by_steps[found.steps] < 1.02 * min(by_steps.values())
    gains = [1 - by_steps[steps] / by_steps[1] for steps in INTERVALS]
    assert 1 - np.array(found.e2e_s) / found.e2e_s[0] == pytest.approx(gains, abs=0.05)
    assert make_policy("interval", planned(rate, 0.02)) == Interval(float(found.steps))


def test_above_the_boundary_requests_pile_up_and_nothing_is_held() -> None:
    boundary = planned(20.0, 0.02).stability.boundary_rate
    assert planned(1.1 * boundary, 0.02).prefill_interval.steps == 1


def test_the_plan_says_what_it_saves() -> None:
    found = planned(30.0, 0.02)
    sentence = found.verdict[-1]
    assert f"--prefill-schedule-interval {found.prefill_interval.steps} (vLLM 0.33)" in sentence
    assert found.to_dict()["prefill_interval"]["steps"] == found.prefill_interval.steps


def test_one_type_of_requests_without_decodes() -> None:
    """Outputs of one token: no step is of decodes, and nothing is held."""
    mix = RequestMix([5.0], [100], [1])
    assert plan(mix, machine(0.02)).prefill_interval.steps == 1
