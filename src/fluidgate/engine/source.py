"""`Source`: requests of a closed loop or of sessions that are not sent yet, and what decides when they are."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fluidgate.arrays import NONE, FloatArray, IntArray
from fluidgate.workload import Workload

# Indices into `Source.number`.
(
    KIND,
    CONCURRENCY,  # most requests in flight
    IN_FLIGHT,  # requests that were sent and have not left
    DUE,  # length of the heap of requests that are due
    LEFT,  # length of the heap of requests that have left an engine
    NUMBERS,
) = range(6)

# Indices into `Source.time_s`.
(
    FREED,  # when the latest client had its last token
    OVERHEAD,  # from an engine's last token to the arrival of what the client sends at once
    TIMES,
) = range(3)

OPEN, OWN, SHARED = range(3)
"""Kinds: all arrivals are known beforehand; one engine with its own source; one source of several replicas."""

UNLIMITED = 1 << 62


class Source(NamedTuple):
    """What is offered in a closed loop; the columns by row are empty in an open loop."""

    due_s: FloatArray  # by row: when it may be sent; until the turn before it is answered, its earliest time
    delay_s: FloatArray  # by row: from the reply before it
    next_turn: IntArray  # by row: the first turn that waits for its reply, NONE if none does
    sibling: IntArray  # by row: the next turn that waits for the same reply
    due: IntArray  # heap of rows by (due_s, row)
    left_s: FloatArray  # by row: when its client has the last token
    left: IntArray  # heap of rows by (left_s, row)
    number: IntArray
    time_s: FloatArray


def new_source(workload: Workload, overhead_s: float) -> Source:
    """Nothing sent yet: of a turn the reply before it is missing, and everything else is due at its arrival."""
    number = np.zeros(NUMBERS, np.int64)
    if not workload.is_closed:
        return _source(0, number)
    n = len(workload)
    source = _source(n, number)
    after = workload.after if workload.has_sessions else np.full(n, NONE, np.int64)
    first = np.flatnonzero(after < 0)
    source.due_s[:] = workload.arrival_s
    source.due[: len(first)] = first  # in order of (time, row): a heap as it is
    for row in np.flatnonzero(after >= 0)[::-1].tolist():  # backwards, so that siblings are in order of their rows
        source.sibling[row] = source.next_turn[after[row]]
        source.next_turn[after[row]] = row
    if workload.has_sessions:
        source.delay_s[:] = workload.delay_s
    source.time_s[OVERHEAD] = overhead_s
    number[KIND] = OWN
    number[CONCURRENCY] = workload.concurrency or UNLIMITED
    number[DUE] = len(first)
    return source


def _source(n: int, number: IntArray) -> Source:
    def rows() -> IntArray:
        return np.full(n, NONE, np.int64)

    return Source(np.zeros(n), np.zeros(n), rows(), rows(), rows(), np.zeros(n), rows(), number, np.zeros(TIMES))
