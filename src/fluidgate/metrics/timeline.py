"""`Timeline`: one run over time in a few hundred numbers, peaks kept, with its distributions: what figures need."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fluidgate.arrays import FloatArray, IntArray
from fluidgate.engine import RunRecords, StepRecords
from fluidgate.errors import InputError
from fluidgate.metrics.batches import batch_entries
from fluidgate.metrics.per_request import e2el_s, tpot_s, ttft_s

BINS = 300
"""Bins of time; with a least and a most value each, a figure has 600 points."""

COARSE_BINS = 100
"""Bins of what is averaged over many iterations or requests."""

LEVELS = np.linspace(0.0, 100.0, 101)
"""The percentiles of a distribution."""


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """One run. Lists of plain numbers, so that it goes through JSON; NaN where there is nothing.

    Attributes:
        edges_s: edges of `BINS` bins of equal width, seconds.
        kv_low, kv_mean, kv_high: KV blocks in use ÷ all in each bin; an idle engine uses none.
        waiting_mean, waiting_high: requests that wait (arrived, not resident, not finished or aborted).
        evicted: requests evicted up to the end of each bin.
        coarse_edges_s: edges of at most `COARSE_BINS` bins.
        held_s: mean time for which the policy alone kept out the requests that arrived in each coarse bin.
        batch: mean number of batch members per stage range (outer list) and coarse bin; empty if the run was not
            recorded with its decisions.
        ttft_s, tpot_s, e2el_s, silence_s: percentiles 0, 1, …, 100 over requests; empty if no request has one.
    """

    edges_s: list[float]
    kv_low: list[float]
    kv_mean: list[float]
    kv_high: list[float]
    waiting_mean: list[float]
    waiting_high: list[float]
    evicted: list[int]
    coarse_edges_s: list[float]
    held_s: list[float]
    batch: list[list[float]]
    ttft_s: list[float]
    tpot_s: list[float]
    e2el_s: list[float]
    silence_s: list[float]


def timeline(records: RunRecords, stage_edges: list[int]) -> Timeline:
    """What happened over time in a run that was recorded with its steps, or with its decisions.

    Args:
        stage_edges: rising edges of the stage ranges, in output tokens, shape (ranges + 1,).

    Raises:
        InputError: the run was not recorded with its steps.
    """
    steps = records.steps
    if steps is None:
        raise InputError("the iterations of this run were not recorded; run it with record='steps' or 'decisions'")
    edges, coarse = _edges(records, BINS), _coarse_edges(records, steps)
    followed = len(steps.batch) == int(steps.scheduled.sum())
    kv = _in_engine(records, steps, (records.total_blocks - steps.free_blocks) / records.total_blocks)
    waiting = _waiting(records, steps)
    evicted = np.append(0, np.cumsum(steps.preempted))[np.searchsorted(steps.start_s, edges[1:], side="right")]
    streamed = records.last_token_s > records.first_token_s
    return Timeline(
        edges_s=edges.tolist(),
        kv_low=kv.least(edges).tolist(),
        kv_mean=kv.mean(edges).tolist(),
        kv_high=kv.most(edges).tolist(),
        waiting_mean=waiting.mean(edges).tolist(),
        waiting_high=waiting.most(edges).tolist(),
        evicted=evicted.tolist(),
        coarse_edges_s=coarse.tolist(),
        held_s=_mean_by(records.arrival_s, records.held_s, coarse).tolist(),
        batch=batch_by_stage(records, stage_edges, coarse).tolist() if followed else [],
        ttft_s=_percentiles(ttft_s(records)),
        tpot_s=_percentiles(tpot_s(records)),
        e2el_s=_percentiles(e2el_s(records)),
        silence_s=_percentiles(records.longest_gap_s[streamed]),
    )


def _edges(records: RunRecords, bins: int) -> FloatArray:
    """From the first arrival to the end of the run; one second where no time passed, in a run that stalled at once."""
    start_s = float(np.nanmin(records.arrival_s))
    return np.linspace(start_s, records.end_s if records.end_s > start_s else start_s + 1.0, bins + 1)


def _coarse_edges(records: RunRecords, steps: StepRecords) -> FloatArray:
    """So few bins that an iteration is short against one."""
    return _edges(records, max(1, min(COARSE_BINS, len(steps) // 10)))


@dataclass(frozen=True, eq=False)
class StepFunction:
    """`value[k]` from `time_s[k]` (rising) to the next, the last one without end."""

    time_s: FloatArray
    value: FloatArray

    def mean(self, edges: FloatArray) -> FloatArray:
        """The time average between neighbouring edges; the first edge is not before the first time."""
        area = np.concatenate(([0.0], np.cumsum(self.value[:-1] * np.diff(self.time_s))))
        before = self._at(edges)
        total = area[before] + self.value[before] * (edges - self.time_s[before])
        return np.asarray(np.diff(total) / np.diff(edges))

    def least(self, edges: FloatArray) -> FloatArray:
        """The least value between neighbouring edges."""
        return self._extreme(edges, np.minimum)

    def most(self, edges: FloatArray) -> FloatArray:
        """The largest value between neighbouring edges."""
        return self._extreme(edges, np.maximum)

    def _at(self, times: FloatArray) -> IntArray:
        return np.maximum(np.searchsorted(self.time_s, times, side="right") - 1, 0)

    def _extreme(self, edges: FloatArray, which: np.ufunc) -> FloatArray:
        at = self._at(edges)
        ends = np.searchsorted(self.time_s, edges[1:], side="left")  # a change at the end belongs to the next bin
        starts = np.minimum(at[:-1], ends - 1)
        padded = np.append(self.value, self.value[-1])
        pairs = np.column_stack((starts, np.maximum(ends, starts + 1))).ravel()
        return np.asarray(which.reduceat(padded, pairs)[::2])


def _in_engine(records: RunRecords, steps: StepRecords, value: FloatArray) -> StepFunction:
    """A quantity of each batch, from its start to the next one's; zero while the engine is idle."""
    idle = np.flatnonzero(steps.start_s[1:] > steps.end_s[:-1])
    times = np.concatenate(([np.nanmin(records.arrival_s)], steps.start_s, steps.end_s[idle], steps.end_s[-1:]))
    values = np.zeros(len(times))
    values[1 : 1 + len(value)] = value
    order = np.argsort(times, kind="stable")
    return StepFunction(times[order], values[order])


