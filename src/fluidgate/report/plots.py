"""Drawings over time or latency: envelopes, stacks and lines, with the values that the pointer reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from typing import Any

import numpy as np

from fluidgate.report import alike
from fluidgate.report.alike import Points, groups
from fluidgate.report.html import Html, join, tag
from fluidgate.report.svg import Axis, Format, colour, data_policy, frame, svg, tick_text
from fluidgate.report.words import whole_percent
from fluidgate.words import number

WIDTH, LEFT, RIGHT, TOP, FOOT = 340.0, 42.0, 8.0, 24.0, 36.0
TALL, LOW = 205.0, 175.0
LINE, GAP = 17.0, 4.0
"""Of the text below the plot: a line, and the space above the first."""
STEPS = 201
"""Places at which lines over time are compared."""
LONGEST_NAME = 48

Values = Sequence[float]


@dataclass(frozen=True)
class Line:
    """One policy's values: in the bins between `edges_s`, or without those at the percentiles of a distribution."""

    label: str
    series: int
    values: Values
    edges_s: Values = ()


@dataclass(frozen=True)
class Level:
    """A horizontal line across the plot, with its name above one end; `spread` is shaded around it."""

    at: float
    label: str
    dashed: bool = False
    spread: float = 0.0
    name_at_left: bool = False


def envelope(
    title: str, alt: str, line: Line, low: Values, high: Values, levels: Sequence[Level], until_s: float
) -> Html:
    """A mean between its minimum and maximum, as shares; the spread of `levels` lies behind it."""
    x, y = _time([line], until_s), Axis(0.0, 1.15, LOW - FOOT, TOP)
    middles, ink = _middles(line.edges_s), colour(line.series)
    marks = [
        *(_spread(level, x, y) for level in levels if level.spread),
        tag("path", d=_band(x, y, middles, low, high), fill=ink, fill_opacity=0.3),
        tag("path", d=_path(x, y, middles, line.values), fill="none", stroke=ink, stroke_width=1.4),
        *(_level(level, x, y) for level in levels),
    ]
    end = x(line.edges_s[-1])
    rows = [_row(name, values, end) for name, values in (("max", high), ("mean", line.values), ("min", low))]
    return _plot(title, alt, x, y, marks, rows, "percent", whole_percent)


def stack(title: str, alt: str, layers: Sequence[Line], levels: Sequence[float], top: float, until_s: float) -> Html:
    """Layers on top of each other, one hue from light to dark; `levels` mark where their tops should be."""
    x, y = _time(layers, until_s), Axis(0.0, top, LOW - FOOT, TOP)
    middles = _middles(layers[0].edges_s)
    below, marks = [0.0] * len(middles), []
    for layer in layers:
        above = [base + value for base, value in zip(below, layer.values, strict=True)]
        band = _band(x, y, middles, below, above)
        marks.append(tag("path", d=band, fill="var(--accent)", fill_opacity=shade(layer.series)))
        below = above
    for level in levels:
        marks.append(tag("line", x1=x.start, x2=x.end, y1=y(level), y2=y(level), class_="limit dashed thin"))
    rows = [_row(layer.label, layer.values, x(layer.edges_s[-1])) for layer in reversed(layers)]
    return _plot(title, alt, x, y, marks, rows, "number", number)


def shade(layer: int) -> float:
    """The opacity of a layer of a stack, of which there are five at most."""
    return 0.16 + 0.19 * layer


def lines_over_time(title: str, alt: str, lines: Sequence[Line], unit: str = "number") -> Html:
    """One line per policy over time, or per policies that are alike; a gap where there is no value."""
    most = max((v for line in lines for v in line.values if isfinite(v)), default=0.0)
    x, y = _time(lines), Axis(0.0, 1.05 * most or 1.0, TALL - FOOT, TOP)
    paths = [_path(x, y, _middles(line.edges_s), line.values) for line in lines]
    together = groups([over_time_points(line, x, y) for line in lines])
    rows = [_row(line.label, line.values, x(line.edges_s[-1]), line.series) for line in lines]
    text = tick_text(y) if unit == "duration" else number
    return _plot(title, alt, x, y, _lines(lines, paths, together), rows, unit, text, _names(lines, together, TALL))


def over_time_points(line: Line, x: Axis, y: Axis) -> Points:
    """The line at `STEPS` even times, as shares of both axes; NaN outside its own time."""
    along = np.linspace(0.0, 1.0, STEPS)
    places = np.array([(middle - x.low) / (x.high - x.low) for middle in _middles(line.edges_s)])
    values = np.array(line.values, np.float64) / y.high
    return np.column_stack([along, np.interp(along, places, values, left=np.nan, right=np.nan)])


def distributions(title: str, alt: str, lines: Sequence[Line]) -> Html:
    """Percentiles 0 to 100 of each policy: the share of requests below a latency, logarithmic if it spans tenfold."""
    filled = [line for line in lines if line.values]
    if not filled:
        return svg(WIDTH, 40, alt, [tag("text", f"{title}: no data.", x=0, y=20)])
    x, y = _latency([value for line in filled for value in line.values]), Axis(0.0, 1.0, TALL - FOOT, TOP + 6)
    shares = [[k / (len(line.values) - 1) for k in range(len(line.values))] for line in filled]
    paths = [_path(x, y, line.values, share) for line, share in zip(filled, shares, strict=True)]
    width = x.end - x.start
    together = groups(
        [
            np.column_stack([[(x(value) - x.start) / width for value in line.values], share])
            for line, share in zip(filled, shares, strict=True)
        ]
    )
    hover = {
        "by": "y",
        "start": y.start,
        "across": [x.start, x.end],
        "unit": "duration",
        "rows": [_row(line.label, line.values, y.end, line.series) for line in filled],
    }
    unit, factor = ("s", 1.0) if x.high >= 1.0 else ("ms", 1e3)
    head = _framed(
        f"{title}, {unit}", x, y, f"{unit}; upwards: % of requests", whole_percent, lambda v: number(factor * v)
    )
    names = _names(filled, together, TALL)
    return svg(WIDTH, TALL + _room(names), alt, [*head, *_lines(filled, paths, together), *names], hover)


