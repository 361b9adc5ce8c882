"""The parts of the study: measured runs with their arrivals, and closed loops to learn from, and to be judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.errors import InputError
from fluidgate.runs import Runner
from fluidgate.studies.accuracy.closed_loop import CLOSED_SHAPE, CLOSED_SOURCES, ClosedRun, closed_run
from fluidgate.studies.accuracy.open_loop import OPEN_SHAPE, SETS, OpenRun, OpenRuns
from fluidgate.studies.accuracy.silicon import FILE, Measured, read_silicon, silicon_file
from fluidgate.studies.parts import check_parts

PARTS = ("open-loop", "development", "judges")
"""Runs with their arrivals; closed loops on which what a step lacks was learned; and all the others."""


@dataclass(frozen=True)
class Closed:
    """A row of the table with what a source of step times makes of it.

    Attributes:
        row: as measured.
        source: a key of `CLOSED_SOURCES`.
        ttft_ms, tpot_ms: means, simulated; with what asynchronous scheduling and HTTP add.
        engine_ttft_ms: without it.
        preemptions: simulated.
    """

    row: Measured
    source: str
    ttft_ms: float
    engine_ttft_ms: float
    tpot_ms: float
    preemptions: int


@dataclass(frozen=True)
class AccuracyResult:
    """Everything the page is made of.

    Attributes:
        parts: those that were run.
        open_loop: the numbers of each measured run and source, in order.
        closed: the rows that a source has a machine for.
        rows: the rows of the table, by part.
        refusals: by source: why it has no machine for a row, with the number of rows.
    """

    parts: tuple[str, ...]
    open_loop: dict[OpenRun, dict[str, float]]
    closed: tuple[Closed, ...]
    rows: dict[str, int]
    refusals: dict[str, dict[str, int]]

    def of(self, part: str, source: str) -> list[Closed]:
        """The closed loops of a part, as a source sees them."""
        return [c for c in self.closed if c.source == source and c.row.is_development == (part == "development")]


def errors(rows: Sequence[Closed], name: str) -> FloatArray:
    """Simulated over measured − 1 of `ttft_ms`, `engine_ttft_ms` or `tpot_ms`, shape (n,)."""
    simulated = np.array([getattr(closed, name) for closed in rows])
    measured = np.array([getattr(closed.row, name.removeprefix("engine_")) for closed in rows])
    return np.asarray(simulated / measured - 1.0)


def run_accuracy(
    parts: Sequence[str] | None = None,
    *,
    measured: Path | None = None,
    silicon: Path | None = None,
    every: int = 1,
    runner: Runner | None = None,
) -> AccuracyResult:
    """Run parts of the study; those whose data are not at hand are left out, unless they are asked for.

    Args:
        parts: of `PARTS`; None: all whose data are there.
        measured: folder with the measured runs.
        silicon: the table of closed loops; None: the one that aiconfigurator-core ships.
        every: take one row of the table in so many.
        runner: where runs happen; the same results file continues any parts.

    Raises:
        InputError: an unknown part, one without its data, or a results file of something else.
    """
    check_parts(parts or (), PARTS)
    table = silicon or silicon_file()
    there = [part for part in PARTS if (measured if part == "open-loop" else table) is not None]
    for part in parts or ():
        if part not in there:
            need = (
                "--measured, the folder of measured runs" if part == "open-loop" else f"{FILE} of aiconfigurator-core"
            )
            raise InputError(f"part {part!r} needs {need}")
    chosen = tuple(part for part in there if parts is None or part in parts)
    if not chosen:
        raise InputError("no measured set is at hand: give --measured, or install fluidgate[hardware]")
    runner, header = runner or Runner(), {"command": "experiment accuracy"}
    open_jobs = _open_jobs(measured) if "open-loop" in chosen else []
    open_loop: list[dict[str, Any]] = []
    if open_jobs and measured is not None:
        open_loop = runner.run(OpenRuns(measured), open_jobs, header=header, shape=OPEN_SHAPE)
    rows = [] if table is None or chosen == ("open-loop",) else read_silicon(table)
    of_part = {
        p: [r for r in rows if r.is_development == (p == "development")][::every] for p in chosen if p != PARTS[0]
    }
    closed_jobs = [
        ClosedRun(row, source) for source in CLOSED_SOURCES for part_rows in of_part.values() for row in part_rows
    ]
    outcomes = runner.run(closed_run, closed_jobs, header=header, shape=CLOSED_SHAPE)
    return AccuracyResult(
        chosen,
        dict(zip(open_jobs, open_loop, strict=True)),
        tuple(
            Closed(job.row, job.source, **{name: value for name, value in outcome.items() if name != "refused"})
            for job, outcome in zip(closed_jobs, outcomes, strict=True)
            if not outcome["refused"]
        ),
        {part: len(part_rows) for part, part_rows in of_part.items()},
        _refusals(closed_jobs, outcomes),
    )


def _open_jobs(folder: Path | None) -> list[OpenRun]:
    assert folder is not None
    for measured in SETS.values():
        if not (folder / measured.file).is_file():
            raise InputError(f"{folder}: no {measured.file}; give the folder that holds the measured runs")
    return [OpenRun(name, source) for name, measured in SETS.items() for source in measured.sources]


def _refusals(jobs: Sequence[ClosedRun], outcomes: Sequence[dict[str, Any]]) -> dict[str, dict[str, int]]:
    counted: dict[str, dict[str, int]] = {source: {} for source in CLOSED_SOURCES}
    for job, outcome in zip(jobs, outcomes, strict=True):
        if outcome["refused"]:
            reasons = counted[job.source]
            reasons[outcome["refused"]] = reasons.get(outcome["refused"], 0) + 1
    return counted
