"""Stage ranges: equal shares in equilibrium, which a run in equilibrium shows."""

import numpy as np
import pytest

from fluidgate.engine import EngineConfig
from fluidgate.fluid import FluidPlan, residents_by_stage, stage_edges
from fluidgate.hardware import get_hardware
from fluidgate.metrics import timeline
from fluidgate.runs import plan_for, simulate
from fluidgate.workload import Workload, generate

HARDWARE = get_hardware("llama-2-7b", "a100-80gb")


def plan_of(output_tokens: list[int], rate: float = 1.0) -> FluidPlan:
    n = len(output_tokens)
    workload = Workload(np.arange(n) / rate, np.full(n, 100), np.array(output_tokens))
    return plan_for(workload, HARDWARE, EngineConfig())


def test_one_length_is_cut_evenly() -> None:
    plan = plan_of([100] * 50)
    assert stage_edges(plan) == [0, 20, 40, 60, 80, 100]
    assert plan.equilibrium is not None
    assert residents_by_stage(plan, [0, 20, 40, 60, 80, 100]) == pytest.approx([plan.equilibrium.residents / 5] * 5)


def test_two_lengths_by_hand() -> None:
    # Half of the requests give 20 tokens, half 100: of 60 tokens on average, 20 are given below stage 20.
    plan = plan_of([20, 100] * 32)
    assert plan.equilibrium is not None
    assert residents_by_stage(plan, [0, 20, 100]) == pytest.approx(
        [plan.equilibrium.residents / 3, plan.equilibrium.residents * 2 / 3]
    )
    assert stage_edges(plan, ranges=3) == [0, 20, 60, 100]


def test_very_short_outputs_have_fewer_ranges() -> None:
    assert stage_edges(plan_of([1, 1, 2, 2])) == [0, 1, 2]
    assert stage_edges(plan_of([1, 1, 1])) == [0, 1]


def test_above_the_boundary_it_is_the_boundarys() -> None:
    plan = plan_of([100] * 50, rate=1e4)
    assert plan.equilibrium is None
    assert sum(residents_by_stage(plan, stage_edges(plan))) == pytest.approx(plan.stability.residents)


def test_a_run_below_the_boundary_comes_near_it() -> None:
    workload = generate("lmsys", n=6000, rate=40.0, seed=3)
    plan = plan_for(workload, HARDWARE, EngineConfig())
    edges = stage_edges(plan)
    seen = timeline(simulate(workload, HARDWARE, "greedy", record="decisions"), edges)
    middle = np.array(seen.batch)[:, 20:80].mean(axis=1)  # without the filling and the emptying
    assert middle == pytest.approx(residents_by_stage(plan, edges), rel=0.15)
