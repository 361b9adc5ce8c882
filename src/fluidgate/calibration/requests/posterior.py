"""The most probable step time given measured loads and an estimate, by least squares over simulated runs.

Unknown are the logarithms of the coefficients and the overhead. The estimate is the prior: each coefficient within a
factor of about two of it (`PRIOR_SIGMA`), so that what the loads do not determine stays physical. A simulated run is
no smooth function of its step time, so derivatives are taken over steps that change it by `PROBE`; they are close to
linear. The spread of the residuals, which is model error as well as noise, is estimated together with the fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fluidgate.arrays import BoolArray, FloatArray
from fluidgate.calibration.requests.load import Load, Replay
from fluidgate.errors import InputError
from fluidgate.hardware.calibration import COEFFICIENTS
from fluidgate.hardware.core import StepTime

PRIOR_SIGMA = 0.4
"""Of the logarithm of a coefficient: 95% of machines within a factor of 2.2 of their estimate."""
OVERHEAD_S, OVERHEAD_SIGMA_S = 0.010, 0.020
"""What HTTP and the tokeniser take on most servers, and how far from that it may be."""
SPREADS = (0.02, 0.03)
"""First guesses of the residuals' spread, TPOT and TTFT; relative."""
LEAST_SPREAD = 0.005
"""Groups of requests agree no better than this, even in two runs of one simulator."""
COMMON = 2.0**0.5
"""Two groups of a load say about as much as one would by itself: so intervals hold the truth as often as they say."""
PROBE = 0.03
MAX_PROBE = 0.5
OVERHEAD_PROBE_S = 0.002
HUBER = 2.0
ROUNDS, ITERATIONS, RETRIES = 4, 25, 6
LARGEST_STEP = 0.5
DIGITS = 6
"""Of what is simulated: processors add up in different orders, and a simulated run hangs on the last bit."""


class Residuals(NamedTuple):
    """Errors of a simulated run: of the groups of every load, and which of them are of TTFT."""

    errors: FloatArray
    of_ttft: BoolArray


@dataclass(frozen=True, eq=False)
class Posterior:
    """The most probable step time and how sure it is.

    Attributes:
        step_time: the coefficients.
        overhead_s: what a request takes outside the engine.
        sigma: standard deviations of the logarithms of `fitted`, and last of the overhead, seconds.
        correlation: of the same.
        fitted: the coefficients that were fitted: those that the estimate gives; the others are 0.
        spreads: of the residuals of TPOT and of TTFT, relative.
    """

    step_time: StepTime
    overhead_s: float
    sigma: FloatArray
    correlation: FloatArray
    fitted: tuple[str, ...]
    spreads: tuple[float, float]


class Problem:
    """Loads, the estimate, and how a load is simulated."""

    def __init__(self, loads: Sequence[Load], estimate: StepTime, replay: Replay) -> None:
        self.loads, self.replay = loads, replay
        self.fitted = tuple(name for name in COEFFICIENTS if getattr(estimate, name) > 0)
        self.prior = np.append([np.log(getattr(estimate, name)) for name in self.fitted], OVERHEAD_S)
        self.prior_sigma = np.append(np.full(len(self.fitted), PRIOR_SIGMA), OVERHEAD_SIGMA_S)

    def step_time(self, unknowns: FloatArray) -> StepTime:
        """The step time of a point, the same to the bit on every processor."""
        coefficients = [float(f"{value:.{DIGITS}g}") for value in np.exp(unknowns[:-1])]
        return StepTime(**dict(zip(self.fitted, coefficients, strict=True)))

    def residuals(self, unknowns: FloatArray) -> Residuals:
        """The errors of the loads, simulated at a point."""
        step_time = self.step_time(unknowns)
        errors, of_ttft = [], []
        for load in self.loads:
            simulated = self.replay(load.run.workload, step_time)
            for part, is_ttft in (
                (load.tpot_errors(simulated), False),
                (load.ttft_errors(simulated, unknowns[-1]), True),
            ):
                errors.append(part)
                of_ttft.append(np.full(len(part), is_ttft))
        return Residuals(np.concatenate(errors), np.concatenate(of_ttft))

    def probes(self, unknowns: FloatArray) -> FloatArray:
        """How far apart derivatives are taken: where a coefficient is a small share of the time, far."""
        step_time = self.step_time(unknowns)
        shares = np.mean([load.shares(step_time) for load in self.loads], axis=0)
        shares = shares[[COEFFICIENTS.index(name) for name in self.fitted]]
        return np.append(np.clip(PROBE / np.maximum(shares, 1e-9), PROBE, MAX_PROBE), OVERHEAD_PROBE_S)


