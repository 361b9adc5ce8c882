"""Intervals of a plan against the plan of a machine that is that much slower or faster; the measured range."""

import json
import warnings
from dataclasses import astuple, replace
from math import hypot

import numpy as np
import pytest

from fluidgate.calibration import StepPoints, calibrate_steps
from fluidgate.errors import CalibrationWarning
from fluidgate.fluid import Limits, RequestMix, nested_shape, plan, safety_buffer, stability
from fluidgate.fluid.plan_rows import all_rows
from fluidgate.hardware import Calibration, Hardware, StepTime

STEP = StepTime(0.012, 4e-5, 3.5e-7, 2e-9, 1e-5)
A100 = Hardware("7B on A100", STEP, num_gpu_blocks=6876)
CHAT = RequestMix(np.ones(60), np.full(60, 900), np.geomspace(30, 2000, 60).astype(int))
ALONE = tuple(tuple(float(i == j) for j in range(5)) for i in range(5))
TOGETHER = ((1.0,) * 5,) * 5


def calibrated(
    *shares: float | None,
    correlation: tuple[tuple[float, ...], ...] = ALONE,
    misfit: float = 0.0,
    tokens: tuple[float, float] = (1, 4096),
    kv_tokens: tuple[float, float] = (1, 2e5),
) -> Hardware:
    """The machine with coefficients that are known to within these shares of themselves."""
    values = astuple(STEP)
    widths = tuple(None if share is None else share * value for share, value in zip(shares, values, strict=True))
    return replace(A100, calibration=Calibration(100, widths, correlation, misfit, tokens, kv_tokens))


def test_without_a_calibration_there_is_no_interval() -> None:
    found = plan(CHAT, A100, rate=5.0)
    assert found.uncertainty is None
    assert "±" not in dict(all_rows(found))["stability boundary"]


@pytest.mark.parametrize("coefficient", range(5))
def test_the_boundary_moves_as_that_of_a_slower_machine(coefficient: int) -> None:
    shares = [0.0] * 5
    shares[coefficient] = 0.05
    found = plan(CHAT, calibrated(*shares), rate=5.0)
    limits = Limits.of(A100, 2048, 256)
    for sign, end in ((-1, 1), (1, 0)):
        values = [value * (1 + sign * share) for value, share in zip(astuple(STEP), shares, strict=True)]
        expected = stability(CHAT, StepTime(*values), limits).boundary_rate
        assert found.uncertainty is not None
        assert found.uncertainty.boundary_rate[end] == pytest.approx(expected)


def test_errors_that_go_together_add_up_and_independent_ones_add_as_squares() -> None:
    together = plan(CHAT, calibrated(0.1, 0.1, 0.1, 0.1, 0.1, correlation=TOGETHER), rate=5.0).uncertainty
    assert together is not None
    assert together.iteration_time == pytest.approx(0.1)
    alone = plan(CHAT, calibrated(0.1, 0.1, 0.1, 0.1, 0.1), rate=5.0)
    shares = alone.stability.time_shares
    squares = hypot(*astuple(shares))
    assert alone.uncertainty is not None
    assert alone.uncertainty.iteration_time == pytest.approx(0.1 * squares)


def test_misfit_counts_whatever_the_coefficients_say() -> None:
    found = plan(
        CHAT, calibrated(0.03, 0.03, 0.03, 0.03, 0.03, correlation=TOGETHER, misfit=0.02), rate=5.0
    ).uncertainty
    assert found is not None
    assert found.iteration_time == pytest.approx(hypot(0.03, 1.96 * 0.02))


def test_the_buffer_is_that_of_a_slower_and_of_a_faster_machine() -> None:
    found = plan(CHAT, calibrated(0.1, 0.1, 0.1, 0.1, 0.1, correlation=TOGETHER), rate=0.5)
    shape = found.nested.shape
    slack = (
        0.5
        if len(shape.ratio) == 1
        else float((shape.ratio[1] - shape.segments.survival[1]) / (1 - shape.segments.survival[1]))
    )
    expected = []
    for factor in (0.9, 1.1):
        times = StepTime(*(factor * value for value in astuple(STEP)))
        again = nested_shape(shape.segments, slack, times)
        buffer = safety_buffer(again, found.safety_buffer.rate, times, found.limits, found.safety_buffer.guarantee)
        expected.append(buffer.required_tokens)
    assert found.uncertainty is not None
    assert found.uncertainty.safety_buffer_tokens == pytest.approx((min(expected), max(expected)))
    low, high = found.uncertainty.safety_buffer_tokens
    assert low < found.safety_buffer.required_tokens < high