def _room(below: Sequence[Html]) -> float:
    return GAP + LINE * len(below) if below else 0.0


def _lines(lines: Sequence[Line], paths: Sequence[str], together: Sequence[Sequence[int]]) -> list[Html]:
    """A curve per group, that of its first line; those of several lie in a band."""
    return [
        _policy([lines[k].label for k in group], [lines[k].series for k in group], paths[group[0]])
        for group in together
    ]


def _names(lines: Sequence[Line], together: Sequence[Sequence[int]], top: float) -> list[Html]:
    """Below the plot, what each band stands for."""
    bands = [group for group in together if len(group) > 1]
    names = []
    for row, group in enumerate(bands):
        at = top + GAP + LINE * row
        ink = colour(lines[group[0]].series)
        band = tag("path", d=f"M4 {at + 3:.1f}H24", fill="none", stroke=ink, class_="alike")
        line = tag("path", d=f"M4 {at + 3:.1f}H24", fill="none", stroke=ink, stroke_width=1.6)
        text = tag("text", alike.together([lines[k].label for k in group], LONGEST_NAME), x=30, y=at + 7)
        names.append(tag("g", band, line, text, data_policy=data_policy([lines[k].series for k in group])))
    return names


def _plot(
    title: str,
    alt: str,
    x: Axis,
    y: Axis,
    marks: Sequence[Html],
    rows: list[dict[str, Any]],
    unit: str,
    text: Format,
    below: Sequence[Html] = (),
) -> Html:
    """A drawing over time; `unit` is that of the values under the pointer, `text` writes them along y."""
    hover = {
        "by": "x",
        "start": x.start,
        "across": [y.end, y.start],
        "seconds_per_pixel": (x.high - x.low) / (x.end - x.start),
        "first": x.low,
        "unit": unit,
        "rows": rows,
    }
    height = y.start + FOOT + _room(below)
    return svg(WIDTH, height, alt, [*_framed(title, x, y, "time, s", text, number), *marks, *below], hover)


def _framed(title: str, x: Axis, y: Axis, x_label: str, y_format: Format, x_format: Format) -> list[Html]:
    return [tag("text", title, x=0, y=13, font_weight=600), *frame(x, y, (x_label, ""), (x_format, y_format))]


def _time(lines: Sequence[Line], until_s: float = 0.0) -> Axis:
    """From the first edge to the last of all lines, or further, so that figures can share it."""
    end_s = max(until_s, *(line.edges_s[-1] for line in lines))
    return Axis(min(line.edges_s[0] for line in lines), end_s, LEFT, WIDTH - RIGHT)


def _latency(values: Values) -> Axis:
    high = max(values) or 1.0
    low = max(min((value for value in values if value > 0), default=high), high / 1e6)
    if high > 10 * low:
        return Axis(low, high, LEFT, WIDTH - RIGHT, log=True)
    return Axis(0.0, 1.02 * high, LEFT, WIDTH - RIGHT)


def _middles(edges: Values) -> list[float]:
    return [(a + b) / 2 for a, b in pairwise(edges)]


def _policy(names: Sequence[str], series: Sequence[int], path: str) -> Html:
    ink = colour(series[0])
    curve = tag("path", d=path, fill="none", stroke=ink, stroke_width=1.6)
    band = [tag("path", d=path, fill="none", stroke=ink, class_="alike")] if len(names) > 1 else []
    return tag("g", tag("title", ", ".join(names)), *band, curve, data_policy=data_policy(series))


def _path(x: Axis, y: Axis, places: Values, values: Values) -> str:
    parts, pen = [], "M"
    for place, value in zip(places, values, strict=True):
        if isfinite(value):
            parts.append(f"{pen}{x(place):.1f} {y(value):.1f}")
        pen = "L" if isfinite(value) else "M"
    return "".join(parts)


def _band(x: Axis, y: Axis, places: Values, low: Values, high: Values) -> str:
    def corners(points: Iterable[tuple[float, float]]) -> str:
        return "L".join(f"{x(place):.1f} {y(value):.1f}" for place, value in points)

    return f"M{corners(zip(places, high, strict=True))}L{corners(reversed(list(zip(places, low, strict=True))))}Z"


def _spread(level: Level, x: Axis, y: Axis) -> Html:
    top, bottom = y(level.at + level.spread), y(max(level.at - level.spread, y.low))
    return tag("rect", x=x.start, width=x.end - x.start, y=top, height=bottom - top, class_="spread")


def _level(level: Level, x: Axis, y: Axis) -> Html:
    at, style = y(level.at), "limit dashed" if level.dashed else "limit"
    end, anchor = (x.start + 3, "start") if level.name_at_left else (x.end - 3, "end")
    line = tag("line", x1=x.start, x2=x.end, y1=at, y2=at, class_=style)
    return join([line, tag("text", level.label, x=end, y=at - 4, text_anchor=anchor, class_="soft halo")])


def _row(name: str, values: Values, end: float, policy: int | None = None) -> dict[str, Any]:
    """What the pointer reads, to four digits, up to the pixel `end`; a missing value is null."""
    rounded = [float(f"{v:.4g}") if isfinite(v) else None for v in values]
    return {"name": name, "policy": policy, "end": round(end, 1), "values": rounded}
