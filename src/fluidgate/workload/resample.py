"""Repeats of a recorded trace: a block bootstrap that keeps bursts and the order of requests within blocks."""

from __future__ import annotations

import numpy as np

from fluidgate.arrays import FloatArray, IntArray
from fluidgate.workload._random import random_streams
from fluidgate.workload._turns import first_turn_of
from fluidgate.workload.core import Workload

MEAN_BLOCK = 200
"""Mean block length in requests: long enough to keep bursts, short enough that repeats differ."""


def resample(workload: Workload, seed: int) -> Workload:
    """As many requests as `workload`, in blocks of consecutive requests drawn with wrap-around.

    Gaps between arrivals travel with their requests (stationary bootstrap, Politis and Romano 1994). The rate is
    scaled to the original's, so that every repeat offers the same load.

    With sessions, the blocks are of consecutive sessions, each with all its turns: as many sessions as `workload` has.
    """
    rng = np.random.default_rng(*random_streams(seed, 1))
    first = workload.first_turns
    drawn, begin_s = _blocks(workload.arrival_s[first], rng)
    if not workload.has_sessions:
        return workload.reordered(drawn, begin_s)
    root = first_turn_of(workload.after)
    turns = np.argsort(root, kind="stable")  # session after session
    ends = np.searchsorted(root[turns], first, side="right")
    counts = np.diff(ends, prepend=0)
    offsets = np.repeat(ends[drawn] - np.cumsum(counts[drawn]), counts[drawn])
    rows = turns[np.arange(counts[drawn].sum()) + offsets]
    arrival_s = np.repeat(begin_s, counts[drawn]) + (workload.arrival_s - workload.arrival_s[root])[rows]
    order = np.argsort(arrival_s, kind="stable")
    return workload.reordered(rows[order], arrival_s[order])


def _blocks(arrival_s: FloatArray, rng: np.random.Generator) -> tuple[IntArray, FloatArray]:
    """Which of n arrivals are drawn, and when they come; shape (n,) each."""
    n = len(arrival_s)
    duration_s = float(arrival_s[-1])
    starts_block = rng.random(n) < 1.0 / MEAN_BLOCK
    starts_block[0] = True
    block = np.cumsum(starts_block) - 1
    first = np.flatnonzero(starts_block)
    rows = (rng.integers(0, n, len(first))[block] + np.arange(n) - first[block]) % n
    mean_gap_s = duration_s / max(n - 1, 1)
    gaps_s = np.diff(arrival_s, prepend=arrival_s[0] - mean_gap_s)[rows]
    times_s = np.concatenate(([0.0], np.cumsum(gaps_s[1:])))
    if times_s[-1] > 0:
        times_s *= duration_s / times_s[-1]
    return rows, times_s
