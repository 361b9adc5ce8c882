"""The memory Nested WAIT needs so that it overflows with probability at most δ, and the rate that it buys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.errors import InputError
from fluidgate.fluid.limits import Limits
from fluidgate.fluid.mix import RequestMix
from fluidgate.fluid.nested import NestedShape, NestedThresholds, nested_shape, nested_thresholds
from fluidgate.fluid.segments import PromptBound, candidate_cuts, segments
from fluidgate.hardware.core import StepTime

SLACKS = np.geomspace(0.01, 0.5, 12)


@dataclass(frozen=True)
class Guarantee:
    """What is promised: no overflow within `horizon_s` seconds, but for a probability of `delta`."""

    horizon_s: float = 1000.0
    delta: float = 0.01

    def __post_init__(self) -> None:
        if not (np.isfinite(self.horizon_s) and self.horizon_s > 0):
            raise InputError(f"horizon_s = {self.horizon_s} must be a finite number of seconds above 0")
        if not 0.0 < self.delta < 1.0:
            raise InputError(f"delta = {self.delta} must be a probability strictly between 0 and 1")

    def log_odds(self, count: int, step_time: StepTime) -> float:
        """ln(m(1 + T/d0)/δ): every boundary, at every iteration; no iteration is shorter than one token's."""
        shortest_s = step_time.shortest_s
        return log(count * (1.0 + self.horizon_s / shortest_s) / self.delta)


@dataclass(frozen=True, eq=False)
class SafetyBuffer:
    """M_req of given thresholds (model.md §4), and the largest rate with M_req within the memory.

    With `prompt_bound="max"` this is the paper's guarantee; with "mean" an estimate of it.

    Attributes:
        guarantee: horizon and probability.
        rate: the rate the memory is needed for, requests per second.
        decay: θ_k of each boundary, shape (L - 1,).
        boundary_tokens: memory held for each boundary queue, shape (L - 1,), tokens.
        required_tokens: M_req = M^π + Σ boundary_tokens; infinite where no threshold serves the rate.
        feasible: whether M_req, token budget and seats allow the rate.
        guaranteed_rate: the largest rate they allow with this shape, requests per second; 0 if none.
    """

    guarantee: Guarantee
    rate: float
    decay: FloatArray
    boundary_tokens: FloatArray
    required_tokens: float
    feasible: bool
    guaranteed_rate: float


def decay_rate(survival: FloatArray, ratio: FloatArray) -> FloatArray:
    """θ > 0 with exp(-θ n_k)(1 - p_k + p_k e^θ)^{n_{k-1}} = 1, for ratios q_k = n_k/n_{k-1} in (p_k, 1).

    f(θ) = ln(1 - p + p e^θ) - qθ is convex with f(0) = 0, so it has one root above 0. It lies between
    8(q - p), by Hoeffding, and -ln p/(1 - q), by dropping 1 - p: Newton's steps from there only fall.

    Raises:
        InputError: a ratio is not between its survival and 1.
    """
    p, q = np.asarray(survival, dtype=np.float64), np.asarray(ratio, dtype=np.float64)
    if not np.all((p > 0.0) & (p < q) & (q < 1.0)):
        raise InputError(f"thresholds must fall from segment to segment, slower than survival: {p} < {q} < 1")
    least = 8.0 * (q - p)
    theta = np.maximum(-np.log(p) / (1.0 - q), least)
    for _ in range(200):
        # Written in e^-θ, which cannot overflow; expm1 keeps the digits that cancel near θ = 0.
        grown = np.where(
            theta < 1.0,
            np.log1p(p * np.expm1(np.minimum(theta, 1.0))),
            theta + np.log(p + (1.0 - p) * np.exp(-theta)),
        )
        slope = p / (p + (1.0 - p) * np.exp(-theta)) - q
        following = np.maximum(theta - (grown - q * theta) / slope, least)
        if np.all(np.abs(following - theta) <= 1e-13 * theta):
            break
        theta = following
    return following if theta.size else theta


