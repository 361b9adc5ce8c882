"""Charts as inline SVG: horizontal bars and curves, coloured by the page's style so that they follow its theme."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, isfinite

from fluidgate.metrics import Interval
from fluidgate.report.html import Html, tag
from fluidgate.report.svg import Axis, Format, frame, svg
from fluidgate.report.words import short

COLOURS = 8
SHAPES = 5


@dataclass(frozen=True)
class Bar:
    """A bar from zero to `value.mean`; `mark` is a second value, drawn as a tick; `text` stands at its right."""

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


@dataclass(frozen=True)
class Curve:
    """One policy's points (x, y, tooltip), in order of load."""

    label: str
    series: int
    points: tuple[tuple[Interval, Interval, str], ...]


def colour(series: int) -> str:
    """The style's colour of a series; they repeat after `COLOURS`."""
    return f"var(--s{series % COLOURS})"


def bounded(value: Interval) -> bool:
    """Whether it has an interval at all: one repeat gives none."""
    return isfinite(value.low) and isfinite(value.high)


def bars(title: str, alt: str, rows: Sequence[Bar], top: float, limits: Sequence[Limit] = ()) -> Html:
    """Horizontal bars on a linear scale from 0 to `top`; an interval beyond it ends in an arrow.

    Args:
        title: above the bars.
        alt: what it shows, for those who cannot see it.
    """
    left, right, width, head, pitch = 112.0, 66.0, 340.0, 26.0, 24.0
    foot = head + pitch * len(rows)
    span = width - left - right

    def x(value: float) -> float:
        return left + span * min(max(value / top, 0.0), 1.0)

    parts = [tag("text", title, x=0, y=14, font_weight=600)]
    parts.append(tag("line", x1=left, x2=left, y1=head, y2=foot, class_="axis"))
    for i, row in enumerate(rows):
        parts.append(_bar(row, x, head + pitch * (i + 0.5), left, top, width))
    for i, limit in enumerate(limits):
        at, style = x(limit.at), "limit dashed" if limit.dashed else "limit"
        parts.append(tag("line", x1=at, x2=at, y1=head, y2=foot + 4 + 13 * i, class_=style))
        anchor = "end" if at > left + span / 2 else "start"
        parts.append(tag("text", limit.label, x=at, y=foot + 15 + 13 * i, text_anchor=anchor, class_="soft"))
    return svg(width, foot + 6 + 13 * len(limits), alt, parts)


def _bar(row: Bar, x: Callable[[float], float], y: float, left: float, top: float, width: float) -> Html:
    parts = [tag("title", f"{row.label}: {row.text}")]
    parts.append(tag("text", short(row.label, 17), x=left - 7, y=y + 4, text_anchor="end"))
    parts.append(tag("text", row.text, x=width, y=y + 4, text_anchor="end"))
    if isfinite(row.value.mean):
        end = x(row.value.mean)
        parts.append(tag("rect", x=left, y=y - 7, width=end - left, height=14, rx=2, fill=colour(row.series)))
    if bounded(row.value):
        parts.append(_whisker(x(row.value.low), x(row.value.high), y, clipped=row.value.high > top))
    if row.mark is not None and isfinite(row.mark):
        at = x(row.mark)
        parts.append(tag("line", x1=at, x2=at, y1=y - 8, y2=y + 8, stroke=colour(row.series), stroke_width=3))
    return tag("g", *parts, data_policy=str(row.series))


def _whisker(low: float, high: float, y: float, *, clipped: bool) -> Html:
    end = f"M{high - 4:.1f} {y - 3:.1f}L{high:.1f} {y:.1f}L{high - 4:.1f} {y + 3:.1f}"
    cap = f"M{high:.1f} {y - 3:.1f}V{y + 3:.1f}"
    path = f"M{low:.1f} {y - 3:.1f}V{y + 3:.1f}M{low:.1f} {y:.1f}H{high:.1f}{end if clipped else cap}"
    return tag("path", d=path, class_="whisker", fill="none")


