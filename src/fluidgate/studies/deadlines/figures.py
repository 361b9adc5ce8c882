"""The figure of the deadlines study: what each policy completes over the load, a panel for each workload."""

from __future__ import annotations

import os
from pathlib import Path

from fluidgate.errors import InputError
from fluidgate.studies.deadlines.cases import bounds
from fluidgate.studies.deadlines.study import BEST_CAP, FLUID, KNOWN, STOCK, DeadlinesResult, Row
from fluidgate.studies.figures import legend_below, panels_of, save

LINES = {
    FLUID: ("C0", "o", "fluid"),
    KNOWN: ("C3", "D", "known lengths"),
    BEST_CAP: ("C4", "v", "best queue cap"),
    "lifo": ("C1", "s", "LIFO"),
    STOCK: ("black", "x", "stock"),
}
"""Colour, mark and name of each policy that is drawn."""


def write_figures(result: DeadlinesResult, folder: str | os.PathLike[str]) -> list[Path]:
    """Write `deadlines-PATIENCE.svg` and `.pdf` for each patience.

    Raises:
        InputError: the part `cells` was not run, matplotlib is not installed, or the folder cannot be written to.
    """
    if "cells" not in result.parts:
        raise InputError("figures show the part cells, which was not run; add --part cells")
    patiences = dict.fromkeys(row.cell.patience for row in result.rows)
    return [path for patience in patiences for path in _drawn(result, patience, folder)]


def _drawn(result: DeadlinesResult, patience: str, folder: str | os.PathLike[str]) -> list[Path]:
    rows = [row for row in result.rows if row.cell.patience == patience]
    workloads = list(dict.fromkeys(row.cell.workload for row in rows))
    with panels_of(workloads, "load", "share completed in time") as (figure, panels):
        for workload, axes in zip(workloads, panels, strict=True):
            _draw(axes, [row for row in rows if row.cell.workload == workload])
        legend_below(figure, columns=len(LINES) + 1)
        return save(figure, folder, "deadlines-" + patience.lower().replace(" ", "-"))


def _draw(axes, rows: list[Row]) -> None:  # type: ignore[no-untyped-def]
    loads = [row.cell.load for row in rows]
    for policy, (colour, mark, name) in LINES.items():
        shares = [row.mean(policy) for row in rows]
        axes.plot(loads, shares, color=colour, marker=mark, markerfacecolor="none", label=name)
    in_order = [bounds(row.cell).in_order.completed for row in rows]
    axes.plot(loads, in_order, color="grey", linestyle=":", label="bound in order of arrival")
    axes.set_ylim(0.0, 1.05)
