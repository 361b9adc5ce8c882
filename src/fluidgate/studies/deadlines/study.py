"""What admission completes before clients give up, by simulation: workloads × patience × loads × policies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np

from fluidgate.arrays import BoolArray, FloatArray, IntArray
from fluidgate.engine import RunRecords
from fluidgate.runs import Runner, simulate
from fluidgate.runs.result_shape import Shape
from fluidgate.studies.deadlines.cases import CELLS, FITS, Cell, machine, planned, quartile_of, sample, span, traffic
from fluidgate.studies.deadlines.changes import ChangeRow, run_changes
from fluidgate.studies.deadlines.waits import wait_errors
from fluidgate.studies.parts import check_parts

PARTS = ("cells", "waits", "changes")

STOCK, KNOWN, FLUID, BEST_CAP, DROPPING = "greedy", "known-deadlines", "fluid", "queue-cap", "fluid, residents too"
POLICIES = (STOCK, "lifo", "codel", BEST_CAP, KNOWN, FLUID)
"""Of every cell, `queue-cap` with the best of `CAPS`; where few services fit also `DROPPING`."""

CAPS = (0, 1, 2, 5, 10, 20, 40, 80, 160, 320)
FIRST_TUNING_SEED, TUNING_SEEDS = 500, 2

MOST_REQUESTS = 200_000
"""In a run: cells that need more are left out, and named. `fluid` looks at the whole queue for each that it sheds."""

QUARTERS = 4
HALF = 0.5
NUMBERS = ("success", "wasted", "shed", "preemptions", "told", "wait_error", "wait_bias", "wait_within")
SHAPE: Shape = dict.fromkeys(NUMBERS, float) | {"by_output": [float], "by_prompt": [float]}


@dataclass(frozen=True)
class DeadlineRun:
    """A job: a cell's fields, a policy's spec, and a seed."""

    workload: str
    load: float
    patience: str
    policy: str
    seed: int

    @property
    def cell(self) -> Cell:
        """Where it is."""
        return Cell(self.workload, self.load, self.patience)


@dataclass(frozen=True)
class DeadlineRuns:
    """What the jobs share: about how many requests are measured. Called with a job, gives its numbers."""

    requests: int

    def __call__(self, job: DeadlineRun) -> dict[str, Any]:
        over = span(job.cell, self.requests)
        load = traffic(job.cell, self.requests, job.seed)
        records = simulate(load, machine(), job.policy, fluid_plan=planned(job.cell))
        measured = (records.arrival_s >= over.begin_s) & (records.arrival_s < over.end_s)
        errors = wait_errors(records, over.begin_s, over.end_s) if job.policy == job.cell.fluid else np.zeros(0)
        return numbers(records, measured, sample(job.workload).output_tokens, sample(job.workload).prompt_tokens) | {
            "told": float(len(errors)),
            "wait_error": float(np.median(np.abs(errors))) if len(errors) else nan,
            "wait_bias": float(np.median(errors)) if len(errors) else nan,
            "wait_within": float((np.abs(errors) <= HALF).mean()) if len(errors) else nan,
        }


def numbers(records: RunRecords, measured: BoolArray, outputs: IntArray, prompts: IntArray) -> dict[str, Any]:
    """What became of the requests that are measured; quarters are those of the known lengths.

    `wasted` is the share of their busy time that was for those who did not complete.
    """
    load, done = records.workload, records.finished[measured]
    assert records.spent_s is not None
    spent_s = records.spent_s[measured]
    busy_s = float(spent_s.sum())
    return {
        "success": float(done.mean()),
        "wasted": float(spent_s[~done].sum()) / busy_s if busy_s > 0.0 else 0.0,
        "shed": float(records.shed[measured].mean()),
        "preemptions": float(records.preemptions[measured].mean()),
        "by_output": _by_quarter(done, quartile_of(load.output_tokens[measured], outputs)),
        "by_prompt": _by_quarter(done, quartile_of(load.prompt_tokens[measured], prompts)),
    }


def _by_quarter(done: BoolArray, quarter: IntArray) -> list[float]:
    return [float(done[quarter == k].mean()) if (quarter == k).any() else nan for k in range(QUARTERS)]


@dataclass(frozen=True, eq=False)
class Row:
    """A cell.

    Attributes:
        values: by policy and name of `SHAPE`, shape (seeds,), of quarters (seeds, 4).
        cap: the best of `CAPS` on the tuning seeds.
    """

    cell: Cell
    values: dict[str, dict[str, FloatArray]]
    cap: int | None = None

    def mean(self, policy: str, name: str = "success") -> float:
        """Over the seeds."""
        return float(self.values[policy][name].mean())

    def over(self, policy: str, other: str, name: str = "success") -> float:
        """The mean of one policy over that of another; NaN where both are 0."""
        value, base = self.mean(policy, name), self.mean(other, name)
        return value / base if base > 0.0 else (nan if value == 0.0 else float("inf"))


@dataclass(frozen=True, eq=False)
class DeadlinesResult:
    """Everything the page is made of; a part that was not run has no rows, and neither has a cell that was left out."""

    seeds: int
    requests: int
    parts: tuple[str, ...]
    rows: tuple[Row, ...]
    changes: tuple[ChangeRow, ...]
    left_out: tuple[Cell, ...] = ()


def run_deadlines(
    parts: Sequence[str],
    *,
    requests: int,
    seeds: int,
    cells: Sequence[Cell] = CELLS,
    runner: Runner | None = None,
) -> DeadlinesResult:
    """Run parts of the study; a results file continues any parts and seeds.

    Raises:
        InputError: an unknown part, or a results file of something else.
    """
    check_parts(parts, PARTS)
    carried = runner or Runner()

    def run(jobs: Sequence[DeadlineRun]) -> list[dict[str, Any]]:
        header = {"command": "experiment deadlines", "requests": requests}
        return carried.run(DeadlineRuns(requests), jobs, header=header, shape=SHAPE)

    left_out = tuple(cell for cell in cells if span(cell, requests).requests > MOST_REQUESTS)
    cells = [cell for cell in cells if cell not in left_out]
    rows: list[Row] = []
    if "cells" in parts:
        caps = tuned_caps(cells, run)
        rows = _rows({cell: specs(cell, caps[cell]) for cell in cells}, caps, seeds, run)
    elif "waits" in parts:
        rows = _rows({cell: {FLUID: cell.fluid} for cell in cells if cell.load > 1.0}, {}, seeds, run)
    changes = run_changes(requests, seeds, carried) if "changes" in parts else []
    return DeadlinesResult(seeds, requests, tuple(parts), tuple(rows), tuple(changes), left_out)


def specs(cell: Cell, cap: int) -> dict[str, str]:
    """The policies of a cell by name."""
    by_name = {name: name for name in POLICIES} | {BEST_CAP: f"queue-cap:waiting={cap}", FLUID: cell.fluid}
    return by_name if cell.fits >= FITS else by_name | {DROPPING: f"{cell.fluid},drop_residents=true"}


def tuned_caps(cells: Sequence[Cell], run: Callable[[Sequence[DeadlineRun]], list[dict[str, Any]]]) -> dict[Cell, int]:
    """The cap with which most complete, on seeds of their own; of equals the largest."""
    seeds = range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + TUNING_SEEDS)
    found = iter(
        run([_job(cell, f"queue-cap:waiting={cap}", seed) for cell in cells for seed in seeds for cap in CAPS])
    )
    best = {}
    for cell in cells:
        success = np.array([[next(found)["success"] for _ in CAPS] for _ in seeds]).mean(axis=0)
        best[cell] = CAPS[len(CAPS) - 1 - int(np.argmax(success[::-1]))]
    return best


def _rows(
    policies: dict[Cell, dict[str, str]],
    caps: dict[Cell, int],
    seeds: int,
    run: Callable[[Sequence[DeadlineRun]], list[dict[str, Any]]],
) -> list[Row]:
    """Seed by seed, so that the policies of a cell share its requests."""
    jobs = [
        _job(cell, spec, seed)
        for cell, by_name in policies.items()
        for seed in range(seeds)
        for spec in by_name.values()
    ]
    found, rows = iter(run(jobs)), []
    for cell, by_name in policies.items():
        runs = [{name: next(found) for name in by_name} for _ in range(seeds)]
        values = {name: {key: np.array([one[name][key] for one in runs]) for key in SHAPE} for name in by_name}
        rows.append(Row(cell, values, caps.get(cell)))
    return rows


def _job(cell: Cell, policy: str, seed: int) -> DeadlineRun:
    return DeadlineRun(cell.workload, cell.load, cell.patience, policy, seed)
