"""What is simulated behind gates from outside: how many of what, what they get to see, and what goes wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fluidgate.arrays import BoolArray, FloatArray, IntArray
from fluidgate.bounds import MAX_REPLICAS, MAX_SECONDS, check_number, check_whole
from fluidgate.engine.records import FleetRecords


@dataclass(frozen=True)
class Change:
    """What happens to a replica at a time (s).

    Attributes:
        kind: `dies` (what is in flight there is lost), `joins` (it takes requests from then on), `slows` (its
            iterations take `factor` times as long as before).
    """

    time_s: float
    replica: int
    kind: Literal["dies", "joins", "slows"]
    factor: float = 1.0

    def __post_init__(self) -> None:
        check_number("time_s", self.time_s, 0.0, MAX_SECONDS, "seconds")
        check_number("factor", self.factor, 1e-3, 1e3, "times")


@dataclass(frozen=True)
class Outside:
    """The gates before the replicas, and what they get to see.

    Attributes:
        replicas: how many.
        gates: how many; requests come to them in turn.
        gauge_age_s: how old the gauges of replicas are when they come, seconds; None: none come.
        gauge_interval_s: from one measurement to the next, seconds.
        gauges_stop_s: from when to when none are measured, seconds; None: never.
        reaction_s: within which a gate acts on the end of a request, seconds.
        streams: whether gates see tokens; otherwise they see only ends.
        retry: what becomes of requests whose replica died: those without a token are sent again (`unstarted`), all
            are, from the beginning (`all`), or none; the others are reported as lost.
        changes: what happens to replicas; one that joins is not there before.
        affinity_loss: as in `FleetGate`, for prompts that go on alike behind what all begin with; None: no
            affinity.
    """

    replicas: int = 1
    gates: int = 1
    gauge_age_s: float | None = 5.0
    gauge_interval_s: float = 1.0
    gauges_stop_s: tuple[float, float] | None = None
    reaction_s: float = 0.02
    streams: bool = True
    retry: Literal["unstarted", "all", "none"] = "unstarted"
    changes: tuple[Change, ...] = ()
    affinity_loss: float | None = None

    def __post_init__(self) -> None:
        check_whole("replicas", self.replicas, 1, MAX_REPLICAS)
        check_whole("gates", self.gates, 1, 1000)
        if self.gauge_age_s is not None:
            check_number("gauge_age_s", self.gauge_age_s, 0.0, MAX_SECONDS, "seconds")
        check_number("gauge_interval_s", self.gauge_interval_s, 0.01, MAX_SECONDS, "seconds")
        check_number("reaction_s", self.reaction_s, 1e-4, 60.0, "seconds")
        for change in self.changes:
            check_whole("replica", change.replica, 0, self.replicas - 1)


@dataclass(frozen=True, eq=False)
class GateRecords(FleetRecords):
    """A run behind gates; `held_s` is the time at the gate, seconds.

    Attributes:
        sent_s: when the gate sent it, the last time; NaN if it did not, shape (n,).
        attempts: how often it was sent, shape (n,).
        lost: whether it was in flight at a replica that died, and not sent again, shape (n,).
        refused: whether the gate refused it, shape (n,).
    """

    sent_s: FloatArray
    attempts: IntArray
    lost: BoolArray
    refused: BoolArray
