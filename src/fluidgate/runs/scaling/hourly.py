"""How many replicas every hour of a day needs, and what such a day costs against a fleet of the peak's size."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from fluidgate.arrays import IntArray
from fluidgate.bounds import MAX_REPLICAS, MAX_SECONDS, check_number, check_whole
from fluidgate.engine import EngineConfig
from fluidgate.errors import InputError
from fluidgate.jsonfile import plain
from fluidgate.runs.jobs import Runner
from fluidgate.runs.size.candidates import Choices, Flags, Machine
from fluidgate.runs.size.demand import Demand
from fluidgate.runs.size.search import Count, Found, MachineSearch, MachineSearches
from fluidgate.runs.size.study import FOUND_SHAPE
from fluidgate.runs.size.trials import Certainty
from fluidgate.words import number, percent
from fluidgate.workload import Workload

HOUR_S = 3600.0
LEVELS = 12
"""Rates are searched at so many equal steps up to the peak; an hour needs what the next step above it needs."""


@dataclass(frozen=True)
class Day:
    """The rate of every hour, or of every bucket of another length; it repeats.

    Attributes:
        rates: requests per second, one per bucket.
        bucket_s: seconds of a bucket.
    """

    rates: tuple[float, ...]
    bucket_s: float = HOUR_S

    def __post_init__(self) -> None:
        check_number("bucket", self.bucket_s, 1.0, MAX_SECONDS, "seconds")
        if not self.rates or not all(math.isfinite(rate) and rate >= 0 for rate in self.rates) or self.peak == 0:
            raise InputError("a day needs rates, requests per second, at least 0 each and one of them above 0")

    @classmethod
    def of(cls, trace: Workload, bucket_s: float = HOUR_S) -> Day:
        """Of a trace's own arrivals; the last bucket takes a remainder of less than half a bucket.

        Raises:
            InputError: a trace whose requests all come at once, or wait for replies.
        """
        if trace.is_closed or not np.isfinite(trace.rate):
            raise InputError(f"{trace.name} has no arrival times of its own, so no rate by the hour; give hourly rates")
        requests = np.bincount(bucket_of(trace, bucket_s))
        seconds = np.full(len(requests), bucket_s)
        seconds[-1] = trace.arrival_s[-1] - trace.arrival_s[0] - (len(requests) - 1) * bucket_s
        return cls(tuple((requests / seconds).tolist()), bucket_s)

    @property
    def peak(self) -> float:
        """The largest rate."""
        return max(self.rates)

    def steps(self, levels: int) -> list[int]:
        """Of every bucket the least k, from 1, for which k/levels of the peak covers its rate."""
        return [max(1, math.ceil(levels * rate / self.peak * (1 - 1e-12))) for rate in self.rates]


def bucket_of(trace: Workload, bucket_s: float) -> IntArray:
    """The bucket of each request, shape (n,); the last one takes a remainder of less than half a bucket."""
    since_s = trace.arrival_s - trace.arrival_s[0]
    last = max(1, round(float(since_s[-1]) / bucket_s)) - 1
    place: IntArray = np.minimum((since_s // bucket_s).astype(np.int64), last)
    return place


@dataclass(frozen=True)
class Level:
    """A rate at which hours are sized.

    Attributes:
        found: the fewest replicas that keep the promise there, and how sure that is; None: known without a search.
        replicas: no fewer than at any lower rate.
    """

    rate: float
    found: Count | None
    replicas: int


@dataclass(frozen=True)
class HourlyFleet:
    """A day's fleet.

    Attributes:
        startup_s: from asking for a replica until it takes requests, seconds.
        needed: replicas of every bucket.
        levels: the rates at which its hours are sized, rising.
        runs: simulations in all.
    """

    day: Day
    machine: Machine
    flags: Flags
    startup_s: float
    needed: tuple[int, ...]
    levels: tuple[Level, ...]
    runs: int

    @property
    def fixed(self) -> int:
        """Replicas of a fleet that never changes."""
        return max(self.needed)

    @property
    def hours(self) -> float:
        """Of the day."""
        return len(self.needed) * self.day.bucket_s / HOUR_S

    @property
    def replica_hours(self) -> float:
        """That replicas hold their GPUs in a day, their start-up included."""
        return replica_s(self.needed, self.day.bucket_s, self.startup_s) / HOUR_S

    @property
    def cost(self) -> float:
        """Of a day: money, or GPU-hours where there are no prices."""
        return self.replica_hours * self.machine.unit_cost

    @property
    def fixed_cost(self) -> float:
        """The same of the fixed fleet."""
        return self.fixed * self.hours * self.machine.unit_cost

    @property
    def startup_cost(self) -> float:
        """What of `cost` is paid for replicas that start."""
        ready_s = self.day.bucket_s * sum(self.needed)
        return self.cost - ready_s / HOUR_S * self.machine.unit_cost

    @property
    def raised(self) -> tuple[float, ...]:
        """Rates at which fewer replicas held than at a lower one, and which were given as many as that."""
        return tuple(level.rate for level in self.levels if level.found and level.found.replicas < level.replicas)

    @property
    def words(self) -> str:
        """The day in a sentence."""
        unit = " GPU-hours" if self.machine.price is None else ""
        saved = 1.0 - self.cost / self.fixed_cost
        if min(self.needed) == self.fixed:
            return f"Every hour needs {self.fixed} replica{'s' * (self.fixed > 1)}, as the peak does."
        return (
            f"A fleet of {min(self.needed)} to {self.fixed} replicas that follows the day costs "
            f"{number(self.cost)}{unit} against {number(self.fixed_cost)} for {self.fixed} replicas all day: "
            f"{percent(saved)} less, start-up included ({number(self.startup_cost)})."
        )

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Head and rows, a row per bucket: when it begins, its rate, the rate it was sized at, its replicas."""
        head = ("from", "req/s", "sized at", "replicas", "start", "cost")
        steps = [min(level.rate for level in self.levels if level.rate >= rate) for rate in self._rounded]
        rows: list[tuple[str, ...]] = []
        for k, (rate, step, replicas) in enumerate(zip(self.day.rates, steps, self.needed, strict=True)):
            more = max(0, replicas - self.needed[k - 1])
            cost = replicas * self.day.bucket_s / HOUR_S * self.machine.unit_cost
            begin = _clock(k * self.day.bucket_s)
            rows.append((begin, number(rate), number(step), str(replicas), f"+{more}" if more else "", number(cost)))
        return head, rows

    @property
    def _rounded(self) -> list[float]:
        return [rate * (1 - 1e-9) for rate in self.day.rates]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; null where a number is not finite."""
        derived = ("fixed", "replica_hours", "cost", "fixed_cost", "startup_cost", "raised")
        return dict(plain(self, finite=True)) | {name: plain(getattr(self, name)) for name in derived}


def hourly(
    demand: Demand,
    day: Day,
    machine: Machine,
    flags: Flags | None = None,
    *,
    startup_s: float = 180.0,
    most: int = 64,
    at_peak: int | None = None,
    levels: int = LEVELS,
    config: EngineConfig | None = None,
    certainty: Certainty | None = None,
    policy_file: Path | None = None,
    runner: Runner | None = None,
) -> HourlyFleet:
    """The fewest replicas of a machine that keep the promise at every hour's rate.

    Rates are searched from below at `levels` equal steps up to the peak, each as `size` searches one. That more
    requests need no fewer replicas is not assumed: where the search says so, the hour gets what the lower rate needs,
    and `HourlyFleet.raised` names it.

    Args:
        demand: lengths, promise, and how long a run is; its rate plays no part.
        flags: of every replica, the same all day.
        startup_s: from asking for a replica until it takes requests; it is paid for from then.
        most: replicas that there can be.
        at_peak: replicas that are known to be enough at the peak, and so the most; None: search there as well.
        certainty: how sure each decision is.
        policy_file: Python file that registers a policy of your own.

    Raises:
        InputError: a rate at which the promise holds on no count, or settings that cannot be.
        JobFailed: workers keep dying at the same search.
    """
    check_whole("most", most, 1, MAX_REPLICAS)
    check_whole("levels", levels, 1, 1000)
    check_number("startup", startup_s, 0.0, MAX_SECONDS, "seconds")
    flags, certainty = flags or Flags(), certainty or Certainty(0.05, 16)
    most = most if at_peak is None else at_peak
    steps = day.steps(levels)
    rising = sorted(set(steps))
    searched = rising if at_peak is None else rising[:-1]
    searches = _RateSearches(demand, machine, flags.engine(config or EngineConfig()), flags, certainty, policy_file)
    jobs = [_RateSearch(step / levels * day.peak, most) for step in searched]
    rows = (runner or Runner()).run(searches, jobs, header=searches.header(), shape=FOUND_SHAPE)
    found = [Found.from_dict(row) for row in rows]
    counts = [_answer(part, machine, job, at_peak) for part, job in zip(found, jobs, strict=True)]
    kept = accumulate((count.replicas for count in counts), max)
    made = [Level(job.rate, count, replicas) for job, count, replicas in zip(jobs, counts, kept, strict=True)]
    if at_peak is not None:
        made.append(Level(day.peak, None, at_peak))
    by_step = dict(zip(rising, made, strict=True))
    needed = tuple(by_step[step].replicas for step in steps)
    return HourlyFleet(day, machine, flags, startup_s, needed, tuple(made), sum(part.runs for part in found))


def replica_s(needed: Sequence[int], bucket_s: float, startup_s: float) -> float:
    """Seconds that replicas are paid for in a day that repeats.

    At any time as many as are needed then, or at most `startup_s` later.
    """
    n, day_s = len(needed), len(needed) * bucket_s
    if startup_s >= day_s:
        return max(needed) * day_s
    edges = np.unique([(k * bucket_s - lead_s) % day_s for k in range(n) for lead_s in (0.0, startup_s)] + [day_s])
    total = 0.0
    for begin_s, end_s in zip(np.concatenate(([0.0], edges[:-1])), edges, strict=True):
        middle_s = (begin_s + end_s) / 2
        first, last = int(middle_s // bucket_s), int((middle_s + startup_s) // bucket_s)
        total += (end_s - begin_s) * max(needed[k % n] for k in range(first, last + 1))
    return float(total)


@dataclass(frozen=True)
class _RateSearch:
    """A job."""

    rate: float
    most: int


class _RateSearches:
    """What all rates share; called with one, gives the fields of its `Found`."""

    def __init__(
        self,
        demand: Demand,
        machine: Machine,
        config: EngineConfig,
        flags: Flags,
        certainty: Certainty,
        policy_file: Path | None,
    ) -> None:
        self.demand, self.machine, self.config, self.flags, self.certainty = demand, machine, config, flags, certainty
        self.policy_file = policy_file and policy_file.absolute()

    def __call__(self, job: _RateSearch) -> dict[str, Any]:
        demand = replace(self.demand, rate=job.rate)
        choices = Choices((self.flags.policy,), (self.flags.router,), seats=(), budgets=())
        search = MachineSearches(demand, self.config, choices, self.certainty, self.policy_file)
        return search(MachineSearch(self.machine, 1, job.most))

    def header(self) -> dict[str, Any]:
        """What the numbers depend on besides the rate, for a results file."""
        about = {"demand": self.demand.identity() | {"rate": None}, "machine": plain(self.machine)}
        settings = {name: asdict(getattr(self, name)) for name in ("config", "flags", "certainty")}
        own = self.policy_file and hashlib.sha256(self.policy_file.read_bytes()).hexdigest()[:12]
        return {"command": "size --day", **about, **settings, "policy_file": own}


def _answer(found: Found, machine: Machine, job: _RateSearch, at_peak: int | None) -> Count:
    """The count that holds; where the search shows none to, as many as are enough at the peak, if that is known."""
    if found.answer is not None:
        return found.answer
    last = found.counts[-1] if found.counts else None
    if last is not None and at_peak is not None:
        return replace(last, replicas=at_peak)
    why = found.why_not or (last.why if last else "")
    if not why and last is not None and last.outcome is not None:
        why = f"{last.outcome.objective} is not shown to hold"
    raise InputError(
        f"at {number(job.rate)} req/s at most {job.most} × {machine.label} do not keep the promise ({why}); allow more "
        "replicas, loosen it, or take another machine"
    )


def _clock(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}"
