"""Figures of the papers' studies: theorems over horizons, and mean latency against the arrival rate."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from fluidgate.errors import InputError
from fluidgate.output import make_folder, write_text
from fluidgate.studies.figures import figure_of, legend_below, look, panels_of, plain_log_y, save
from fluidgate.studies.latex import long_table
from fluidgate.studies.paper import PaperResult
from fluidgate.studies.paper.claims import judged_claims, machines_of
from fluidgate.studies.paper.scaling_figures import write_scaling_figures
from fluidgate.studies.paper.settings import MACHINES, SARATHI, SEARCHED, STUDIES, V1, VLLM
from fluidgate.studies.paper.study import Cell

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = {
    VLLM: ("vLLM V0", "vLLM V0"),
    SARATHI: ("Sarathi", "Sarathi"),
    SEARCHED: ("{wait}, best B", "WAIT"),
    V1: ("vLLM V1", "vLLM V1"),
    "fluid": ("fluid (fluidgate)", "fluid"),
}
"""Names for people, and whose looks the curves have."""

X_LABEL, Y_LABEL = "arrival rate (requests/s)", "mean end-to-end latency (s)"
CLAIM_WIDTHS = 0.31, 0.15, 0.23, 0.1, 0.09
TITLE_CHARACTERS = 52
"""Of a line of a title, in one column."""


def write_paper_figures(result: PaperResult, folder: str | os.PathLike[str]) -> list[Path]:
    """Write what was run as SVG and PDF, names in `paper-`: `scaling-MEASURE`, `STUDY`, and `WORKLOAD-by-machine`.

    `paper-claims.tex` beside them is the table of the claims.

    Raises:
        InputError: the folder cannot be written to, matplotlib is not installed, or neither horizons nor latencies
            were run.
    """
    if not (result.has("latency") or result.has("scaling")):
        raise InputError("figures show horizons and latencies, which were not run; add --part latency or scaling")
    written = write_scaling_figures(result.scaling, folder) if result.has("scaling") else []
    written += _latencies(result, folder) if result.has("latency") else []
    return [*written, _claims(result, folder)]


def _claims(result: PaperResult, folder: str | os.PathLike[str]) -> Path:
    path = make_folder(folder) / "paper-claims.tex"
    rows = [(c.what, c.published, c.measured, c.verdict, c.owner) for c in judged_claims(result)]
    write_text(path, long_table(("claim", "published", "here", "verdict", "whose difference"), CLAIM_WIDTHS, rows))
    return path


def _latencies(result: PaperResult, folder: str | os.PathLike[str]) -> Iterator[Path]:
    """A column's figure for each study, and both columns' for each workload, a panel a machine."""
    for name, study in STUDIES.items():
        title = f"{study.preset}\n{fill(MACHINES[study.machine].title, TITLE_CHARACTERS)}"
        with figure_of(title, X_LABEL, Y_LABEL) as (figure, axes):
            _draw(axes, result, name)
            legend_below(figure, columns=2)
            yield from save(figure, folder, "paper-" + name.replace(", ", "-").replace(" ", "-"))
    for workload in dict.fromkeys(study.preset for study in STUDIES.values()):
        names = machines_of(workload)
        with panels_of(list(names), X_LABEL, Y_LABEL) as (figure, panels):
            figure.suptitle(workload)
            for axes, name in zip(panels, names.values(), strict=True):
                _draw(axes, result, name)
            legend_below(figure, columns=len(SHOWN))
            yield from save(figure, folder, f"paper-{workload}-by-machine")


def _draw(axes: Axes, result: PaperResult, name: str) -> None:
    """The means of a study without intervals: few seeds give wide ones, which would hide the curves."""
    study = STUDIES[name]
    wait = "Nested WAIT" if study.equal_width else "WAIT"
    for scheduler, (label, looks_as) in SHOWN.items():
        latencies_s = [result.row("latency", Cell(name, scheduler, rate)).mean("mean_e2e_s") for rate in study.rates]
        axes.plot(study.rates, latencies_s, label=label.format(wait=wait), **look(looks_as))
    plain_log_y(axes)