def safety_buffer(
    shape: NestedShape,
    rate: float,
    step_time: StepTime,
    limits: Limits,
    guarantee: Guarantee,
    decay: FloatArray | None = None,
) -> SafetyBuffer:
    """The buffer of this shape at `rate`; `decay` is that of its boundaries, where it is known already."""
    cut = shape.segments
    if decay is None:
        (decay,) = _decay_rates([shape])
    held = cut.boundary_tokens[1:]
    surge = held * guarantee.log_odds(len(cut), step_time) / decay
    waiting = held * shape.profile[1:]
    entry = shape.entry_threshold(rate, step_time.c0)
    largest = _largest_buffered_entry(shape, limits, float(waiting.sum()), float(surge.sum()))
    return SafetyBuffer(
        guarantee=guarantee,
        rate=rate,
        decay=decay,
        boundary_tokens=entry * waiting + surge,
        required_tokens=entry * (shape.memory_tokens + float(waiting.sum())) + float(surge.sum()),
        feasible=entry <= largest,
        guaranteed_rate=shape.rate_at(largest, step_time.c0),
    )


def best_nested(
    mix: RequestMix,
    step_time: StepTime,
    limits: Limits,
    guarantee: Guarantee | None = None,
    prompt_bound: PromptBound = "mean",
) -> tuple[NestedThresholds, SafetyBuffer]:
    """The best of up to 10 segments and a grid of slacks, for `mix` at its own rate.

    That is the shape with the least M_req if one fits the memory; if none does, the one with the highest
    guaranteed rate; if even that is 0, the one with the highest rate without a buffer. Few distinct outputs
    are also tried one segment each.
    """
    guarantee = guarantee or Guarantee()
    rate = mix.total_rate
    best: tuple[tuple[float, ...], NestedThresholds, SafetyBuffer] | None = None
    shapes = list(_candidate_shapes(mix, step_time, limits, prompt_bound))
    for shape, decay in zip(shapes, _decay_rates(shapes), strict=True):
        thresholds = nested_thresholds(shape, rate, step_time, limits)
        buffer = safety_buffer(shape, rate, step_time, limits, guarantee, decay)
        merit = (
            (1.0, -buffer.required_tokens)
            if buffer.feasible
            else (0.0, buffer.guaranteed_rate, thresholds.rate, -thresholds.memory_tokens)
        )
        if best is None or merit > best[0]:
            best = merit, thresholds, buffer
    assert best is not None  # one segment is always a candidate
    return best[1], best[2]


def largest_guaranteed_rate(mix: RequestMix, step_time: StepTime, limits: Limits, guarantee: Guarantee) -> float:
    """The largest rate at which some shape has the paper's guarantee, for the lengths of `mix`; 0 if none."""
    rate, shapes = mix.total_rate, list(_candidate_shapes(mix, step_time, limits, "max"))
    return max(
        safety_buffer(shape, rate, step_time, limits, guarantee, decay).guaranteed_rate
        for shape, decay in zip(shapes, _decay_rates(shapes), strict=True)
    )


def _decay_rates(shapes: Sequence[NestedShape]) -> list[FloatArray]:
    """The decay of every shape's boundaries, found for all at once: most of a plan's time went into one by one."""
    survival = [shape.segments.survival[1:] for shape in shapes]
    found = decay_rate(np.concatenate(survival), np.concatenate([shape.ratio[1:] for shape in shapes]))
    return np.split(found, np.cumsum([len(part) for part in survival])[:-1])


def _candidate_shapes(
    mix: RequestMix, step_time: StepTime, limits: Limits, prompt_bound: PromptBound
) -> Iterator[NestedShape]:
    for cut in candidate_cuts(mix):
        cut_segments = segments(mix, cut, limits.law, prompt_bound)
        # One segment has no ratio to choose.
        for slack in SLACKS[: len(SLACKS) if len(cut) > 1 else 1]:
            yield nested_shape(cut_segments, float(slack), step_time)


def _largest_buffered_entry(shape: NestedShape, limits: Limits, waiting: float, surge: float) -> float:
    """The largest n_1 with n_1·(M^π + boundary queues) + surges within the memory, budget and seats."""
    by_memory = (limits.kv_tokens - surge) / (shape.memory_tokens + waiting)
    return max(0.0, min(by_memory, shape.largest_entry(limits)))