def test_the_row_and_the_json_carry_the_interval() -> None:
    found = plan(CHAT, calibrated(0.05, 0.05, 0.05, 0.05, 0.05, correlation=TOGETHER), rate=5.0)
    rate = found.stability.boundary_rate
    row = dict(all_rows(found))["stability boundary"]
    assert row == f"{rate:.3g} ± {rate / 0.95 - rate:.3g} req/s"
    values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert values["uncertainty"]["boundary_rate"] == pytest.approx([rate / 1.05, rate / 0.95])
    assert len(values["uncertainty"]["safety_buffer_tokens"]) == 2


@pytest.mark.parametrize("shares", [(0.05, 0.05, 0.05, None, 0.05), (0.05, 0.05, 0.05, 0.05, None), (3.0,) * 5])
def test_an_error_that_nobody_knows_is_said_not_left_out(shares: tuple[float | None, ...]) -> None:
    found = plan(CHAT, calibrated(*shares), rate=5.0)
    assert found.uncertainty is None
    assert dict(all_rows(found))["stability boundary"].endswith("req/s, ± unknown")


def test_intervals_from_measured_steps_hold_the_true_boundary() -> None:
    truth = plan(CHAT, A100, rate=5.0).stability.boundary_rate
    held = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        decodes, chunk = rng.integers(1, 200, 200).astype(float), rng.integers(0, 2048, 200).astype(float)
        kv_tokens, pairs = decodes * rng.integers(100, 2000, 200) + chunk, chunk * rng.integers(0, 2000, 200)
        sequences = decodes + (chunk > 0)
        mean_s = STEP.duration_s(decodes + chunk, kv_tokens, pairs, sequences)
        seconds = mean_s * (1 + 0.04 * rng.standard_normal(200))
        points = StepPoints(np.full(200, "step"), decodes + chunk, kv_tokens, pairs, sequences, seconds)
        found = calibrate_steps(points)
        machine = replace(A100, step_time=found.step_time, calibration=found.calibration)
        known = plan(CHAT, machine, rate=5.0).uncertainty
        assert known is not None
        assert known.iteration_time < 0.05
        held += known.boundary_rate[0] <= truth <= known.boundary_rate[1]
    assert held >= 25  # 28.5 less 3 sd of a binomial


@pytest.mark.parametrize(
    ("tokens", "kv_tokens", "said"),
    [
        ((1, 4096), (1, 50_000), "KV tokens (measured: up to 50,000)"),
        ((1, 512), (1, 2e5), "tokens (measured: up to 512)"),
        ((1, 4096), (90_000, 2e5), "fewer KV tokens than 90,000"),
    ],
)
def test_a_plan_beyond_what_was_measured_warns(
    tokens: tuple[float, float], kv_tokens: tuple[float, float], said: str
) -> None:
    machine = calibrated(0.0, 0.0, 0.0, 0.0, 0.0, tokens=tokens, kv_tokens=kv_tokens)
    with pytest.warns(CalibrationWarning, match="the step time is extrapolated") as caught:
        plan(CHAT, machine, rate=2.0)
    assert len(caught) == 1
    assert said in str(caught[0].message)
    assert caught[0].filename == __file__


def test_a_plan_within_what_was_measured_does_not_warn_and_a_sweep_warns_once() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        plan(CHAT, calibrated(0.0, 0.0, 0.0, 0.0, 0.0), rate=2.0)
        assert not caught
        machine = calibrated(0.0, 0.0, 0.0, 0.0, 0.0, kv_tokens=(1, 5e4))
        for rate in (1.0, 2.0, 3.0, 20.0):
            plan(CHAT, machine, rate=rate)
        assert len(caught) == 1
