"""Thresholds for Nested WAIT (unknown output lengths): one per segment, held to the paper's conditions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.errors import InputError
from fluidgate.fluid.limits import Limits
from fluidgate.fluid.segments import Segments
from fluidgate.hardware.core import StepTime

TIME_SLACK = 1.01
"""n_1/Λ_1 over the time of the iteration that serves n_1; the paper asks for more than 1."""


@dataclass(frozen=True, eq=False)
class NestedShape:
    """Thresholds up to their scale, n_k = n_1·profile_k, and what a unit of n_1 costs.

    Attributes:
        segments: the segments.
        ratio: q_k = n_k/n_{k-1}, shape (L,), between p_k and 1; the first is 1.
        profile: n_k/n_1, shape (L,).
        memory_tokens: M^π per unit of n_1, in whole blocks, tokens.
        requests: requests that run per unit of n_1.
        tokens: tokens computed per iteration and unit of n_1.
        work_s: seconds that a unit of n_1 adds to an iteration.
    """

    segments: Segments
    ratio: FloatArray
    profile: FloatArray
    memory_tokens: float
    requests: float
    tokens: float
    work_s: float

    def entry_threshold(self, rate: float, c0: float) -> float:
        """n_1 with n_1/Λ_1 = slack·(c0 + n_1·work); infinite when the work takes all the time."""
        busy = TIME_SLACK * rate * self.work_s
        return TIME_SLACK * rate * c0 / (1.0 - busy) if busy < 1.0 else float("inf")

    def rate_at(self, entry_threshold: float, c0: float) -> float:
        """The rate whose n_1 this is, requests per second."""
        return entry_threshold / (TIME_SLACK * (c0 + entry_threshold * self.work_s))

    def largest_entry(self, limits: Limits) -> float:
        """The largest n_1 whose M^π fits the memory, within the token budget and the seats."""
        return min(
            limits.kv_tokens / self.memory_tokens,
            limits.batched_tokens / self.tokens,
            limits.seats / self.requests,
        )


@dataclass(frozen=True, eq=False)
class NestedThresholds:
    """Thresholds of Algorithm 2 (model.md §4); real numbers, realised over time.

    They meet c0 + (work of n) < n_1/Λ_1 and p_k < n_k/n_{k-1} < 1, at the rate they are made for.

    Attributes:
        shape: segments and ratios.
        rate: the rate they are made for, requests per second; below the mix's own where memory asks for it.
        thresholds: n_k, shape (L,), requests.
        memory_tokens: M^π = Σ n_k (l_k + s̄_k) δ_k, in whole blocks, tokens.
        iteration_time_s: duration of an iteration with n_k requests at every stage of segment k.
    """

    shape: NestedShape
    rate: float
    thresholds: FloatArray
    memory_tokens: float
    iteration_time_s: float

    @property
    def segments(self) -> Segments:
        """The segments the thresholds belong to."""
        return self.shape.segments


def nested_shape(segments: Segments, slack: float, step_time: StepTime) -> NestedShape:
    """Ratios a share `slack` of the way from p_k up to 1, and what they cost.

    Raises:
        InputError: `slack` is not strictly between 0 and 1.
    """
    if not 0.0 < slack < 1.0:
        raise InputError(f"survival slack {slack} must lie strictly between 0 and 1")
    ratio = segments.survival + slack * (1.0 - segments.survival)
    profile: FloatArray = np.cumprod(ratio, dtype=np.float64)
    per_stage = profile * segments.stages
    requests = float(per_stage.sum())
    kv_tokens = float(per_stage @ (segments.prompt_tokens + segments.mean_stage))
    tokens = requests + float(segments.prompt_tokens[0]) - 1.0
    batch_s = step_time.duration_s(tokens, kv_tokens, segments.attention_pairs, requests)
    return NestedShape(
        segments=segments,
        ratio=ratio,
        profile=profile,
        memory_tokens=float(per_stage @ segments.memory_tokens),
        requests=requests,
        tokens=tokens,
        work_s=float(batch_s) - step_time.c0,
    )


def nested_thresholds(shape: NestedShape, rate: float, step_time: StepTime, limits: Limits) -> NestedThresholds:
    """Thresholds of this shape at `rate`, or at the largest rate whose M^π still fits, if that is less.

    Raises:
        InputError: c0 = 0 (thresholds would be 0).
    """
    c0 = step_time.c0
    if c0 == 0.0:
        raise InputError("thresholds need a fixed time per step; set the step time's c0 above 0")
    entry = shape.entry_threshold(rate, c0)
    largest = shape.largest_entry(limits)
    if entry > largest:
        entry, rate = largest, shape.rate_at(largest, c0)
    return NestedThresholds(
        shape=shape,
        rate=rate,
        thresholds=entry * shape.profile,
        memory_tokens=entry * shape.memory_tokens,
        iteration_time_s=c0 + entry * shape.work_s,
    )
