"""`run_elastic`: a fleet whose replicas start and stop as it serves, by a rule that sees what servers publish."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluidgate.arrays import NONE, FloatArray, IntArray
from fluidgate.bounds import MAX_REPLICAS, MAX_SECONDS, check_number, check_whole
from fluidgate.engine.config import EngineConfig
from fluidgate.engine.engines import Engines
from fluidgate.engine.fleet import send
from fluidgate.engine.loop import UNKNOWN_CLASS
from fluidgate.engine.records import FleetRecords
from fluidgate.engine.routing import WITHOUT_LIMIT, Fleet, Turns, turns_of
from fluidgate.engine.run import Progress, refuse_class
from fluidgate.errors import InputError
from fluidgate.hardware import Hardware
from fluidgate.policies import Policy
from fluidgate.workload import Workload


@dataclass(frozen=True)
class Elastic:
    """How replicas come and go.

    Attributes:
        first: ready when the first request comes.
        most: at once, those that start or drain included: each holds its GPUs.
        startup_s: from asking for a replica until it takes requests, seconds.
        interval_s: from one look of the rule to the next, seconds.
        router, seed: as in `Fleet`, over the replicas that are ready.
    """

    first: int = 1
    most: int = 16
    startup_s: float = 180.0
    interval_s: float = 15.0
    router: str = "round-robin"
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("most", self.most, 1, MAX_REPLICAS)
        check_whole("first", self.first, 1, self.most)
        check_number("startup_s", self.startup_s, 0.0, MAX_SECONDS, "seconds")
        check_number("interval_s", self.interval_s, 0.1, MAX_SECONDS, "seconds")
        Fleet(self.most, self.router, self.seed)


@dataclass(frozen=True, eq=False)
class Seen:
    """What a look finds: the metrics of the replicas that take requests, as their last iterations left them.

    Attributes:
        time_s: of the look, seconds.
        arrived: requests that were sent before it.
        waiting, running: requests of each ready replica, shape (ready,).
        kv_use: share of its KV blocks in use, shape (ready,).
        starting, draining: replicas that do not take requests yet, or no longer do.
    """

    time_s: float
    arrived: int
    waiting: IntArray
    running: IntArray
    kv_use: FloatArray
    starting: int
    draining: int

    @property
    def ready(self) -> int:
        """Replicas that take requests."""
        return len(self.waiting)

    @property
    def asked(self) -> int:
        """Replicas that take requests or will."""
        return self.ready + self.starting


Rule = Callable[[Seen], int]
"""Says how many replicas should take requests."""


@dataclass
class Life:
    """A replica's, seconds; infinite: not within the run.

    Attributes:
        slot: where it runs: its number in `FleetRecords.replica`. A slot has several lives, one after the other.
        asked_s, ready_s: when it was asked for, and when it began to take requests.
        stopped_s, gone_s: when it was asked to stop, and when its last request had left.
    """

    slot: int
    asked_s: float
    ready_s: float
    stopped_s: float = field(default=np.inf)
    gone_s: float = field(default=np.inf)


@dataclass(frozen=True, eq=False)
class ElasticRecords(FleetRecords):
    """A run of a fleet that grew and shrank.

    Attributes:
        lives: of all replicas, in the order in which they were asked for.
        seen: every look.
    """

    lives: tuple[Life, ...]
    seen: tuple[Seen, ...]

    @cached_property
    def replica_s(self) -> float:
        """Seconds for which replicas held their GPUs, summed, up to the last arrival."""
        end_s = float(self.arrival_s[-1])
        return sum(max(0.0, min(life.gone_s, end_s) - life.asked_s) for life in self.lives)


def run_elastic(
    workload: Workload,
    hardware: Hardware,
    policy: Policy,
    elastic: Elastic,
    rule: Rule,
    config: EngineConfig | None = None,
    *,
    compile: bool = True,
    progress: Progress | None = None,
) -> ElasticRecords:
    """Simulate `workload` on as many replicas as `rule` asks for.

    At each look the rule's number is compared with the replicas that take requests or will. Missing ones start, while
    there is room. Surplus ones stop: first those still starting, then the latest to be ready, which take no more
    requests and serve what they have. With a rule that asks for `first` every time, equal to `run_fleet` to the
    bit.

    Args:
        compile, progress: as in `run`.

    Raises:
        InputError, Stalled: as `run` does; also a workload that waits for replies.
    """
    if workload.is_closed:
        raise InputError(
            f"{workload.name}: clients that wait for replies slow down with the fleet, so that no rule needs to scale "
            "it; give arrivals"
        )
    engines = Engines(workload, hardware, policy, config, elastic.most, compile=compile, progress=progress)
    return _Run(engines, elastic, rule).records()


class _Run:
    """One run, look by look."""

    def __init__(self, engines: Engines, elastic: Elastic, rule: Rule) -> None:
        self.engines, self.elastic, self.rule = engines, elastic, rule
        self.lives = [Life(k, 0.0, 0.0) for k in range(elastic.first)]
        self.ready, self.starting, self.draining = list(self.lives), list[Life](), list[Life]()
        self.seen: list[Seen] = []
        self._turns: dict[int, Turns] = {}
        counted = bool(engines.states.setting[0].counted)
        parts: tuple[NDArray[Any], ...] = engines.caches
        self._fresh_cache = () if counted else tuple(part[0].copy() for part in parts)

    def records(self) -> ElasticRecords:
        """Serve all requests."""
        arrival_s = self.engines.workload.arrival_s
        n, sent = len(arrival_s), 0
        replica = np.full(n, NONE, np.int64)
        while sent < n:
            look_s = (len(self.seen) + 1) * self.elastic.interval_s
            until_s = min([look_s, *(life.ready_s for life in self.starting)])
            stop = int(np.searchsorted(arrival_s, until_s))
            send(self.engines, self._turns_now(), replica, sent, stop)
            sent = stop
            self._make_ready(until_s)
            if until_s == look_s and sent < n:
                self._look(until_s, sent)
        whole = self.engines.records(self.elastic.router, np.arange(n), replica)
        for life in self.draining:
            life.gone_s = self._idle_since(life)
        return ElasticRecords(**vars(whole), lives=tuple(self.lives), seen=tuple(self.seen))

    def _turns_now(self) -> Turns:
        count, elastic = len(self.ready), self.elastic
        if count not in self._turns:
            self._turns[count] = turns_of(Fleet(count, elastic.router, elastic.seed), self.engines.workload)
        return self._turns[count]._replace(among=np.array([life.slot for life in self.ready], np.int64))

    def _make_ready(self, time_s: float) -> None:
        self.ready += [life for life in self.starting if life.ready_s <= time_s]
        self.starting = [life for life in self.starting if life.ready_s > time_s]

    def _look(self, time_s: float, sent: int) -> None:
        for life in (*self.ready, *self.draining):
            self._advance(life.slot, time_s)
        for life in [life for life in self.draining if self._is_idle(life)]:
            life.gone_s = self._idle_since(life)
            self.draining.remove(life)
        self.seen.append(self._metrics(time_s, sent))
        asked = max(1, self.rule(self.seen[-1]))
        for _ in range(self.seen[-1].asked, asked):
            self._start(time_s)
        for _ in range(asked, self.seen[-1].asked):
            self._stop(time_s)

    def _advance(self, k: int, time_s: float) -> None:
        engines = self.engines
        state, cache = engines.engine(k)
        if state.run[0].now_s < time_s:
            shared = state, cache, engines.log, *engines.policy_arguments
            if engines.program.run_loop(*shared, engines.memories[k], WITHOUT_LIMIT, time_s) == UNKNOWN_CLASS:
                refuse_class(engines.states, engines.policy)

    def _metrics(self, time_s: float, sent: int) -> Seen:
        pairs = [self.engines.engine(life.slot) for life in self.ready]
        return Seen(
            time_s=time_s,
            arrived=sent,
            waiting=np.array([state.run[0].waiting for state, _ in pairs], np.int64),
            running=np.array([state.run[0].running for state, _ in pairs], np.int64),
            kv_use=np.array([1.0 - cache.free[0] / state.setting[0].total_blocks for state, cache in pairs]),
            starting=len(self.starting),
            draining=len(self.draining),
        )

    def _start(self, time_s: float) -> None:
        """Start a replica in a free slot, its cache empty and its policy fresh; the slot's iterations count on.

        Where no slot is free, a later look may ask again.
        """
        taken = {life.slot for life in (*self.ready, *self.starting, *self.draining)}
        free = [k for k in range(len(self.engines)) if k not in taken]
        if not free:
            return
        parts: tuple[NDArray[Any], ...] = self.engines.caches
        for part, fresh in zip(parts, self._fresh_cache, strict=False):  # none: counted blocks hold no content
            part[free[0]] = fresh
        self.engines.memories[free[0]] = self.engines.policy.new_memory()
        life = Life(free[0], time_s, time_s + self.elastic.startup_s)
        self.lives.append(life)
        self.starting.append(life)

    def _stop(self, time_s: float) -> None:
        life = (self.starting or self.ready).pop()
        life.stopped_s = time_s
        if life.ready_s > time_s:
            life.gone_s = time_s
        else:
            self.draining.append(life)

    def _is_idle(self, life: Life) -> bool:
        state, _ = self.engines.engine(life.slot)
        run = state.run[0]
        return bool(run.running + run.waiting + run.flying == 0 and run.next_arrival == len(state.arrival_s))

    def _idle_since(self, life: Life) -> float:
        state, _ = self.engines.engine(life.slot)
        return max(life.stopped_s, float(state.run[0].now_s))
