"""Figures of the theorems: gap, wait and memory against the horizon."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluidgate.metrics import Interval, mean_interval
from fluidgate.studies.figures import figure_of, legend_below, look, plain_log_y, save
from fluidgate.studies.paper.scaling import Scaling
from fluidgate.studies.paper.scaling_cases import CASES, NESTED_CASES
from fluidgate.studies.paper.scaling_claims import AT_BOUNDARY, DELTAS, SLACK_CASES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

X_LABEL = "horizon ζT (expected requests)"
NAMES = {"wait": "WAIT", "greedy": "vLLM V1"}
"""Of the policies of the cases, for people; the others keep their own."""
LAW: dict[str, Any] = {"linestyle": "--"}
TICKS = 5
"""Horizons that are named at most; names of more would run into each other."""


@dataclass(frozen=True)
class Line:
    """Means by horizon with intervals, and how they are drawn; laws have neither intervals nor marks."""

    label: str
    looks: dict[str, Any]
    points: tuple[tuple[float, Interval], ...]


def write_scaling_figures(scaling: Scaling, folder: str | os.PathLike[str]) -> list[Path]:
    """Write `paper-scaling-gap`, `-wait` and `-memory`, as SVG and PDF.

    Raises:
        InputError: the folder cannot be written to, or matplotlib is not installed.
    """
    shown = (SLACK_CASES[0], *AT_BOUNDARY)
    gap = [_line(scaling, name, "gap", 100.0) for name in shown]
    wait = [_line(scaling, name, "wait") for name in shown]
    gap += [_law("slope −1", gap[0], -1.0), _law("slope −½", gap[1], -0.5)]
    wait += [_law("slope 0", wait[0], 0.0), _law("slope ½", wait[1], 0.5)]
    drawings = {
        "gap": ("Throughput gap (Theorem 1, Proposition 4)", "gap to the fluid throughput (%)", gap),
        "wait": ("Wait for the prefill (Theorem 1, Proposition 4)", "mean wait (full iterations)", wait),
        "memory": ("KV cache of Nested WAIT (Theorem 2)", "KV cache (thousand tokens)", _memory(scaling)),
    }
    written = []
    for name, (title, y_label, lines) in drawings.items():
        with figure_of(title, X_LABEL, y_label) as (figure, axes):
            _draw(axes, lines)
            if name != "memory":
                plain_log_y(axes)
            legend_below(figure, columns=2)
            written += save(figure, folder, f"paper-scaling-{name}")
    return written


def _line(scaling: Scaling, name: str, key: str, scale: float = 1.0) -> Line:
    of = CASES[name]
    points = tuple((requests, mean_interval(numbers[key] * scale)) for requests, numbers in scaling[name].items())
    who = NAMES.get(of.policy, of.policy)
    looks = look(who) | ({"linestyle": ":"} if name in SLACK_CASES else {})
    return Line(f"{who}, load {of.load:g}", looks, points)


def _law(label: str, through: Line, exponent: float) -> Line:
    """A power of the horizon through the last point of a line."""
    last, value = through.points[-1]
    points = ((at, _exact(value.mean * (at / last) ** exponent)) for at, _ in through.points)
    return Line(label, LAW | {"color": "0.5" if exponent in (-1.0, 0.0) else "0.2"}, tuple(points))


def _memory(scaling: Scaling) -> list[Line]:
    """What the runs held at most, and M_req, of the first case of Theorem 2; thousands of tokens."""
    name, of = next(iter(NESTED_CASES.items()))
    held = {requests: numbers["peak_tokens"] / 1000 for requests, numbers in scaling[name].items()}
    of_runs = look("WAIT")
    return [
        Line("most held, mean of runs", of_runs, tuple((n, mean_interval(peaks)) for n, peaks in held.items())),
        Line(
            "most held in any run",
            of_runs | {"linestyle": ":"},
            tuple((n, _exact(peaks.max())) for n, peaks in held.items()),
        ),
        *(
            Line(
                rf"$M_\mathrm{{req}}$, δ = {delta:g}",
                LAW | {"color": grey},
                tuple((n, _exact(of.required_tokens(n, delta) / 1000)) for n in held),
            )
            for delta, grey in zip(DELTAS, ("0.7", "0.45", "0.2"), strict=True)
        ),
        Line(r"$M^\pi$", LAW | {"color": "C3"}, tuple((n, _exact(of.base_tokens / 1000)) for n in held)),
    ]


def _exact(value: float) -> Interval:
    return Interval(float(value), float("nan"), float("nan"), 1)


def _draw(axes: Axes, lines: Sequence[Line]) -> None:
    for line in lines:
        at = [horizon for horizon, _ in line.points]
        axes.plot(at, [point.mean for _, point in line.points], label=line.label, **line.looks)
        lows, highs = [point.low for _, point in line.points], [point.high for _, point in line.points]
        axes.vlines(at, lows, highs, color=line.looks["color"])
    axes.set_xscale("log")
    horizons = sorted({at for line in lines for at, _ in line.points})
    axes.set_xticks(horizons[:: -(-len(horizons) // TICKS)], minor=False)
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter("{x:,.0f}")