def curves(x_label: str, y_label: str, alt: str, lines: Sequence[Curve], x_format: Format, y_format: Format) -> Html:
    """One line per policy through its loads, with intervals; y is logarithmic when it spans more than tenfold."""
    width, height, left, right, head, foot = 400.0, 270.0, 52.0, 12.0, 26.0, 40.0
    points = [p for line in lines for p in line.points if isfinite(p[0].mean) and isfinite(p[1].mean)]
    if not points:
        return svg(width, 40, alt, [tag("text", "No request finished.", x=0, y=20)])
    x = Axis(0.0, 1.06 * max(p[0].mean for p in points) or 1.0, left, width - right)
    y = _latency_axis([p[1].mean for p in points], height - foot, head)
    parts = frame(x, y, (x_label, y_label), (x_format, y_format))
    parts.extend(_curve(line, x, y) for line in lines)
    return svg(width, height, alt, parts)


def _latency_axis(values: list[float], bottom: float, top: float) -> Axis:
    low, high = min(values), max(values)
    if low > 0 and high > 10 * low:
        return Axis(low / 1.3, high * 1.3, bottom, top, log=True)
    return Axis(0.0, 1.1 * high or 1.0, bottom, top)


def _curve(line: Curve, x: Axis, y: Axis) -> Html:
    shown = [p for p in line.points if isfinite(p[0].mean) and isfinite(p[1].mean)]
    stroke = colour(line.series)
    path = "M" + "L".join(f"{x(px.mean):.1f} {y(py.mean):.1f}" for px, py, _ in shown)
    parts = [tag("path", d=path, fill="none", stroke=stroke, stroke_width=1.6, opacity=0.75)] if shown else []
    for px, py, text in shown:
        if bounded(px):
            parts.append(_error(x(px.low), x(px.high), y(py.mean), y(py.mean), stroke))
        if bounded(py):
            parts.append(_error(x(px.mean), x(px.mean), y(py.low), y(py.high), stroke))
        parts.append(marker(line.series, x(px.mean), y(py.mean), f"{line.label}: {text}"))
    return tag("g", *parts, data_policy=str(line.series))


def _error(x1: float, x2: float, y1: float, y2: float, stroke: str) -> Html:
    return tag("line", x1=x1, x2=x2, y1=y1, y2=y2, stroke=stroke, stroke_width=1, opacity=0.6)


def marker(series: int, x: float, y: float, title: str = "") -> Html:
    """A series' mark; shape and colour repeat with different periods, so that 40 series differ."""
    outlines = {
        0: "M-5 0A5 5 0 1 0 5 0A5 5 0 1 0-5 0Z",
        1: "M-4.5-4.5H4.5V4.5H-4.5Z",
        2: "M0-6L5.5 4H-5.5Z",
        3: "M0-6L6 0L0 6L-6 0Z",
        4: "M0 6L5.5-4H-5.5Z",
    }
    shape = tag(
        "path",
        *([tag("title", title)] if title else []),
        d=outlines[series % SHAPES],
        fill=colour(series),
        stroke="var(--card)",
        transform=f"translate({x:.1f} {y:.1f})",
    )
    return shape


def legend(labels: Sequence[str]) -> Html:
    """The marks and their names."""
    items = []
    for series, label in enumerate(labels):
        swatch = tag("svg", marker(series, 8, 8), viewBox="0 0 16 16", aria_hidden="true")
        items.append(tag("li", swatch, label, data_policy=str(series)))
    return tag("ul", *items, class_="legend")


def scale_top(values: Sequence[Interval]) -> float:
    """The end of a bar scale: room for the means, and for intervals up to half as long again."""
    means = [v.mean for v in values if isfinite(v.mean)]
    longest = max(means, default=0.0)
    reach = max((v.high for v in values if bounded(v)), default=-inf)
    return max(longest, min(reach, 1.5 * longest)) or 1.0