def most_probable(
    loads: Sequence[Load], estimate: StepTime, replay: Replay, progress: Callable[[int, int], None] | None = None
) -> Posterior:
    """Fit the loads.

    Raises:
        InputError: an estimate that says nothing of a step's fixed time.
    """
    if estimate.c0 <= 0:
        raise InputError("the estimate has no fixed time of a step (c0); name the model and the GPU")
    problem = Problem(loads, estimate, replay)
    unknowns, spreads = problem.prior, SPREADS
    for done in range(ROUNDS):
        if progress is not None:
            progress(done, ROUNDS)
        unknowns, errors, information = _search(problem, unknowns, _widened(spreads))
        before, spreads = spreads, _spreads(errors)
        if all(abs(np.log(now / then)) < 0.1 for now, then in zip(spreads, before, strict=True)):
            break
    covariance = np.linalg.inv(information)
    sigma = np.sqrt(np.diag(covariance))
    return Posterior(
        step_time=problem.step_time(unknowns),
        overhead_s=float(unknowns[-1]),
        sigma=sigma,
        correlation=covariance / np.outer(sigma, sigma),
        fitted=problem.fitted,
        spreads=spreads,
    )


def _spreads(residuals: Residuals) -> tuple[float, float]:
    """The spread of either kind: a normal distribution's mean |error| is 0.8 of it."""
    free = len(residuals.errors) / max(len(residuals.errors) - len(COEFFICIENTS), 1)
    of_kind = (np.abs(residuals.errors[residuals.of_ttft == is_ttft]) for is_ttft in (False, True))
    tpot, ttft = (max(LEAST_SPREAD, 1.25 * float(errors.mean() * np.sqrt(free))) for errors in of_kind)
    return tpot, ttft


def _widened(spreads: tuple[float, float]) -> tuple[float, float]:
    """Spreads as if groups were independent: they share a load's course, and each request is in two groups of TTFT."""
    tpot, ttft = spreads
    return COMMON * tpot, COMMON * float(np.sqrt(2.0)) * ttft


def _search(
    problem: Problem, start: FloatArray, spreads: tuple[float, float]
) -> tuple[FloatArray, Residuals, FloatArray]:
    """Levenberg and Marquardt, with Huber's loss: the best point, its errors, and the information there."""
    prior_information = np.diag(problem.prior_sigma**-2.0)

    def scaled(point: FloatArray) -> tuple[FloatArray, Residuals]:
        residuals = problem.residuals(point)
        return residuals.errors / np.where(residuals.of_ttft, spreads[1], spreads[0]), residuals

    def loss(errors: FloatArray, point: FloatArray) -> float:
        small = np.abs(errors) < HUBER
        fit = np.where(small, errors**2 / 2, HUBER * (np.abs(errors) - HUBER / 2)).sum()
        return float(fit + (((point - problem.prior) / problem.prior_sigma) ** 2).sum() / 2)

    point, damping, information = start, 1e-2, prior_information
    errors, residuals = scaled(point)
    lowest = loss(errors, point)
    for _ in range(ITERATIONS):
        probes = problem.probes(point)
        slopes = np.column_stack(
            [
                (scaled(point + probe)[0] - scaled(point - probe)[0]) / (2 * probe[k])
                for k, probe in enumerate(np.diag(probes))
            ]
        )
        weights = np.minimum(1.0, HUBER / np.maximum(np.abs(errors), 1e-9))
        gradient = slopes.T @ (weights * errors) + prior_information @ (point - problem.prior)
        information = slopes.T @ (weights[:, None] * slopes) + prior_information
        for _ in range(RETRIES):
            step = -np.linalg.solve(information + damping * np.diag(np.diag(information)), gradient)
            step[:-1] = np.clip(step[:-1], -LARGEST_STEP, LARGEST_STEP)
            tried = np.round(point + step, DIGITS)
            tried[-1] = max(tried[-1], 0.0)
            tried_errors, tried_residuals = scaled(tried)
            reached = loss(tried_errors, tried)
            if reached < lowest:
                break
            damping = 4 * max(damping, 1e-3)
        else:
            break
        gained, damping = lowest - reached, damping / 5
        point, errors, residuals, lowest = tried, tried_errors, tried_residuals, reached
        if gained < 1e-3 * max(lowest, 1.0):
            break
    return point, residuals, information
