"""The wait that could be told at arrival: those who wait ÷ those started per second, against the wait that came."""

from __future__ import annotations

from math import exp

import numpy as np

from fluidgate.arrays import FloatArray, IntArray
from fluidgate.engine import RunRecords
from fluidgate.policies.parts.in_time import FEWEST_STARTS, START_WINDOW

PASSED_OVER = 8.0
"""Iterations for which requests must have been waiting: one that the next iteration takes does not wait."""


def wait_errors(records: RunRecords, begin_s: float, end_s: float) -> FloatArray:
    """(predicted − came) ÷ came, for those sent from `begin_s` to `end_s` who found a queue and were started.

    Starts per second are counted as the policy counts them: while requests wait, weighted exponentially over
    `START_WINDOW` iterations. Shape (requests,).
    """
    iteration_s = records.busy_s / max(1, records.iterations)
    arrival_s, start_s = records.arrival_s, records.first_scheduled_s
    out_s = np.where(np.isnan(start_s), records.left_s, start_s)
    times_s, waiting = _queue(arrival_s, out_s)
    busy_s = np.concatenate([[0.0], np.cumsum(np.diff(times_s) * (waiting[:-1] > 0))])
    counted_s = np.sort(start_s[~np.isnan(start_s)])
    counted_s = counted_s[waiting[np.searchsorted(times_s, counted_s)] > 0]
    asked = (arrival_s >= begin_s) & (arrival_s < end_s) & ~np.isnan(start_s)
    position = waiting[np.searchsorted(times_s, arrival_s[asked], side="left")] - 1  # itself
    clock = np.interp(arrival_s[asked], times_s, busy_s)
    rate = _rates(np.interp(counted_s, times_s, busy_s), clock, START_WINDOW * iteration_s)
    came_s = start_s[asked] - arrival_s[asked]
    stood_s = clock - np.interp(arrival_s[asked] - PASSED_OVER * iteration_s, times_s, busy_s)
    told = (position > 0) & (rate > 0.0) & (came_s > 0.0) & (stood_s >= 0.999 * PASSED_OVER * iteration_s)
    return np.asarray(position[told] / rate[told] / came_s[told] - 1.0)


def _queue(arrival_s: FloatArray, out_s: FloatArray) -> tuple[FloatArray, IntArray]:
    """When the queue changes, and how many wait from then on."""
    ends_s = out_s[~np.isnan(out_s)]
    times_s, place = np.unique(np.concatenate([arrival_s, ends_s]), return_inverse=True)
    changes = np.concatenate([np.ones(len(arrival_s)), -np.ones(len(ends_s))])
    return times_s, np.cumsum(np.bincount(place, changes, len(times_s))).astype(np.int64)


def _rates(starts: FloatArray, asked: FloatArray, window_s: float) -> FloatArray:
    """Starts per second at the times asked, weighted exponentially; 0 where too few were seen. Times rise."""
    weight, last, rates, following = 0.0, 0.0, np.zeros(len(asked)), 0
    for index, now in enumerate(asked):
        while following < len(starts) and starts[following] <= now:
            weight = weight * exp((last - starts[following]) / window_s) + 1.0
            last = starts[following]
            following += 1
        seen = weight * exp((last - now) / window_s)
        if seen >= FEWEST_STARTS:
            rates[index] = seen / (window_s * (1.0 - exp(-now / window_s)))
    return rates
