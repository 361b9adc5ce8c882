"""`FleetDiagnosis`: several servers, each by itself and, where they are alike, all together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, sqrt
from typing import Any

from fluidgate.doctor.boundary import Boundary, boundary_of, memory_of
from fluidgate.doctor.changes import Change, Group
from fluidgate.doctor.diagnosis import Diagnosis, diagnose
from fluidgate.doctor.facts import Facts
from fluidgate.doctor.finding import Finding, Severity
from fluidgate.doctor.findings_load import TARGET_LOAD
from fluidgate.doctor.pooled import difference, pool
from fluidgate.hardware import Hardware
from fluidgate.jsonfile import plain
from fluidgate.words import number, percent

MUCH_MORE = 1.5
"""A replica has much more work than another from this factor on."""

CHANCE_SD = 4.0
"""Differences below this many standard deviations of a fair coin are chance."""


@dataclass(frozen=True)
class Replica:
    """One of several servers.

    Attributes:
        name: what tells it from the others.
        facts, diagnosis: None where it could not be read; `why` says why.
    """

    name: str
    facts: Facts | None = None
    diagnosis: Diagnosis | None = None
    why: str = ""


@dataclass(frozen=True)
class FleetDiagnosis:
    """Several servers.

    Attributes:
        replicas: in the order given.
        together: those that were read, as one server of all their engines; None where they are not alike.
        apart: why they are not looked at together, in words.
    """

    replicas: tuple[Replica, ...]
    together: Diagnosis | None
    apart: str = ""

    @property
    def read(self) -> list[Facts]:
        """The facts of those that could be read."""
        return [replica.facts for replica in self.replicas if replica.facts is not None]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; an unknown number is None."""
        return {
            "replicas": [
                {
                    "name": replica.name,
                    "error": replica.why or None,
                    "running": None if replica.facts is None else replica.facts.all_running,
                    "waiting": None if replica.facts is None else replica.facts.all_waiting,
                    "kv_use": None if replica.facts is None else replica.facts.kv_use,
                    "rate": None if replica.facts is None else replica.facts.rate,
                    "diagnosis": None if replica.diagnosis is None else replica.diagnosis.to_dict(),
                }
                for replica in self.replicas
            ],
            "together": None if self.together is None else self.together.to_dict(),
            "apart": self.apart or None,
        } | {"kv_use_range": plain(self.kv_use_range)}

    @property
    def kv_use_range(self) -> tuple[float, float] | None:
        """The least and the largest mean share of KV in use; None where no server works."""
        used = [facts.kv_use for facts in self.read if facts.busy]
        return (min(used), max(used)) if used else None


def diagnose_fleet(
    servers: Sequence[Facts], hardware: Hardware | None = None, unread: Sequence[tuple[str, str]] = ()
) -> FleetDiagnosis:
    """Each of several servers, and all together.

    Args:
        servers: facts of each, at least one.
        hardware: as in `diagnose`, of each server.
        unread: servers that could not be read, and why.

    Raises:
        InputError: lengths that contradict their buckets or the KV memory.
    """
    names = _short([*(facts.server for facts in servers), *(name for name, _ in unread)])
    servers = [replace(facts, server=name) for facts, name in zip(servers, names, strict=False)]
    replicas = [Replica(facts.server, facts, diagnose(facts, hardware)) for facts in servers]
    replicas += [Replica(name, why=why) for name, (_, why) in zip(names[len(servers) :], unread, strict=True)]
    apart = difference(servers)
    if apart is not None:
        return FleetDiagnosis(tuple(replicas), None, apart)
    facts = pool(servers, f"{len(servers)} servers together")
    extra = [
        finding
        for finding in (_lost(replicas), _twice(servers), _imbalance(servers), _spare(facts, hardware))
        if finding
    ]
    return FleetDiagnosis(tuple(replicas), diagnose(facts, hardware, extra))


