"""Thresholds for WAIT (known output lengths): one per class, held to the paper's conditions."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np

from fluidgate.arrays import FloatArray, IntArray
from fluidgate.errors import InputError
from fluidgate.fluid.equilibrium import equilibrium
from fluidgate.fluid.limits import Limits
from fluidgate.fluid.mix import RequestMix
from fluidgate.fluid.stability import largest_admissions, stability
from fluidgate.hardware.core import StepTime

MAX_EXACT_TYPES = 16
MAX_BINS = 8
TIME_SLACK = 1.05


@dataclass(frozen=True, eq=False)
class WaitThresholds:
    """Thresholds n_j = λ_j τ of Algorithm 1 (model.md §3), per class of output length.

    Real thresholds are realised over time (add n_j per opportunity, admit the whole part). `integer` is
    the least whole-number solution of the conditions, whether or not it fits.

    Attributes:
        output_edges: class k holds outputs in (edge k-1, edge k], shape (K - 1,), tokens.
        rate: arrivals per class the thresholds are made for, shape (K,), requests per second.
        period_range_s: all τ that meet the conditions, [ΔT*, x*/λ].
        period_s: the τ chosen.
        thresholds: n_j = λ_j τ, shape (K,), requests, real numbers.
        memory_tokens: M^π = Σ n_j a_j in whole blocks, tokens.
        iteration_time_s: duration of an iteration with n_j requests at every stage.
        integer: least n_j = max(1, ceil(λ_j·iteration time)), shape (K,).
        integer_memory_tokens: their M^π, tokens.
        integer_tokens_per_iteration: tokens computed when all of them run.
        integer_residents: requests resident when all of them run.
        integer_feasible: whether memory, token budget and seats hold all three.
    """

    output_edges: IntArray
    rate: FloatArray
    period_range_s: tuple[float, float]
    period_s: float
    thresholds: FloatArray
    memory_tokens: float
    iteration_time_s: float
    integer: IntArray
    integer_memory_tokens: float
    integer_tokens_per_iteration: float
    integer_residents: float
    integer_feasible: bool


def wait_thresholds(
    mix: RequestMix, step_time: StepTime, limits: Limits, output_edges: IntArray | None = None
) -> WaitThresholds:
    """WAIT thresholds for `mix` at its own rate; classes by `output_edges`, by default `length_edges(mix)`.

    τ is the least that leaves 5% of slack above ΔT*, for latency grows as o·τ; where the range is narrower
    than that it is the geometric mean, which leaves the same slack in time and in memory.

    Raises:
        InputError: the rate is not below the boundary, or c0 = 0 (thresholds would be 0).
    """
    limits.refuse_oversized(mix)
    steady_state = equilibrium(mix, step_time, limits.law)
    longest_s = largest_admissions(mix, limits) / mix.total_rate
    if steady_state is None or steady_state.iteration_time_s >= longest_s:
        raise InputError(
            f"no thresholds exist at {mix.total_rate:g} req/s: the boundary is "
            f"{stability(mix, step_time, limits).boundary_rate:g} req/s; scale the rate down"
        )
    shortest_s = steady_state.iteration_time_s
    if shortest_s == 0.0:
        raise InputError("thresholds need a fixed time per step; set the step time's c0 above 0")
    period_s = min(TIME_SLACK * shortest_s, sqrt(shortest_s * longest_s))
    classes = mix.grouped(length_edges(mix) if output_edges is None else output_edges)
    work_s = classes.mean(mix.work_s(step_time))
    memory = classes.mean(mix.memory_token_iterations(limits.law))
    thresholds = classes.rate * period_s
    integer = _least_integers(classes.rate, work_s, step_time.c0, shortest_s)
    integer_memory = float(integer @ memory)
    integer_tokens = float(integer @ classes.mean(mix.tokens))
    integer_residents = float(integer @ classes.mean(mix.iterations))
    return WaitThresholds(
        output_edges=classes.output_edges,
        rate=classes.rate,
        period_range_s=(shortest_s, longest_s),
        period_s=period_s,
        thresholds=thresholds,
        memory_tokens=float(thresholds @ memory),
        iteration_time_s=step_time.c0 + float(thresholds @ work_s),
        integer=integer,
        integer_memory_tokens=integer_memory,
        integer_tokens_per_iteration=integer_tokens,
        integer_residents=integer_residents,
        integer_feasible=(
            integer_memory <= limits.kv_tokens
            and integer_tokens <= limits.batched_tokens
            and integer_residents <= limits.seats
        ),
    )


def length_edges(mix: RequestMix) -> IntArray:
    """Edges of output classes: exact lengths up to 16 of them, else at most 8 classes of equal share."""
    lengths = mix.by_output.lengths
    if len(lengths) <= MAX_EXACT_TYPES:
        return lengths[:-1]
    edges: IntArray = mix.by_output.quantiles(np.arange(1, MAX_BINS) / MAX_BINS)
    inner: IntArray = edges[edges < lengths[-1]]
    return inner


def _least_integers(rate: FloatArray, work_s: FloatArray, c0: float, equilibrium_s: float) -> IntArray:
    """The least n_j = max(1, ceil(λ_j·(c0 + Σ n w))).

    Every solution lasts at least ΔT* per iteration, so iterating from there rises to the least one; it ends
    because Σ λ_j w_j < 1.
    """
    n = _ceil(rate * equilibrium_s)
    while True:
        following = np.maximum(n, _ceil(rate * (c0 + float(n @ work_s))))
        if np.array_equal(following, n):
            return n.astype(np.int64)
        n = following


def _ceil(values: FloatArray) -> FloatArray:
    # At least 1, for rates are above 0; a product that is whole but for rounding must not cost a request.
    return np.ceil(values * (1.0 - 1e-12))
