"""One replication: a run that begins with a backlog, and whether work stayed behind in it.

A queue is stable at a rate if it drains while it stands. So every run begins with a backlog of a quarter of its
requests, at least ten times n*, the residents at the boundary, and is watched from when half as many requests have
finished (the engine has turned over five times) until 1.5 n* or fewer requests are left in the system, or the last
one arrives.

Counted is the number in system with each request weighed by the seconds that the fluid bound gives it
(`bound_seconds`): then it does not matter which lengths a stretch of the run happened to serve, and a policy that
starves long requests gains nothing. Two known sources of noise are taken out. Arrivals count with their mean, load ×
time, instead of as they came. And a request that is in service as the watch begins or ends counts for the part of its
stay that lies within.

The change of that weight has the sign of the drift in the mean, although the watch may end when the queue is short:
weight minus drift × time is a martingale, so by Wald's identity its mean is drift × mean time, and the sum is tested,
not the slope of each run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.engine import RunRecords
from fluidgate.errors import InputError
from fluidgate.metrics.in_system import number_between
from fluidgate.workload import Workload

BACKLOG_SHARE = 0.25
"""Part of a run's requests that are there at its beginning."""

SHORT_QUEUE = 1.5
"""The watch ends when this many times n* are in the system."""


@dataclass(frozen=True)
class WorkLeft:
    """What a stretch of a run left behind.

    Attributes:
        left_s: growth of the weight in system, in seconds that the bound gives; its mean has the sign of the drift.
        offered_s: mean weight that arrived.
    """

    left_s: float
    offered_s: float


def backlog_of(requests: int) -> int:
    """Requests that are there at the beginning of a run of `requests`."""
    return int(BACKLOG_SHARE * requests)


def with_backlog(draw: Workload, rate: float) -> Workload:
    """The backlog at time 0, and the other requests from then on, at `rate` requests per second.

    Raises:
        InputError: all requests arrive at once, so that they have no order in time to be sped up.
    """
    first = backlog_of(len(draw))
    later_s = draw.arrival_s[first:] - draw.arrival_s[first - 1]
    if later_s[-1] <= 0:
        raise InputError(f"{draw.name}: all requests arrive at once, so they can come at no other rate; give arrivals")
    later_s *= len(later_s) / (rate * later_s[-1])
    return replace(draw, arrival_s=np.concatenate((np.zeros(first), later_s)))


def work_left(records: RunRecords, request_s: FloatArray, load: float, residents: float) -> WorkLeft:
    """Measure a run of `with_backlog`.

    Args:
        request_s: seconds that the bound gives each request, shape (n,).
        load: arrival rate × their mean over the law of lengths.
        residents: n*.
    """
    begin_s, end_s = _watch(records, SHORT_QUEUE * residents)
    done = records.finished
    entered_s, left_s = records.first_scheduled_s[done], records.last_token_s[done]
    within_s = np.clip(left_s, begin_s, end_s) - np.clip(entered_s, begin_s, end_s)
    served_s = float((request_s[done] * within_s / (left_s - entered_s)).sum())
    offered_s = load * (end_s - begin_s)
    return WorkLeft(offered_s - served_s, offered_s)


def _watch(records: RunRecords, short: float) -> tuple[float, float]:
    """From half the backlog's worth of completions to a short queue or the last arrival, seconds.

    A policy that never gets that far is watched from the beginning.
    """
    ends_s = np.sort(records.last_token_s[records.finished])
    half = backlog_of(len(records.workload)) // 2
    last_s = records.workload.duration_s
    begin_s = float(ends_s[half]) if len(ends_s) > half else 0.0
    if begin_s >= last_s:
        return 0.0, last_s
    # those that wait at the client for a place in flight stand in the queue as well
    times, counts = number_between(records.workload.arrival_s, records.last_token_s[records.finished])
    short_from = times[(times > begin_s) & (counts <= short)]
    return begin_s, min(last_s, float(short_from[0])) if len(short_from) else last_s
