"""Charts of means: horizontal bars, bars in parts, and curves through loads, coloured by the page's style."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from math import inf, isfinite

import numpy as np

from fluidgate.metrics import Interval
from fluidgate.report.alike import groups, together
from fluidgate.report.html import Html, tag
from fluidgate.report.labels import ROW, below
from fluidgate.report.svg import Axis, colour, data_policy, frame, marker, svg, tick_text
from fluidgate.report.words import short, tenths, whole_percent
from fluidgate.words import number

WIDTH, LABELS, VALUES, HEAD, PITCH = 340.0, 112.0, 66.0, 26.0, 24.0
"""Bars: the width, of it the space at the left and at the right, the space above, and the height of a row."""


@dataclass(frozen=True)
class Bar:
    """A bar from zero to `value.mean`; `mark` is a second value, drawn as a tick; `text` is written at the right."""

    label: str
    series: int
    value: Interval
    text: str
    mark: float | None = None


@dataclass(frozen=True)
class Limit:
    """A vertical line across all bars."""

    at: float
    label: str
    dashed: bool = False


def bars(title: str, alt: str, rows: Sequence[Bar], top: float, limits: Sequence[Limit] = ()) -> Html:
    """Horizontal bars on a linear scale from 0 to `top`; an interval beyond it ends in an arrow.

    Args:
        title: written above the bars.
        alt: the text alternative.
    """
    foot, span = HEAD + PITCH * len(rows), WIDTH - LABELS - VALUES

    def x(value: float) -> float:
        return LABELS + span * min(max(value / top, 0.0), 1.0)

    parts = [tag("text", title, x=0, y=14, font_weight=600)]
    parts.append(tag("line", x1=LABELS, x2=LABELS, y1=HEAD, y2=foot, class_="axis"))
    parts += [_bar(row, x, HEAD + PITCH * (i + 0.5), top) for i, row in enumerate(rows)]
    for i, limit in enumerate(limits):
        at, style = x(limit.at), "limit dashed" if limit.dashed else "limit"
        parts.append(tag("line", x1=at, x2=at, y1=HEAD, y2=foot + 4 + 13 * i, class_=style))
        anchor = "end" if at > LABELS + span / 2 else "start"
        parts.append(tag("text", limit.label, x=at, y=foot + 15 + 13 * i, text_anchor=anchor, class_="soft"))
    return svg(WIDTH, foot + 6 + 13 * len(limits), alt, parts)


def _bar(row: Bar, x: Callable[[float], float], y: float, top: float) -> Html:
    parts = [tag("title", f"{row.label}: {row.text}"), _row_label(row.label, y + 4)]
    parts.append(tag("text", row.text, x=WIDTH, y=y + 4, text_anchor="end"))
    if isfinite(row.value.mean):
        width = x(row.value.mean) - LABELS
        parts.append(tag("rect", x=LABELS, y=y - 7, width=width, height=14, rx=2, fill=colour(row.series)))
    if _has_ends(row.value):
        parts.append(_whisker(x(row.value.low), x(row.value.high), y, clipped=row.value.high > top))
    if row.mark is not None and isfinite(row.mark):
        at = x(row.mark)
        parts.append(tag("line", x1=at, x2=at, y1=y - 8, y2=y + 8, stroke=colour(row.series), stroke_width=3))
    return tag("g", *parts, data_policy=str(row.series))


def _row_label(label: str, y: float) -> Html:
    return tag("text", short(label, 17), x=LABELS - 7, y=y, text_anchor="end")


def _has_ends(value: Interval) -> bool:
    """One repeat gives a mean without an interval."""
    return isfinite(value.low) and isfinite(value.high)


def _whisker(low: float, high: float, y: float, *, clipped: bool) -> Html:
    end = f"M{high - 4:.1f} {y - 3:.1f}L{high:.1f} {y:.1f}L{high - 4:.1f} {y + 3:.1f}"
    cap = f"M{high:.1f} {y - 3:.1f}V{y + 3:.1f}"
    path = f"M{low:.1f} {y - 3:.1f}V{y + 3:.1f}M{low:.1f} {y:.1f}H{high:.1f}{end if clipped else cap}"
    return tag("path", d=path, class_="whisker", fill="none")


def scale_top(values: Sequence[Interval]) -> float:
    """The end of a bar scale: room for the means, and for intervals up to half as long again."""
    longest = max((v.mean for v in values if isfinite(v.mean)), default=0.0)
    reach = max((v.high for v in values if _has_ends(v)), default=-inf)
    return max(longest, min(reach, 1.5 * longest)) or 1.0


@dataclass(frozen=True)
class Split:
    """A full-length bar in parts, each a name, a style and a share; `missing` is written instead if one is NaN."""

    label: str
    series: int
    parts: tuple[tuple[str, str, float], ...]
    missing: str


def split_bars(title: str, alt: str, rows: Sequence[Split]) -> Html:
    """Bars of the same length, each split into parts that add up to 1."""
    parts = [part for k, row in enumerate(rows) for part in _split_bar(row, HEAD + PITCH * k)]
    title_text = tag("text", title, x=0, y=14, font_weight=600)
    return svg(WIDTH, HEAD + PITCH * len(rows) + 4, alt, [title_text, *parts])


def _split_bar(row: Split, y: float) -> list[Html]:
    parts = [_row_label(row.label, y + 15)]
    if not all(isfinite(share) for _, _, share in row.parts):
        return [*parts, tag("text", row.missing, x=LABELS, y=y + 15, class_="soft")]
    x = LABELS
    for name, style, share in row.parts:
        width = (WIDTH - LABELS) * share
        hint = tag("title", f"{row.label}: {name} {tenths(share)}")
        parts.append(tag("rect", hint, x=x, y=y + 3, width=width, height=17, class_=style))
        if width > 34:
            text = whole_percent(share)
            parts.append(tag("text", text, x=x + width / 2, y=y + 15, text_anchor="middle", class_=f"on-{style}"))
        x += width
    return [tag("g", *parts, data_policy=str(row.series))]


CurvePoint = tuple[Interval, Interval, str]
"""x, y and what is said under the pointer."""


@dataclass(frozen=True)
class Curve:
    """One policy's points in order of load, in stretches that a line joins."""

    label: str
    series: int
    stretches: tuple[tuple[CurvePoint, ...], ...]

    @property
    def points(self) -> list[CurvePoint]:
        """Of all stretches."""
        return [point for stretch in self.stretches for point in stretch]

    def drawable(self) -> list[list[CurvePoint]]:
        """The points that have both values, by stretch."""
        return [[p for p in stretch if isfinite(p[0].mean) and isfinite(p[1].mean)] for stretch in self.stretches]


