"""Rules that scale a fleet, each a function of what servers publish: ours from the boundary, others by thresholds.

A rule says what the Horizontal Pod Autoscaler is told by KEDA: a number of replicas, not yet whole, and the ratio by
which the metric is off its target, which has to leave the autoscaler's tolerance before anything changes.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from fluidgate.bounds import MAX_RATE, MAX_SECONDS, check_number
from fluidgate.engine import Seen
from fluidgate.errors import InputError


class Asked(NamedTuple):
    """A rule's answer: replicas, not yet whole, and how far its metric is from the target; 1: as it should be."""

    replicas: float
    ratio: float


class ScalingRule(Protocol):
    """A frozen rule."""

    @property
    def name(self) -> str:
        """For tables."""

    def asked(self, seen: Sequence[Seen]) -> Asked:
        """What it asks for after these looks, the last of which is now; at least one."""


@dataclass(frozen=True)
class Line:
    """The least-squares line through a metric's latest values, as PromQL's `deriv` and `predict_linear` draw it.

    Attributes:
        level: its value now.
        slope: per second.
    """

    level: float
    slope: float

    @classmethod
    def through(cls, times_s: Sequence[float], values: Sequence[float]) -> Line | None:
        """None with fewer than two values, as PromQL answers nothing then."""
        if len(values) < 2:
            return None
        ahead_s = np.asarray(times_s) - times_s[-1]
        middle_s, mean = float(ahead_s.mean()), float(np.mean(values))
        slope = float((ahead_s - middle_s) @ (np.asarray(values) - mean) / ((ahead_s - middle_s) ** 2).sum())
        return cls(mean - slope * middle_s, slope)

    def at(self, ahead_s: float) -> float:
        """Its value so many seconds from now."""
        return self.level + self.slope * ahead_s


@dataclass(frozen=True)
class Boundary:
    """Ours: so many replicas that the rate, when one asked for now is ready, is below what they hold.

    The rate is measured over `window_s`, and the line through its last `trend_s` is followed for the `lead_s` that a
    replica takes to start. More are asked for exactly when that line crosses what the fleet holds within `lead_s`, or
    the rate has crossed it already; fewer as soon as both the rate and the line fit on fewer.

    Attributes:
        replica_rate: what a replica is to be given, requests per second: a share of its stability boundary.
        lead_s: start-up time, seconds.
    """

    replica_rate: float
    lead_s: float = 180.0
    window_s: float = 120.0
    trend_s: float = 600.0

    name = "boundary"

    def __post_init__(self) -> None:
        check_number("replica_rate", self.replica_rate, 1e-9, MAX_RATE, "requests per second")
        for what in ("lead_s", "window_s", "trend_s"):
            check_number(what, getattr(self, what), 0.0 if what == "lead_s" else 1.0, MAX_SECONDS, "seconds")

    def asked(self, seen: Sequence[Seen]) -> Asked:
        """The larger of the rate now and the rate ahead, in replicas."""
        rate, line = self.rate(seen), self.trend(seen)
        replicas = (rate if line is None else max(rate, line.at(self.lead_s))) / self.replica_rate
        return Asked(replicas, replicas / seen[-1].asked)

    def seconds_until_crossed(self, seen: Sequence[Seen]) -> float:
        """When the line crosses what the fleet holds, those that start included; infinite where it does not rise."""
        line = self.trend(seen)
        if line is None or line.slope <= 0.0:
            return math.inf
        return (seen[-1].asked * self.replica_rate - line.level) / line.slope

    def rate(self, seen: Sequence[Seen], at: int = -1) -> float:
        """Requests per second at a look, from the first one within `window_s` before it, as PromQL's `rate`.

        Of the first look of all, from the start.

        Raises:
            InputError: looks so far apart that there is one in a window.
        """
        now = seen[at]
        first = seen[_first_after(seen, now.time_s - self.window_s)]
        if first is seen[0] and first is now:
            return now.arrived / now.time_s
        if first is now:
            raise InputError(f"window_s = {self.window_s:g}: a rate needs two looks in it; take a longer one")
        return (now.arrived - first.arrived) / (now.time_s - first.time_s)

    def trend(self, seen: Sequence[Seen]) -> Line | None:
        """The line through the rates of the last `trend_s`; None until there are rates for half of it."""
        within = range(_first_after(seen, seen[-1].time_s - self.trend_s), len(seen))
        if seen[-1].time_s - seen[within[0]].time_s < self.trend_s / 2:
            return None
        return Line.through([seen[k].time_s for k in within], [self.rate(seen, k) for k in within])


def _first_after(seen: Sequence[Seen], time_s: float) -> int:
    return bisect_right(seen, time_s, key=lambda look: look.time_s)


@dataclass(frozen=True)
class Queue:
    """`sum(vllm:num_requests_waiting)` against a threshold per replica, a KEDA trigger of type AverageValue.

    Attributes:
        threshold: waiting requests that are worth a replica.
    """

    threshold: float = 5.0

    name = "queue"

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold, 1e-9, 1e9, "waiting requests")

    def asked(self, seen: Sequence[Seen]) -> Asked:
        """All that wait ÷ the threshold."""
        replicas = float(seen[-1].waiting.sum()) / self.threshold
        return Asked(replicas, replicas / seen[-1].asked)


@dataclass(frozen=True)
class InFlight:
    """`sum(vllm:num_requests_running + vllm:num_requests_waiting)` against a target per replica, type AverageValue.

    Attributes:
        target: requests in a replica, waiting ones included.
    """

    target: float

    name = "in-flight"

    def __post_init__(self) -> None:
        check_number("target", self.target, 1e-9, 1e9, "requests in a replica")

    def asked(self, seen: Sequence[Seen]) -> Asked:
        """All that wait or run ÷ the target."""
        replicas = float(seen[-1].waiting.sum() + seen[-1].running.sum()) / self.target
        return Asked(replicas, replicas / seen[-1].asked)


@dataclass(frozen=True)
class KvUse:
    """`avg(vllm:kv_cache_usage_perc)` against a target, a KEDA trigger of type Value.

    Attributes:
        target: share of the KV cache.
    """

    target: float = 0.8

    name = "kv"

    def __post_init__(self) -> None:
        check_number("target", self.target, 1e-9, 1.0, "of the KV cache")

    def asked(self, seen: Sequence[Seen]) -> Asked:
        """As many times the ready replicas as the use is times the target."""
        ratio = float(seen[-1].kv_use.mean()) / self.target
        return Asked(seen[-1].ready * ratio, ratio)
