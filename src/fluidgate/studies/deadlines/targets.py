"""What `fluid` should reach under deadlines, and whether it does: each target over all the cells that it covers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import isfinite
from typing import TypeVar

import numpy as np

from fluidgate.metrics import paired_difference
from fluidgate.studies.deadlines.cases import FITS, FIXED
from fluidgate.studies.deadlines.changes import PATIENCE, ChangeRow
from fluidgate.studies.deadlines.study import BEST_CAP, FLUID, KNOWN, STOCK, DeadlinesResult, Row
from fluidgate.studies.target import Target

R = TypeVar("R", Row, ChangeRow)

OF_KNOWN, OF_STOCK, TIMES_STOCK = 0.93, 0.99, 2.0
MOST_WASTED, STOCK_WASTES = 0.05, 0.40
MEDIAN_ERROR, WITHIN_SHARE = 0.20, 0.90
SERVICES, STEADY_AGAIN = 2, 0.95
"""So many mean services after a change the success share is at least this part of the steady one."""


def judged_targets(result: DeadlinesResult) -> list[Target]:
    """The targets that the parts run can answer."""
    found: list[Target] = []
    if "cells" in result.parts:
        found += _of_cells(result.rows)
    if "waits" in result.parts:
        found += _of_waits([row for row in result.rows if row.cell.load > 1.0])
    if "changes" in result.parts:
        found += _of_changes(result.changes)
    return found


def back_again(row: ChangeRow) -> float:
    """Success share of `fluid` of those sent `SERVICES` mean services after a change, over the steady one."""
    return row.since(FLUID, SERVICES).mean / float(row.steady(FLUID).mean())


def _of_cells(rows: Sequence[Row]) -> Iterator[Target]:
    fitting = [row for row in rows if row.cell.fits >= FITS]
    below, lossy = [row for row in rows if row.cell.load < 1.0], [row for row in rows if _wastes(row)]
    special = [row for row in rows if (row.cell.workload, row.cell.load) == (FIXED, 1.12)]
    special = [row for row in special if row.cell.patience == "60 s"]
    known, cap, stock = (_over(name) for name in (KNOWN, BEST_CAP, STOCK))
    yield from _least("completed ÷ known lengths', where 90% of services fit", OF_KNOWN, fitting, known)
    for target in _least("completed ÷ the best swept queue cap's", 1.0, rows, cap):
        beyond = sum(_is_less(row) for row in rows)
        yield _more(target, f"beyond the paired 95% interval in {beyond} of them")
    yield from _least(f"completed ÷ stock's, {FIXED}, 60 s, load 1.12", TIMES_STOCK, special, stock)
    yield from _least("completed ÷ stock's, loads below 1", OF_STOCK, below, stock)
    yield from _most(
        "busy time wasted, where stock wastes over 40%", MOST_WASTED, lossy, lambda row: row.mean(FLUID, "wasted")
    )


def _of_waits(rows: Sequence[Row]) -> Iterator[Target]:
    def mean(row: Row, name: str) -> float:
        values = row.values[FLUID][name]
        told = row.values[FLUID]["told"]
        return float(np.nansum(values * told) / told.sum()) if told.sum() > 0.0 else float("nan")

    yield from _most("wait told at arrival: median error", MEDIAN_ERROR, rows, lambda row: mean(row, "wait_error"))
    yield from _least("waits told within 50%", WITHIN_SHARE, rows, lambda row: mean(row, "wait_within"))


def _of_changes(rows: Sequence[ChangeRow]) -> Iterator[Target]:
    yield from _least(
        f"completed {SERVICES} mean services after a change ÷ steady, {PATIENCE}", STEADY_AGAIN, rows, back_again
    )


def _least(what: str, goal: float, rows: Sequence[R], value: Callable[[R], float]) -> Iterator[Target]:
    yield from _bounded(what, f"≥ {goal:g}", rows, value, lambda found: found >= goal, 1.0)


def _most(what: str, goal: float, rows: Sequence[R], value: Callable[[R], float]) -> Iterator[Target]:
    yield from _bounded(what, f"≤ {goal:g}", rows, value, lambda found: found <= goal, -1.0)


def _bounded(
    what: str,
    goal: str,
    rows: Sequence[R],
    value: Callable[[R], float],
    holds: Callable[[float], bool],
    sign: float,
) -> Iterator[Target]:
    """Nothing where no case has a value: both shares are 0, or no wait was told."""
    found = [(at, row) for row in rows if (at := value(row)) == at]
    if not found:
        return
    missed = [row for at, row in found if not holds(at)]
    worst, where = min(found, key=lambda pair: sign * pair[0])
    verdict = f"missed in {len(missed)} of {len(found)}" if missed else f"met in {len(found)} of {len(found)}"
    measured = f"{worst:.3f}" if isfinite(worst) else "stock completes nothing"
    yield Target(what, goal, measured, verdict, name_of(where))


def name_of(row: Row | ChangeRow) -> str:
    """Where it is, in words."""
    return str(row.cell) if isinstance(row, Row) else f"{row.workload}, {row.change}"


def _over(other: str) -> Callable[[Row], float]:
    return lambda row: row.over(FLUID, other)


def _is_less(row: Row) -> bool:
    fluid, cap = (row.values[name]["success"] for name in (FLUID, BEST_CAP))
    return paired_difference(fluid, cap).high < 0.0


def _wastes(row: Row) -> bool:
    return row.mean(STOCK, "wasted") > STOCK_WASTES


def _more(target: Target, words: str) -> Target:
    return replace(target, verdict=f"{target.verdict}, {words}") if target.verdict.startswith("missed") else target
