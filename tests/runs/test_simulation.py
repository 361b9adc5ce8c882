"""`simulate` beyond the range that a step time was calibrated in, and other runs with what has warned already."""

import inspect
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from fluidgate import compare, simulate
from fluidgate.cli import plan as plan_command
from fluidgate.cli.simulate import RunOptions
from fluidgate.errors import CalibrationWarning
from fluidgate.hardware import Calibration, Hardware, StepTime
from fluidgate.policies import Greedy
from fluidgate.serving import emulate
from fluidgate.serving.startup import configured_policy
from fluidgate.workload import Workload

LOAD = Workload(np.arange(60) * 0.5, np.full(60, 500), np.full(60, 100), name="load")


def machine(most_kv_tokens: float) -> Hardware:
    uncorrelated = tuple(tuple(float(i == j) for j in range(5)) for i in range(5))
    known = Calibration(100, (0.0,) * 5, uncorrelated, 0.0, tokens=(1, 4096), kv_tokens=(1, most_kv_tokens))
    return Hardware("calibrated", StepTime(0.01, 4e-5, 3e-7), num_gpu_blocks=2000, calibration=known)


@pytest.mark.parametrize("policy", ["greedy", Greedy()])
def test_a_run_beyond_the_calibrated_range_warns_whatever_names_the_policy(policy: str | Greedy) -> None:
    with pytest.warns(CalibrationWarning, match="calibrated: the step time is extrapolated"):
        simulate(LOAD, machine(1000.0), policy)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        simulate(LOAD, machine(40_000.0), policy)


def test_a_comparison_warns_of_its_plans_not_of_every_run() -> None:
    with pytest.warns(CalibrationWarning) as caught:
        compare(LOAD, machine(1000.0), ["greedy", "watermark"], loads=[0.5, 0.9], repeats=2)
    assert len({str(warning.message) for warning in caught}) == 1
    assert len(caught) < 8  # runs


def test_one_policy_is_the_default_everywhere() -> None:
    """Of `plan --save`, the plugin without a plan file, and both ways to run, from Python and as commands."""
    served, *_ = configured_policy(None, SimpleNamespace(additional_config=None), None)
    defaults = [inspect.signature(run).parameters["policy"].default for run in (simulate, emulate)]
    assert {served.name, *defaults, RunOptions().policy, plan_command.DEFAULT_POLICY} == {"fluid"}
    assert simulate(LOAD, machine(40_000.0)).policy == "fluid"
