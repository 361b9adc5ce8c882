"""The chart at the top of the page: output delivered against the quantity in which the policies differ most."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import isfinite

import numpy as np

from fluidgate.report.alike import groups, together
from fluidgate.report.amounts import scale_of
from fluidgate.report.criteria import FIRST_TOKEN, LATENCY, SILENCE, Criterion, Difference, criteria, mean_of
from fluidgate.report.html import Html, tag
from fluidgate.report.labels import ROW, Box, Point, below, place, written
from fluidgate.report.over_repeats import series
from fluidgate.report.svg import Axis, colour, frame, marker, svg, tick_text
from fluidgate.report.words import at_load, capital, measured
from fluidgate.runs import Cell, Comparison, Scenario

WIDTH, HEIGHT, LEFT, RIGHT, TOP, FOOT = 400.0, 250.0, 52.0, 12.0, 28.0, 40.0
LONGEST_NAME = 30

Ends = tuple[float, float]


@dataclass(frozen=True)
class Mark:
    """One policy, or several that coincide, in the metrics' own units; ends are of the difference from the baseline."""

    names: tuple[str, ...]
    series: int
    x: float
    y: float
    x_ends: Ends | None
    y_ends: Ends | None


def separating(comparison: Comparison, scenario: Scenario) -> Criterion:
    """Of silence, E2E latency and TTFT, the one in which policies lie furthest apart, in the rule's margins.

    Those come first in which the two outermost policies are shown to differ.
    """

    def apart(criterion: Criterion) -> tuple[bool, float]:
        known = [c for c in comparison.at(scenario) if isfinite(mean_of(c, criterion.metric))]
        if not known:
            return False, -1.0
        known.sort(key=lambda cell: mean_of(cell, criterion.metric))
        outermost = Difference.of(known[-1], known[0], criterion)
        return outermost.shown is not None, outermost.mean / outermost.margin if outermost.margin else 0.0

    return max((SILENCE, LATENCY, FIRST_TOKEN), key=apart)


def chosen_axis(comparison: Comparison, scenario: Scenario) -> str:
    """What the chart shows, and why it shows that."""
    up, cells = separating(comparison, scenario), comparison.at(scenario)
    if len({mean_of(cell, up.metric) for cell in cells}) == 1:
        return "Policies do not differ in silence, E2E latency or TTFT." if len(cells) > 1 else ""
    parts = [f"Of silence, E2E latency and TTFT, policies differ most in {up.words}.", "Axes zoomed to the marks."]
    if comparison.repeats > 1:
        parts.append(f"Lines: 95% intervals of the differences from {comparison.baseline}.")
    return " ".join(parts)


def deciding_chart(comparison: Comparison, scenario: Scenario) -> Html:
    """A mark per policy, with its name; policies that coincide have one mark."""
    across, up = criteria(comparison)[0], separating(comparison, scenario)
    cells = [cell for cell in comparison.at(scenario) if all(isfinite(mean_of(cell, c.metric)) for c in (across, up))]
    if not cells:
        return svg(WIDTH, 40, "No request finished.", [tag("text", "No request finished.", x=0, y=20)])
    x_ends, y_ends = ([_ends(comparison, scenario, cell, c) for cell in cells] for c in (across, up))
    x = _axis(across, [mean_of(c, across.metric) for c in cells], x_ends, LEFT, WIDTH - RIGHT)
    y = _axis(up, [mean_of(c, up.metric) for c in cells], y_ends, HEIGHT - FOOT, TOP)
    marks = _marks(comparison, cells, (across, up), (x, y), (x_ends, y_ends))
    return _drawing(comparison, scenario, cells, (across, up), (x, y), marks)


def _ends(comparison: Comparison, scenario: Scenario, cell: Cell, criterion: Criterion) -> Ends | None:
    """The baseline's mean plus the interval of the paired difference from it."""
    if cell.policy == comparison.baseline:
        return None
    base = next(c for c in comparison.at(scenario) if c.policy == comparison.baseline)
    mean, from_base = mean_of(base, criterion.metric), comparison.difference(cell, criterion.metric)
    ends = mean + from_base.low, mean + from_base.high
    return ends if all(map(isfinite, ends)) else None