def _waiting(records: RunRecords, steps: StepRecords) -> StepFunction:
    """Arrived, not gone, not resident; arrivals change it in the middle of an iteration too."""
    residents = _in_engine(records, steps, steps.running.astype(np.float64))
    sent_s = np.sort(records.arrival_s[~np.isnan(records.arrival_s)])
    times = np.union1d(residents.time_s, sent_s)
    arrived = np.searchsorted(sent_s, times, side="right")
    gone_s = np.concatenate((records.last_token_s[records.finished], records.left_s[records.dropped]))
    left = np.searchsorted(np.sort(gone_s), times, side="right")
    inside = residents.value[np.searchsorted(residents.time_s, times, side="right") - 1]
    return StepFunction(times, arrived - left - inside)


def batch_by_stage(records: RunRecords, stage_edges: list[int], edges: FloatArray) -> FloatArray:
    """Mean number of batch members per stage range and bin of time, shape (ranges, bins), idle time included."""
    entries = batch_entries(records)
    steps = records.steps
    assert steps is not None
    middle = (steps.start_s + steps.end_s) / 2
    member_s, _, _ = np.histogram2d(
        entries.stage,
        middle[entries.iteration],
        bins=[np.asarray(stage_edges, dtype=np.float64), edges],
        weights=(steps.end_s - steps.start_s)[entries.iteration],
    )
    return np.asarray(member_s / np.diff(edges))


def _mean_by(at_s: FloatArray, values: FloatArray, edges: FloatArray) -> FloatArray:
    count, _ = np.histogram(at_s, edges)
    total, _ = np.histogram(at_s, edges, weights=values)
    return np.asarray(np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0))


def _percentiles(values: FloatArray) -> list[float]:
    present = values[~np.isnan(values)]
    return np.percentile(present, LEVELS).tolist() if len(present) else []
