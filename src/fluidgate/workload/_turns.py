"""Who follows whom in the sessions of a workload: rows of the turn before, under changes of the rows."""

from __future__ import annotations

import numpy as np

from fluidgate.arrays import BoolArray, FloatArray, IntArray


def first_turn_of(after: IntArray) -> IntArray:
    """The row that begins the session of each row, shape (n,)."""
    root = np.where(after < 0, np.arange(len(after)), after)
    while (root != root[root]).any():
        root = root[root]
    return root


def renumbered(after: IntArray, delay_s: FloatArray, rows: IntArray) -> tuple[IntArray, FloatArray]:
    """`after` and `delay_s` of the rows `rows` in their new places; the k-th copy of a turn follows the k-th before it.

    A turn whose turn before is not there, or not ahead of it, follows none.
    """
    if len(after) == 0:
        return after, delay_s
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    copy = np.empty(len(rows), np.int64)
    copy[order] = np.arange(len(rows)) - np.searchsorted(ordered, ordered)
    wanted = after[rows]
    place = np.searchsorted(ordered, wanted) + copy
    there = (wanted >= 0) & (place < np.searchsorted(ordered, wanted, side="right"))
    before = order[np.minimum(place, len(rows) - 1)]
    there &= before < np.arange(len(rows))
    if not there.any():
        return after[:0], delay_s[:0]
    return np.where(there, before, -1), np.where(there, delay_s[rows], 0.0)


def bridged(
    after: IntArray, delay_s: FloatArray, arrival_s: FloatArray, gone: BoolArray
) -> tuple[IntArray, FloatArray, FloatArray]:
    """`after`, `delay_s` and `arrival_s` where the turns `gone` are answered at the instant at which they are sent.

    If r is gone, a turn j after it is due at max(arrival_j, sent_r + delay_j), with sent_r = max(arrival_r, end of the
    turn before r + delay_r): as if it came after that turn, with both delays.
    """
    after, delay_s, earliest_s = after.copy(), delay_s.copy(), arrival_s.copy()
    own_after, own_delay_s = after.copy(), delay_s.copy()
    while True:
        rows = np.flatnonzero((after >= 0) & gone[after])
        if len(rows) == 0:
            return after, delay_s, earliest_s
        before = after[rows]
        earliest_s[rows] = np.maximum(earliest_s[rows], arrival_s[before] + delay_s[rows])
        ended = own_after[before] < 0  # it waited for nothing: its time is known
        delay_s[rows] = np.where(ended, 0.0, delay_s[rows] + own_delay_s[before])
        after[rows] = own_after[before]
