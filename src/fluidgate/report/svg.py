"""What all drawings share: the `<svg>` element, on the page or in a file, axes, marks and legends."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor, log10
from typing import Any

from fluidgate.report.html import Html, asset, join, tag

STYLE = asset("chart.css")
LIGHT = dict(re.findall(r"--([\w-]+): (#\w+);", asset("page.css").partition("@media")[0]))
"""The page's light colours, by name."""

FONT = "svg { background: #fff; font-family: system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif; }"
COLOURS = 8
OUTLINES = (
    "M-5 0A5 5 0 1 0 5 0A5 5 0 1 0-5 0Z",
    "M-4.5-4.5H4.5V4.5H-4.5Z",
    "M0-6L5.5 4H-5.5Z",
    "M0-6L6 0L0 6L-6 0Z",
    "M0 6L5.5-4H-5.5Z",
)

Format = Callable[[float], str]


def svg(width: float, height: float, alt: str, parts: Sequence[Html], hover: dict[str, Any] | None = None) -> Html:
    """A drawing; `hover` is what the page's script shows under the pointer."""
    data = None if hover is None else json.dumps(hover, separators=(",", ":"), ensure_ascii=False)
    return tag("svg", join(parts), viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=alt, data_hover=data)


def without_hover(drawing: Html) -> Html:
    """The drawing without what a script shows under the pointer."""
    return Html(re.sub(r' data-hover="[^"]*"', "", drawing))


def standalone(drawing: Html) -> str:
    """The drawing as a file: with namespace, size and style, and with plain colours, which every SVG reader knows."""
    width, height = re.search(r'viewBox="0 0 (\S+) (\S+)"', drawing).groups()  # type: ignore[union-attr]
    root = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
    styled = without_hover(drawing).replace("<svg", root, 1).replace(">", f"><style>{FONT}\n{STYLE}</style>", 1)
    return re.sub(r"var\(--([\w-]+)\)", lambda name: LIGHT[name[1]], styled) + "\n"


@dataclass(frozen=True)
class Axis:
    """Values to pixels, linear or logarithmic, with its ticks."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value, kept within the axis."""
        low, high, at = (log10(v) if self.log else v for v in (self.low, self.high, max(value, self.low)))
        return self.start + (self.end - self.start) * min((at - low) / (high - low), 1.0)

    def ticks(self) -> list[float]:
        """About five round values, or the powers of ten (with halves and fifths of them if there are few)."""
        if not self.log:
            step = _round_step((self.high - self.low) / 5)
            return [k * step for k in range(ceil(self.low / step), floor(self.high / step) + 1)]
        decades = range(floor(log10(self.low)), ceil(log10(self.high)) + 1)
        for leads in ((1,), (1, 3), (1, 2, 5)):
            ticks = [lead * 10.0**d for d in decades for lead in leads if self.low <= lead * 10.0**d <= self.high]
            if len(ticks) >= 3:
                break
        return ticks


def tick_text(axis: Axis, factor: float = 1.0) -> Format:
    """Ticks in full, with as many decimals as tell one from the next: 1,139.5; `factor` is to the unit written."""
    steps = [(b - a) * factor for a, b in pairwise(axis.ticks())]
    decimals = max(0, -floor(log10(min(steps)) + 1e-9)) if steps else 2
    return lambda value: f"{value * factor:,.{decimals}f}"


def _round_step(least: float) -> float:
    power = 10.0 ** floor(log10(least))
    return next(lead * power for lead in (1, 2, 5, 10) if lead * power >= least)


def frame(x: Axis, y: Axis, labels: tuple[str, str], formats: tuple[Format, Format]) -> list[Html]:
    """Grid lines, their values, and the labels of both axes: x below at the right, y above at the left."""
    bottom, top = y.start, y.end
    parts = []
    if labels[0]:
        parts.append(tag("text", labels[0], x=x.end, y=bottom + 31, text_anchor="end", class_="soft"))
    if labels[1]:
        parts.append(tag("text", labels[1], x=0, y=13, class_="soft"))
    for tick in x.ticks():
        parts.append(tag("line", x1=x(tick), x2=x(tick), y1=top, y2=bottom, class_="axis"))
        anchor = "end" if x(tick) > x.end - 10 else "middle"
        parts.append(tag("text", formats[0](tick), x=x(tick), y=bottom + 16, text_anchor=anchor, class_="soft"))
    for tick in y.ticks():
        parts.append(tag("line", x1=x.start, x2=x.end, y1=y(tick), y2=y(tick), class_="axis"))
        parts.append(tag("text", formats[1](tick), x=x.start - 6, y=y(tick) + 4, text_anchor="end", class_="soft"))
    return parts


def colour(series: int) -> str:
    """The style's colour of a series; they repeat after `COLOURS`."""
    return f"var(--s{series % COLOURS})"


def data_policy(series: Iterable[int]) -> str:
    """For the reader's choice of policies: what stands for all of these is shown while one of them is."""
    return " ".join(map(str, series))


def marker(series: int, x: float, y: float, title: str = "") -> Html:
    """A series' mark; shape and colour repeat with different periods, so that 40 series differ."""
    return tag(
        "path",
        *([tag("title", title)] if title else []),
        d=OUTLINES[series % len(OUTLINES)],
        fill=colour(series),
        stroke="var(--card)",
        transform=f"translate({x:.1f} {y:.1f})",
    )


def swatch(series: int) -> Html:
    """A series' mark in a line of text."""
    return _in_text(marker(series, 8, 8))


def policy_legend(labels: Sequence[str]) -> Html:
    """The marks of policies and their names."""
    items = [tag("li", swatch(series), label, data_policy=str(series)) for series, label in enumerate(labels)]
    return tag("ul", *items, class_="legend")


def box_legend(boxes: Iterable[tuple[str, dict[str, Any]]]) -> Html:
    """Labels, each behind a box with the attributes that give its colour."""
    items = [
        tag("li", _in_text(tag("rect", x=1, y=1, width=14, height=14, rx=2, **look)), label) for label, look in boxes
    ]
    return tag("ul", *items, class_="legend")


def _in_text(mark: Html) -> Html:
    return tag("svg", mark, viewBox="0 0 16 16", aria_hidden="true")
