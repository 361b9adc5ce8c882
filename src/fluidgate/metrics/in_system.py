"""The number of requests in the system over time: what Little's law and the stability verdict look at."""

from __future__ import annotations

import numpy as np

from fluidgate.arrays import FloatArray, IntArray
from fluidgate.engine import RunRecords


def number_in_system(records: RunRecords, *, only_served_leave: bool = False) -> tuple[FloatArray, IntArray]:
    """Requests that were sent and have neither finished nor been aborted; without those that wait at their client.

    Args:
        only_served_leave: count those that were dropped as if they had stayed.

    Returns:
        The m distinct times at which requests arrive or leave, shape (m,), seconds, rising; and the requests in
        the system from each of these times to the next, shape (m,). Requests that are left over never leave.
    """
    departures = records.last_token_s[records.finished]
    if not only_served_leave:
        departures = np.concatenate((departures, records.left_s[records.dropped]))
    return number_between(records.arrival_s, departures)


def number_between(arrivals: FloatArray, departures: FloatArray) -> tuple[FloatArray, IntArray]:
    """The same from the times of arrivals and departures, in any order."""
    arrivals = np.sort(arrivals[~np.isnan(arrivals)])
    times = np.unique(np.concatenate((arrivals, departures)))
    arrived = np.searchsorted(arrivals, times, side="right")
    left = np.searchsorted(np.sort(departures), times, side="right")
    return times, arrived - left
