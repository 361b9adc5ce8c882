"""Whole thresholds for Nested WAIT: what Algorithm 2 needs to the letter, where the real ones are paces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

import numpy as np

from fluidgate.arrays import BoolArray, FloatArray, IntArray
from fluidgate.fluid.limits import Limits
from fluidgate.fluid.mix import RequestMix
from fluidgate.fluid.segments import PromptBound, Segments, candidate_cuts, segments
from fluidgate.hardware.core import StepTime

MAX_ENTRY = 2**16
"""The largest n_1 that is tried; from a few times 1/(1 - p) on, whole ratios are as good as real ones."""
ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class WholeNestedThresholds:
    """Whole thresholds of Algorithm 2: the least that serve the rate, if those fit, over all ways to cut the decode.

    If not, those that serve the largest rate of all that fit, as the real ones do; if none fits, the least of all.
    Their ratios are between p_k and 1 in any case. The algorithm has no seats.

    Attributes:
        segments: the segments.
        thresholds: n_k, shape (L,); they fall from segment to segment.
        memory_tokens: M^π in whole blocks, tokens.
        iteration_time_s: duration of an iteration with n_k requests at every stage of segment k.
        rate: n_1 over that time; they serve any lower rate, requests per second.
        feasible: whether they serve the rate of the mix, within memory and token budget.
        required_memory_tokens, required_tokens: M^π and tokens per iteration of the least that serve the rate of the
            mix; infinite where none do.
    """

    segments: Segments
    thresholds: IntArray
    memory_tokens: float
    iteration_time_s: float
    rate: float
    feasible: bool
    required_memory_tokens: float
    required_tokens: float


class _Chain(NamedTuple):
    """Thresholds, and what they cost."""

    cut: Segments
    thresholds: FloatArray
    memory: float
    tokens: float
    seconds: float

    @property
    def rate(self) -> float:
        return float(self.thresholds[0]) / self.seconds


def whole_nested_thresholds(
    mix: RequestMix, step_time: StepTime, limits: Limits, prompt_bound: PromptBound = "mean"
) -> WholeNestedThresholds:
    """The whole thresholds for `mix` at its own rate."""
    cuts = [segments(mix, cut, limits.law, prompt_bound) for cut in candidate_cuts(mix)]
    serving = [chain for cut in cuts if (chain := _least_serving(cut, mix.total_rate, step_time))]
    fitting = [chain for chain in serving if _fits(chain, limits)]
    least = min(fitting or serving, key=_memory, default=None)
    chosen = least
    if not fitting:
        slower = [chain for cut in cuts if (chain := _fastest_fitting(cut, step_time, limits))]
        smallest = [chain for cut in cuts if (chain := _first(cut, step_time))]
        chosen = max(slower, key=lambda chain: chain.rate) if slower else min(smallest, key=_memory)
    assert chosen is not None  # one segment always has n_1 = 1
    return WholeNestedThresholds(
        segments=chosen.cut,
        thresholds=chosen.thresholds.astype(np.int64),
        memory_tokens=chosen.memory,
        iteration_time_s=chosen.seconds,
        rate=chosen.rate,
        feasible=bool(fitting),
        required_memory_tokens=inf if least is None else least.memory,
        required_tokens=inf if least is None else least.tokens,
    )


def _memory(chain: _Chain) -> float:
    return chain.memory


def _fits(chain: _Chain, limits: Limits) -> bool:
    return chain.memory <= limits.kv_tokens and chain.tokens <= limits.batched_tokens


def _least_serving(cut: Segments, rate: float, step_time: StepTime) -> _Chain | None:
    """The least of these segments: everything grows with n_1, and with each n_k for the same n_{k-1}."""
    shares = np.cumprod(np.append(1.0, cut.survival[1:]))
    if (_seconds(cut, shares[None], step_time)[0] - step_time.c0) * rate >= 1.0:
        return None  # even without what whole numbers add, iterations grow faster than n_1
    for entry in _entries():
        thresholds = _chains(cut, entry)
        seconds = _seconds(cut, thresholds, step_time)
        serves = _falls(thresholds) & (seconds * rate < thresholds[:, 0])
        if serves.any():
            return _chain(cut, thresholds[np.argmax(serves)], step_time)
    return None


def _fastest_fitting(cut: Segments, step_time: StepTime, limits: Limits) -> _Chain | None:
    """Of all that fit, those that serve the largest rate."""
    best: _Chain | None = None
    for entry in _entries():
        thresholds = _chains(cut, entry)
        memory, tokens = thresholds @ (cut.stages * cut.memory_tokens), _tokens(cut, thresholds)
        within = (memory <= limits.kv_tokens) & (tokens <= limits.batched_tokens)
        rate = np.where(within & _falls(thresholds), thresholds[:, 0] / _seconds(cut, thresholds, step_time), 0.0)
        if rate.max() > (best.rate if best else 0.0):
            best = _chain(cut, thresholds[np.argmax(rate)], step_time)
        if not within[-1]:
            break
    return best


def _first(cut: Segments, step_time: StepTime) -> _Chain | None:
    """The least whose ratios are right."""
    for entry in _entries():
        falls = _falls(thresholds := _chains(cut, entry))
        if falls.any():
            return _chain(cut, thresholds[np.argmax(falls)], step_time)
    return None


def _falls(thresholds: FloatArray) -> BoolArray:
    falls: BoolArray = np.all(np.diff(thresholds, axis=1) < 0, axis=1)
    return falls


def _chain(cut: Segments, thresholds: FloatArray, step_time: StepTime) -> _Chain:
    row = thresholds[None]
    memory = float(thresholds @ (cut.stages * cut.memory_tokens))
    return _Chain(cut, thresholds, memory, float(_tokens(cut, row)[0]), float(_seconds(cut, row, step_time)[0]))


def _entries() -> Iterator[FloatArray]:
    """The values of n_1, in rising order and in growing pieces: small ones mostly do."""
    start, size = 1, 64
    while start < MAX_ENTRY:
        yield np.arange(start, start + size, dtype=np.float64)
        start, size = start + size, 4 * size


def _chains(cut: Segments, entry: FloatArray) -> FloatArray:
    """For each n_1 the least n_k above p_k·n_{k-1}, shape (n, L)."""
    columns = [entry]
    for survival in cut.survival[1:]:
        columns.append(np.floor(columns[-1] * survival * (1.0 + ROUNDING)) + 1.0)
    return np.column_stack(columns)


def _tokens(cut: Segments, thresholds: FloatArray) -> FloatArray:
    more: FloatArray = thresholds @ cut.stages + thresholds[:, 0] * (float(cut.prompt_tokens[0]) - 1.0)
    return more


def _seconds(cut: Segments, thresholds: FloatArray, step_time: StepTime) -> FloatArray:
    """Of an iteration with n_k requests at every stage of segment k."""
    kv_tokens = thresholds @ (cut.stages * (cut.prompt_tokens + cut.mean_stage))
    pairs, requests = thresholds[:, 0] * cut.attention_pairs, thresholds @ cut.stages
    seconds: FloatArray = step_time.duration_s(_tokens(cut, thresholds), kv_tokens, pairs, requests)
    return seconds
