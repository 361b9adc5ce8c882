"""Repeats of a recorded trace: a block bootstrap that keeps bursts and the order of requests within blocks."""

from __future__ import annotations

import numpy as np

from fluidgate.workload._random import random_streams
from fluidgate.workload.core import Workload

MEAN_BLOCK = 200
"""Mean block length in requests: long enough to keep bursts, short enough that repeats differ."""


def resample(workload: Workload, seed: int) -> Workload:
    """As many requests as `workload`, in blocks of consecutive requests drawn with wrap-around.

    Gaps between arrivals travel with their requests (stationary bootstrap, Politis and Romano 1994). The rate is
    scaled to the original's, so that every repeat offers the same load.
    """
    rng = np.random.default_rng(*random_streams(seed, 1))
    n = len(workload)
    starts_block = rng.random(n) < 1.0 / MEAN_BLOCK
    starts_block[0] = True
    block = np.cumsum(starts_block) - 1
    first = np.flatnonzero(starts_block)
    rows = (rng.integers(0, n, len(first))[block] + np.arange(n) - first[block]) % n
    mean_gap_s = workload.duration_s / max(n - 1, 1)
    gaps_s = np.diff(workload.arrival_s, prepend=workload.arrival_s[0] - mean_gap_s)[rows]
    arrival_s = np.concatenate(([0.0], np.cumsum(gaps_s[1:])))
    if arrival_s[-1] > 0:
        arrival_s *= workload.duration_s / arrival_s[-1]
    return workload.reordered(rows, arrival_s)
