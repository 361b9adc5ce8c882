"""Figures of the scaling study: replicas over time under each rule, and what the traffic needs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from fluidgate.studies.figures import figure_of, save
from fluidgate.studies.scaling.study import INTERVAL_S, LIMITS, MACHINES, RULES, ScalingResult
from fluidgate.studies.scaling.traffic import SHAPES

DRAWN = tuple(rule for rule in RULES if rule != "fixed")


def write_figures(result: ScalingResult, folder: str | os.PathLike[str]) -> list[Path]:
    """Write `scaling-MACHINE-SHAPE.svg` and `.pdf` of every case; lines are of the first seed.

    Raises:
        InputError: matplotlib is not installed, or the folder cannot be written to.
    """
    cases = dict.fromkeys((row.machine, row.shape) for row in result.rows)
    return [path for machine, shape in cases for path in _drawn(result, machine, shape, folder)]


def _drawn(result: ScalingResult, machine: str, shape: str, folder: str | os.PathLike[str]) -> list[Path]:
    title = f"{shape}, {MACHINES[machine]}"
    with figure_of(title, "minutes", "replicas that take requests") as (figure, axes):
        for rule in DRAWN:
            ready = result.row(machine, shape, rule).ready
            minutes = INTERVAL_S * np.arange(1, len(ready) + 1) / 60.0
            width, order = (2.0, 3) if rule == "boundary" else (0.8, 2)
            axes.step(minutes, ready, where="post", label=rule, linewidth=width, zorder=order)
        seconds = np.linspace(0.0, SHAPES[shape].duration_s, 500)
        axes.plot(seconds / 60.0, SHAPES[shape].at(seconds), "k--", linewidth=1.0, label="rate, in replicas")
        axes.set_ylim(0, 1.3 * LIMITS.most)
        axes.legend(fontsize=7, ncols=3, loc="upper center")
        return save(figure, folder, f"scaling-{machine}-{shape}")
