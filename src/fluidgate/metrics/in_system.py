"""The number of requests in the system over time: what Little's law and the stability verdict look at."""

from __future__ import annotations

import numpy as np

from fluidgate.arrays import FloatArray, IntArray
from fluidgate.engine import RunRecords


def number_in_system(records: RunRecords) -> tuple[FloatArray, IntArray]:
    """Requests that have arrived and not finished.

    Returns:
        The m distinct times at which requests arrive or finish, shape (m,), seconds, rising; and the requests in
        the system from each of these times to the next, shape (m,). Requests that never finish never leave.
    """
    arrivals, departures = records.arrival_s, records.last_token_s[records.finished]
    times = np.unique(np.concatenate((arrivals, departures)))
    arrived = np.searchsorted(arrivals, times, side="right")
    left = np.searchsorted(np.sort(departures), times, side="right")
    return times, arrived - left