def _axis(criterion: Criterion, means: list[float], ends: list[Ends | None], start: float, end: float) -> Axis:
    """From the marks to the marks, with what fits of their intervals; never so close that a margin looks large."""
    low, high = min(means), max(means)
    room = max(high - low, 2 * criterion.margin(low), 1e-9)
    reach = [value for pair in ends if pair for value in pair]
    low = max(min([low, *reach]), low - 0.5 * room) if reach else low
    high = min(max([high, *reach]), high + 0.5 * room) if reach else high
    missing = max(0.0, room - (high - low))
    pad = 0.1 * max(room, high - low) + missing / 2
    least = 0.0 if min(means) >= 0 else low - pad
    return Axis(max(least, low - pad), high + pad, start, end)


def _marks(
    comparison: Comparison,
    cells: list[Cell],
    by: tuple[Criterion, Criterion],
    axes: tuple[Axis, Axis],
    ends: tuple[list[Ends | None], list[Ends | None]],
) -> list[Mark]:
    means = [(mean_of(cell, by[0].metric), mean_of(cell, by[1].metric)) for cell in cells]
    shares = [[(v - a.low) / (a.high - a.low) for v, a in zip(pair, axes, strict=True)] for pair in means]
    return [
        Mark(
            tuple(cells[k].policy for k in group),
            series(comparison, cells[group[0]]),
            *means[group[0]],
            ends[0][group[0]],
            ends[1][group[0]],
        )
        for group in groups([np.array([pair]) for pair in shares])
    ]


def _drawing(
    comparison: Comparison,
    scenario: Scenario,
    cells: list[Cell],
    by: tuple[Criterion, Criterion],
    axes: tuple[Axis, Axis],
    marks: list[Mark],
) -> Html:
    (across, up), (x, y) = by, axes
    scales = [scale_of(c.metric, (axis.low, axis.high)) for c, axis in zip(by, axes, strict=True)]
    places = [(x(mark.x), y(mark.y)) for mark in marks]
    names = [together(mark.names, LONGEST_NAME) for mark in marks]
    lines = [Box.of_segment(*segment) for mark in marks for segment in _segments(mark, x, y)]
    labels = place(places, names, Box(x.start, y.end, WIDTH, y.start), lines)
    unplaced = [k for k, label in enumerate(labels) if label is None]
    titles = [scale.titled(capital(c.words)) for c, scale in zip(by, scales, strict=True)]
    title = f"{titles[1]}, against {across.words}"
    parts = [
        tag("text", title, x=0, y=14, font_weight=600),
        *frame(x, y, (titles[0], ""), (tick_text(x, scales[0].factor), tick_text(y, scales[1].factor))),
        tag("text", "better: down and to the right", x=x.start, y=y.start + 31, class_="soft"),
        *(part for mark in marks for part in _intervals(mark, x, y)),
        *(marker(m.series, *at, ", ".join(m.names)) for m, at in zip(marks, places, strict=True)),
        *written(labels),
        *(below(partial(marker, marks[k].series), names[k], LEFT, HEIGHT + 2, row) for row, k in enumerate(unplaced)),
    ]
    values = (
        f"{cell.policy} {measured(up.metric, mean_of(cell, up.metric))} at "
        f"{measured(across.metric, mean_of(cell, across.metric))}"
        for cell in cells
    )
    alt = f"{title}, {at_load(scenario)}: {'; '.join(values)}. Lower and further right is better."
    return svg(WIDTH, HEIGHT + ROW * len(unplaced), alt, parts)


def _segments(mark: Mark, x: Axis, y: Axis) -> list[tuple[Point, Point]]:
    """The mark's intervals."""
    found = []
    if mark.x_ends:
        found.append(((x(mark.x_ends[0]), y(mark.y)), (x(mark.x_ends[1]), y(mark.y))))
    if mark.y_ends:
        found.append(((x(mark.x), y(mark.y_ends[0])), (x(mark.x), y(mark.y_ends[1]))))
    return found


def _intervals(mark: Mark, x: Axis, y: Axis) -> list[Html]:
    return [
        tag("line", x1=x1, x2=x2, y1=y1, y2=y2, stroke=colour(mark.series), stroke_width=1.2, opacity=0.7)
        for (x1, y1), (x2, y2) in _segments(mark, x, y)
    ]