def curves(title: str, x_label: str, alt: str, lines: Sequence[Curve]) -> Html:
    """One line per policy through its stretches, with intervals, axes zoomed to the marks; lines that coincide are one.

    y is logarithmic when it spans more than tenfold.
    """
    width, height, left, right, head, foot = 400.0, 270.0, 52.0, 12.0, 26.0, 40.0
    points = [point for line in lines for stretch in line.drawable() for point in stretch]
    if not points:
        return svg(width, 40, alt, [tag("text", "No request finished.", x=0, y=20)])
    x = _zoomed([x.mean for x, _, _ in points], left, width - right)
    y = _latency_axis([y.mean for _, y, _ in points], height - foot, head)
    parts = frame(x, y, (x_label, ""), (tick_text(x), number if y.log else tick_text(y)))
    parts.append(tag("text", title, x=0, y=14, font_weight=600))
    grouped = _groups(lines, x, y)
    parts.extend(_curve([lines[k] for k in group], x, y) for group in grouped)
    bands = [[lines[k] for k in group] for group in grouped if len(group) > 1]
    parts.extend(_band_name(band, left, height, row) for row, band in enumerate(bands))
    return svg(width, height + ROW * len(bands), alt, parts)


def _zoomed(values: Sequence[float], start: float, end: float) -> Axis:
    low, high = min(values), max(values)
    pad = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    return Axis(low - pad, high + pad, start, end)


def _latency_axis(values: Sequence[float], bottom: float, top: float) -> Axis:
    low, high = min(values), max(values)
    if low > 0 and high > 10 * low:
        return Axis(low / 1.3, high * 1.3, bottom, top, log=True)
    return _zoomed(values, bottom, top)


def _groups(lines: Sequence[Curve], x: Axis, y: Axis) -> list[list[int]]:
    """The lines that coincide, by place; each has a point per load."""
    width, height = x.end - x.start, y.start - y.end
    return groups(
        [
            np.array([((x(px.mean) - x.start) / width, (y.start - y(py.mean)) / height) for px, py, _ in line.points])
            for line in lines
        ]
    )


def _band_name(band: Sequence[Curve], left: float, bottom: float, row: int) -> Html:
    name = together([line.label for line in band])
    named = below(partial(marker, band[0].series), name, left, bottom, row)
    return tag("g", named, data_policy=data_policy(line.series for line in band))


def _curve(band: Sequence[Curve], x: Axis, y: Axis) -> Html:
    """The first of the curves that coincide."""
    line, name = band[0], together([line.label for line in band])
    stretches, ink = [stretch for stretch in line.drawable() if stretch], colour(line.series)
    path = "".join("M" + "L".join(f"{x(px.mean):.1f} {y(py.mean):.1f}" for px, py, _ in part) for part in stretches)
    parts = [tag("path", d=path, fill="none", stroke=ink, stroke_width=1.6, opacity=0.75)] if path else []
    for px, py, text in chain.from_iterable(stretches):
        if _has_ends(px):
            parts.append(_error(x(px.low), x(px.high), y(py.mean), y(py.mean), ink))
        if _has_ends(py):
            parts.append(_error(x(px.mean), x(px.mean), y(py.low), y(py.high), ink))
        parts.append(marker(line.series, x(px.mean), y(py.mean), f"{name}: {text}"))
    return tag("g", *parts, data_policy=data_policy(line.series for line in band))


def _error(x1: float, x2: float, y1: float, y2: float, ink: str) -> Html:
    return tag("line", x1=x1, x2=x2, y1=y1, y2=y2, stroke=ink, stroke_width=1, opacity=0.6)
