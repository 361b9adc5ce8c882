"""Rules that scale a fleet, in simulation: shapes of traffic × machines, with clients that give up."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.engine import Elastic, EngineConfig, Rule, run_elastic
from fluidgate.hardware import Hardware, get_hardware
from fluidgate.metrics import parse_objectives
from fluidgate.policies import Greedy
from fluidgate.runs import Runner
from fluidgate.runs.result_shape import Shape as ResultShape
from fluidgate.runs.scaling import (
    Autoscaler,
    Boundary,
    HeldLoad,
    InFlight,
    KvUse,
    Limits,
    Queue,
    ScalingRule,
    held_load,
)
from fluidgate.runs.size.bounds import law_of
from fluidgate.runs.size.demand import Demand
from fluidgate.studies.parts import check_parts
from fluidgate.studies.scaling.traffic import SHAPES, at_rate, shaped
from fluidgate.workload import PRESETS, Patience, TimeoutLaw, Workload

MACHINES = {"h100": "h100-80gb", "a100": "a100-80gb"}
"""Llama 3.1 8B on one of these is a replica: memory binds at the boundary of the first, seats at that of the second."""

PRESET = "azure-conv-2023"
PROMISE_S, PATIENCE_S = 2.0, 10.0
"""Of requests 99% are to have their first token within the first, and clients give up after the second."""

INTERVAL_S = 15.0
LIMITS = Limits(least=1, most=12)
HELD_ON, HELD_REQUESTS = 3, 100_000
"""Replicas on which the load of a replica is found, and requests of each run that finds it."""

RULES: dict[str, tuple[str, Callable[[HeldLoad, float], ScalingRule | None]]] = {
    "boundary": (
        "the rate when a new replica is ready, by the trend, ÷ what a replica holds",
        lambda held, startup_s: Boundary(held.replica_rate, startup_s),
    ),
    "rate": ("the rate now ÷ what a replica holds", lambda held, startup_s: Boundary(held.replica_rate, 0.0)),
    "in-flight": (
        "requests waiting or running ÷ those in a replica at what it holds",
        lambda held, startup_s: InFlight(held.residents),
    ),
    "queue": ("requests waiting ÷ 5", lambda held, startup_s: Queue()),
    "kv": ("KV use ÷ 80%", lambda held, startup_s: KvUse()),
    "fixed": ("as many as the peak needs", lambda held, startup_s: None),
}
"""Each in words, and the rule for what a replica holds and its start-up time; None: no scaling."""

METRICS = ("offered", "late_share", "lost_share", "replica_hours", "most", "starts")
SHAPE: ResultShape = dict.fromkeys(METRICS, float) | {"ready": [float]}


@dataclass(frozen=True)
class ScalingRun:
    """A job."""

    machine: str
    shape: str
    rule: str
    seed: int


@dataclass(frozen=True, eq=False)
class Row:
    """A rule on a shape of traffic.

    Attributes:
        values: by name of `METRICS`, shape (seeds,).
        ready: replicas that take requests at each look of the first seed.
    """

    machine: str
    shape: str
    rule: str
    values: dict[str, FloatArray]
    ready: FloatArray

    def mean(self, name: str) -> float:
        """Over the seeds."""
        return float(self.values[name].mean())

    def share(self, name: str) -> float:
        """Of the requests of all seeds."""
        offered = self.values["offered"]
        return float(self.values[name] @ offered / offered.sum())


@dataclass(frozen=True, eq=False)
class ScalingResult:
    """All rows, and what a replica of each machine holds."""

    rows: tuple[Row, ...]
    held: dict[str, HeldLoad]
    seeds: int

    def row(self, machine: str, shape: str, rule: str) -> Row:
        """One of them."""
        return next(row for row in self.rows if (row.machine, row.shape, row.rule) == (machine, shape, rule))


def run_scaling(
    machines: Sequence[str], *, seeds: int, shapes: Sequence[str] = tuple(SHAPES), runner: Runner | None = None
) -> ScalingResult:
    """Every rule on every shape of traffic, on the machines of `MACHINES`.

    Raises:
        InputError: an unknown machine or shape, a results file of something else.
    """
    check_parts(machines, MACHINES)
    check_parts(shapes, SHAPES)
    cells = [(machine, shape, rule) for machine in machines for shape in shapes for rule in RULES]
    jobs = [ScalingRun(*cell, seed) for cell in cells for seed in range(seeds)]
    found = iter((runner or Runner()).run(simulated, jobs, header={"command": "experiment scaling"}, shape=SHAPE))
    rows = []
    for cell in cells:
        runs = [next(found) for _ in range(seeds)]
        values = {name: np.array([run[name] for run in runs]) for name in METRICS}
        rows.append(Row(*cell, values, np.array(runs[0]["ready"])))
    return ScalingResult(tuple(rows), {machine: held(machine) for machine in machines}, seeds)


def simulated(job: ScalingRun) -> dict[str, Any]:
    """One run in numbers."""
    load, hardware = traffic(job.machine, job.shape, job.seed), machine(job.machine)
    records = run_elastic(load, hardware, Greedy(), *fleet(job))
    ttft_s = np.nan_to_num(records.first_token_s - records.arrival_s + hardware.overhead_s, nan=np.inf)
    return {
        "offered": float(len(records)),
        "late_share": float((ttft_s > PROMISE_S).mean()),
        "lost_share": float(records.aborted.mean()),
        "replica_hours": records.replica_s / 3600.0,
        "most": float(max(seen.asked for seen in records.seen)),
        "starts": float(len(records.lives) - _first(job)),
        "ready": [float(seen.ready) for seen in records.seen],
    }


def fleet(job: ScalingRun) -> tuple[Elastic, Rule]:
    """A job's fleet and what scales it."""
    startup_s = SHAPES[job.shape].startup_s
    elastic = Elastic(_first(job), LIMITS.most, startup_s, INTERVAL_S)
    rule = RULES[job.rule][1](held(job.machine), startup_s)
    return elastic, (lambda seen: seen.asked) if rule is None else Autoscaler(rule, LIMITS)


def _first(job: ScalingRun) -> int:
    """Replicas at the start: what the shape needs there, or at its peak."""
    shape = SHAPES[job.shape]
    return math.ceil(max(shape.rates) if job.rule == "fixed" else shape.rates[0])


@lru_cache(maxsize=2)
def traffic(name: str, shape: str, seed: int) -> Workload:
    """The requests of a run, the same for all rules, of clients that give up."""
    drawn = shaped(PRESETS[PRESET], SHAPES[shape], held(name).replica_rate, seed)
    return Patience(ttft_timeout=TimeoutLaw("", (PATIENCE_S,))).of(drawn, seed)


@lru_cache(maxsize=4)
def machine(name: str) -> Hardware:
    """A machine of `MACHINES`."""
    return replace(get_hardware("llama-3.1-8b", MACHINES[name]), calibration=None)


@lru_cache(maxsize=4)
def held(name: str) -> HeldLoad:
    """What a replica on it holds, of clients that wait and arrivals that fluctuate at their own pace."""
    promise = parse_objectives([f"p99:ttft:{1e3 * PROMISE_S:g}"], None)
    demand = Demand(PRESETS[PRESET], 1.0, promise, requests=HELD_REQUESTS)
    boundary_rate = law_of(demand, machine(name), EngineConfig()).boundary_rate
    paced = at_rate(PRESETS[PRESET], 0.5 * HELD_ON * boundary_rate)
    return held_load(replace(demand, source=paced), machine(name), HELD_ON)
