"""Figures of the papers' studies: mean latency against the arrival rate, one SVG file per workload."""

from __future__ import annotations

import os
from math import nan
from pathlib import Path

from fluidgate.errors import InputError
from fluidgate.metrics import Interval
from fluidgate.output import make_folder, write_text
from fluidgate.report.charts import Curve, curves
from fluidgate.report.html import Html, join, tag
from fluidgate.report.svg import marker, standalone
from fluidgate.report.words import duration
from fluidgate.studies.paper import PaperResult
from fluidgate.studies.paper.settings import SARATHI, SEARCHED, STUDIES, V1, VLLM
from fluidgate.studies.paper.study import Cell
from fluidgate.words import number

SHOWN = (VLLM, SARATHI, SEARCHED, V1, "fluid")


def write_paper_figures(result: PaperResult, folder: str | os.PathLike[str]) -> list[Path]:
    """Write `paper-STUDY.svg` for every study whose latencies were run; the folder is made if need be.

    Raises:
        InputError: the folder cannot be written to, or no latencies were run.
    """
    if not result.has("latency"):
        raise InputError("figures show latencies against rates, which were not run; add --part latency")
    target = make_folder(folder)
    written = []
    for name in STUDIES:
        path = target / f"paper-{name.replace(', ', '-').replace(' ', '-')}.svg"
        write_text(path, standalone(_latency(result, name)))
        written.append(path)
    return written


def _latency(result: PaperResult, name: str) -> Html:
    lines = [_curve(result, name, series, scheduler) for series, scheduler in enumerate(SHOWN)]
    alt = f"{name}: mean E2E latency against arrival rate. " + " ".join(
        f"{line.label}: {'; '.join(text for _, _, text in line.points)}." for line in lines
    )
    drawing = curves("arrival rate, req/s", "mean E2E latency", alt, lines, number, duration)
    return _with_legend(drawing, [line.label for line in lines])


def _curve(result: PaperResult, name: str, series: int, scheduler: str) -> Curve:
    points = []
    for rate in STUDIES[name].rates:
        mean_s = result.row("latency", Cell(name, scheduler, rate)).mean("mean_e2e_s")
        points.append((_point(rate), _point(mean_s), f"{duration(mean_s)} at {number(rate)} req/s"))
    return Curve(scheduler, series, tuple(points))


def _point(value: float) -> Interval:
    """A value without an interval: few seeds give wide ones, which would hide the curves."""
    return Interval(value, nan, nan, 1)


def _with_legend(drawing: Html, labels: list[str]) -> Html:
    """Marks and names at the upper left, where latency curves are not."""
    entries = [
        tag("g", marker(series, 84.0, 40.0 + 18.0 * series), tag("text", label, x=96, y=44 + 18 * series))
        for series, label in enumerate(labels)
    ]
    return Html(drawing.removesuffix("</svg>") + join(entries) + "</svg>")