def _short(names: Sequence[str]) -> list[str]:
    """Names without what all have in common: the page, or the scheme and path of addresses."""
    pages = {name.partition(" (")[0] for name in names}
    if len(pages) == 1 and all(name.endswith(")") for name in names):
        return [name.partition(" (")[2][:-1] for name in names]
    return [name.removeprefix("http://").replace("/metrics", "", 1) if "://" in name else name for name in names]


def _lost(replicas: Sequence[Replica]) -> Finding | None:
    """Servers that could not be read."""
    lost = [replica.name for replica in replicas if replica.facts is None]
    if not lost:
        return None
    says = f"{len(lost)} of {len(replicas)} servers could not be read: {', '.join(lost)}."
    change = Change("start them, or correct their addresses", "what they would say is missing here", Group.ROUTE)
    return Finding("unread", Severity.ACT, says, len(lost) / len(replicas), {"unread": len(lost)}, (change,))


def _twice(servers: Sequence[Facts]) -> Finding | None:
    """Whether a server seems to be here under two names, as a page has it that two jobs scraped."""
    seen: dict[tuple[object, ...], str] = {}
    for facts in servers:
        gauges = tuple((moment.running, moment.waiting, moment.kv_use) for moment in facts.moments)
        numbers = (gauges, facts.finished, facts.computed_tokens)
        if facts.busy and facts.finished and numbers in seen:
            says = (
                f"{seen[numbers]} and {facts.server} show the very same numbers: if they are one server under two "
                "names, it is counted twice here."
            )
            change = Change("give each server once", "rates and counts are added over servers")
            return Finding("twice", Severity.WATCH, says, 0.0, {}, (change,))
        seen[numbers] = facts.server
    return None


def _imbalance(servers: Sequence[Facts]) -> Finding | None:
    """Whether one server has so much more work than another that chance does not explain it, or queues beside one that
    has room."""
    works = [(facts.all_running + facts.all_waiting, facts) for facts in servers if facts.moments]
    if len(works) < 2:
        return None
    (most, busiest), (least, idlest) = max(works, key=lambda work: work[0]), min(works, key=lambda work: work[0])
    numbers = {"most": most, "least": least}
    # Of most + least requests that take either server by a fair coin, the difference has this variance.
    uneven = most >= MUCH_MORE * least and most - least > CHANCE_SD * sqrt(most + least)
    if not uneven:
        return None
    says = (
        f"Work is divided unevenly: {busiest.server} has {number(most)} requests, {idlest.server} has {number(least)}; "
        f"their KV caches are {percent(busiest.kv_use)} and {percent(idlest.kv_use)} full."
    )
    queues = any(moment.queued for moment in busiest.moments) and not any(moment.queued for moment in idlest.moments)
    if queues:
        says += " One has a queue while the other has none."
    mean = sum(work for work, _ in works) / len(works)
    change = Change(
        "the router: least loaded instead of round robin or sticky sessions",
        "what waits at one server runs at once at another",
        Group.ROUTE,
        size=f"{percent((most - mean) / most)} of the busiest server's requests",
    )
    severity = Severity.ACT if queues else Severity.WATCH
    return Finding("imbalance", severity, says, (most - mean) / most, numbers, (change,))


def _spare(facts: Facts, hardware: Hardware | None) -> Finding | None:
    """Whether fewer servers would carry the load."""
    boundary = _boundary(facts, hardware)
    if boundary is None or boundary.loads is None or facts.waiting > 0:
        return None
    needed = max(1, ceil(boundary.loads[1] * facts.servers / TARGET_LOAD))
    if needed >= facts.servers:
        return None
    load = boundary.loads[1] * facts.servers / needed
    says = (
        f"{needed} of these {facts.servers} servers would carry this load, at up to {percent(load)} of the boundary "
        f"each; let the peaks of your day decide."
    )
    return Finding("spare", Severity.FINE, says, 0.0, {"needed": needed, "load_then": load})


def _boundary(facts: Facts, hardware: Hardware | None) -> Boundary | None:
    memory = memory_of(facts) if hardware is not None else None
    return boundary_of(facts, memory, hardware) if memory is not None and hardware is not None else None
