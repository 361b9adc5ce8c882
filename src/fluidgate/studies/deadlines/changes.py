"""The rate or the lengths double midway: what completes before and after, by when requests were sent."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil
from typing import Any

import numpy as np

from fluidgate.arrays import BoolArray, FloatArray
from fluidgate.engine import EngineConfig
from fluidgate.fluid import FluidPlan
from fluidgate.metrics import Interval, mean_interval
from fluidgate.runs import Runner, plan_for, simulate
from fluidgate.runs.result_shape import Shape
from fluidgate.studies.deadlines.cases import (
    PATIENCES,
    WORKLOADS,
    Cell,
    boundary_rate,
    drawn_at,
    machine,
    planned,
    sample,
)
from fluidgate.workload import Workload

CHANGES = {"rate": "the rate doubles", "lengths": "prompts and outputs double"}
START_LOAD, PATIENCE = 0.75, "120 s"
CHANGED_POLICIES = ("greedy", "known-deadlines", "fluid")
BEFORE, STEADY = 4, 8
"""Windows before the change, and at the end, over which the success share is taken as steady."""

WINDOW_SHAPE: Shape = {"success": [float]}


@dataclass(frozen=True)
class ChangeRun:
    """A job: a workload, what changes, a policy's name, and a seed."""

    workload: str
    change: str
    policy: str
    seed: int


@dataclass(frozen=True)
class Course:
    """A run in windows of one mean service after the change.

    Attributes:
        window_s: a mean service, seconds.
        rates: requests per second before and after.
        load: after the change.
        after: windows after it.
    """

    window_s: float
    rates: tuple[float, float]
    load: float
    after: int

    @property
    def change_s(self) -> float:
        """When it comes: after four windows to fill the machine, and those that are counted."""
        return 2 * BEFORE * self.window_s


@dataclass(frozen=True, eq=False)
class ChangeRow:
    """A workload and a change; `success` by policy, shape (seeds, windows), of which `BEFORE` are before the change."""

    workload: str
    change: str
    course: Course
    success: dict[str, FloatArray]

    def steady(self, policy: str) -> FloatArray:
        """Of the last windows, shape (seeds,)."""
        return np.asarray(self.success[policy][:, -STEADY:].mean(axis=1))

    def since(self, policy: str, services: int) -> Interval:
        """The window that begins so many mean services after the change."""
        return mean_interval(self.success[policy][:, BEFORE + services])


def run_changes(requests: int, seeds: int, runner: Runner) -> list[ChangeRow]:
    """Every workload and change; `requests` only names the results file's study."""
    cases = [(workload, change) for workload in WORKLOADS for change in CHANGES]
    jobs = [ChangeRun(*case, policy, seed) for case in cases for seed in range(seeds) for policy in CHANGED_POLICIES]
    header = {"command": "experiment deadlines", "requests": requests}
    found, rows = iter(runner.run(changed_run, jobs, header=header, shape=WINDOW_SHAPE)), []
    for workload, change in cases:
        runs = [{policy: next(found)["success"] for policy in CHANGED_POLICIES} for _ in range(seeds)]
        success = {policy: np.array([one[policy] for one in runs]) for policy in CHANGED_POLICIES}
        rows.append(ChangeRow(workload, change, course(workload, change), success))
    return rows


def changed_run(job: ChangeRun) -> dict[str, Any]:
    """The success share of each window; a policy knows the plan of before the change."""
    over, cell = course(job.workload, job.change), Cell(job.workload, START_LOAD, PATIENCE)
    load = changing(job.workload, job.change, job.seed)
    spec = cell.fluid if job.policy == "fluid" else job.policy
    records = simulate(load, machine(), spec, fluid_plan=planned(cell))
    window = np.floor((records.arrival_s - over.change_s) / over.window_s).astype(int) + BEFORE
    return {"success": [float(records.finished[window == k].mean()) for k in range(BEFORE + over.after)]}


@lru_cache(maxsize=16)
def course(workload: str, change: str) -> Course:
    """How a change goes: afterwards until stock's wait would have settled, and `STEADY` windows more."""
    rate = START_LOAD * boundary_rate(workload)
    rates = (rate, rate) if change == "lengths" else (rate, 2.0 * rate)
    plan = _plan_after(workload, change, rates[1])
    window_s = plan.mix.mean_output_tokens * plan.stability.iteration_time_s
    load = rates[1] / plan.stability.boundary_rate
    settled_s = Cell(workload, load, PATIENCE).patience_s / (load - 1.0)
    return Course(window_s, rates, load, ceil(settled_s / window_s) + 2 + STEADY)


def _plan_after(workload: str, change: str, rate: float) -> FluidPlan:
    drawn = sample(workload)
    after = doubled(drawn, np.ones(len(drawn), bool)) if change == "lengths" else drawn
    return plan_for(after.scaled(rate / drawn.rate), machine(), EngineConfig())


def doubled(workload: Workload, rows: BoolArray) -> Workload:
    """The workload with prompts and outputs of some rows twice as long."""
    factor = np.where(rows, 2, 1)
    return replace(
        workload, prompt_tokens=workload.prompt_tokens * factor, output_tokens=workload.output_tokens * factor
    )


@lru_cache(maxsize=2)
def changing(workload: str, change: str, seed: int) -> Workload:
    """The requests of a run, until all windows are over and one patience more."""
    over = course(workload, change)
    tail_s = over.after * over.window_s + max(over.window_s, Cell(workload, START_LOAD, PATIENCE).patience_s)
    until_s = (over.change_s, over.change_s + tail_s)
    drawn = drawn_at(workload, over.rates[0], seed, until_s, (1.0, over.rates[1] / over.rates[0]))
    later = drawn.arrival_s >= over.change_s
    return PATIENCES[PATIENCE].of(doubled(drawn, later) if change == "lengths" else drawn, seed)
