"""Throughput against stalls over the knobs of the policies, and whether a policy lies above the curve of `fluid`."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.errors import InputError
from fluidgate.metrics import Interval, mean_interval
from fluidgate.studies.figures import figure_of, legend_below, look, save
from fluidgate.studies.gate.study import CURVES, TUNED, Cell, GateResult, Row


def over_baseline(result: GateResult, row: Row) -> Interval:
    """Service rate of `fluid` at the stalls of a row, less the row's, as shares of the bound, over paired seeds.

    Between two settings of the knob the rate is interpolated; a setting with more stalls and a lower rate than another
    need not be used. A row with fewer stalls than the tightest setting is compared with that.
    """
    curve = [result.row(row.part, row.cell, spec) for spec in CURVES["fluid"]]
    curve.sort(key=_stalls)
    rates = np.array([r.values["bound_share"] for r in curve])  # settings × seeds
    best = _best_so_far(rates)
    stalls = np.array([_stalls(r) for r in curve])
    at = _stalls(row)
    by_seed = [np.interp(at, stalls, best[:, seed]) for seed in range(best.shape[1])]
    return mean_interval(np.array(by_seed) - row.values["bound_share"])


def baselines(result: GateResult, cell: Cell) -> list[Row]:
    """The rows of a cell that are not of `fluid`."""
    rows = [result.row("curves", cell, policy) for policy in result.policies("curves", cell)]
    return [row for row in rows if row.policy not in CURVES["fluid"]]


def write_curves(result: GateResult, folder: str | os.PathLike[str]) -> list[Path]:
    """Write `gate-CASE.svg` and `.pdf` for every cell of the part `curves`.

    Raises:
        InputError: the part was not run, matplotlib is not installed, or the folder cannot be written to.
    """
    if not result.cells("curves"):
        raise InputError("figures show the part curves, which was not run; add --part curves")
    return [path for cell in result.cells("curves") for path in _drawn(result, cell, folder)]


def _drawn(result: GateResult, cell: Cell, folder: str | os.PathLike[str]) -> list[Path]:
    rows = {policy: result.row("curves", cell, policy) for policy in result.policies("curves", cell)}
    caps = [policy for policy in rows if policy.startswith("concurrency-cap")]
    lines = CURVES | {"concurrency-cap": caps, TUNED: [TUNED]}
    with figure_of(cell.case, "share of streams silent for more than 1 s", "service rate ÷ fluid bound") as (
        figure,
        axes,
    ):
        for name, specs in lines.items():
            points = [rows[spec] for spec in specs]
            rates = [mean_interval(row.values["bound_share"]) for row in points]
            axes.errorbar(
                [_stalls(row) for row in points],
                [rate.mean for rate in rates],
                [rate.high - rate.mean for rate in rates],
                label=name,
                **look(name)
                | {"markersize": 9.0 if name == TUNED else 3.5}
                | {"linewidth": 2.0 if name == "fluid" else 1.0}
                | {"linestyle": "none" if name == TUNED else "-"},
            )
        axes.locator_params(axis="x", nbins=5)
        legend_below(figure, columns=3)
        return save(figure, folder, "gate-" + cell.case.replace(", ", "-").replace(" ", "-"))


def _stalls(row: Row) -> float:
    return float(row.values["stalled_share"].mean())


def _best_so_far(rates: FloatArray) -> FloatArray:
    """Of settings × seeds in order of stalls: each setting's, or an earlier one's whose mean is higher."""
    best, kept = 0, []
    means = rates.mean(axis=1)
    for setting in range(len(rates)):
        best = setting if means[setting] > means[best] else best
        kept.append(rates[best])
    return np.array(kept)
