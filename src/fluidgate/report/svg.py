"""Axes of a chart: values to pixels, round ticks, and the frame with its labels."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Any

from fluidgate.report.html import Html, join, tag

Format = Callable[[float], str]


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
            step = round_step((self.high - self.low) / 5)
            return [k * step for k in range(ceil(self.low / step), floor(self.high / step) + 1)]
        decades = range(floor(log10(self.low)), ceil(log10(self.high)) + 1)
        for leads in ((1,), (1, 3), (1, 2, 5)):
            ticks = [lead * 10.0**d for d in decades for lead in leads if self.low <= lead * 10.0**d <= self.high]
            if len(ticks) >= 3:
                break
        return ticks


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


def svg(width: float, height: float, alt: str, parts: Sequence[Html], hover: dict[str, Any] | None = None) -> Html:
    """A drawing; `hover` is what the page's script shows under the pointer."""
    data = None if hover is None else json.dumps(hover, separators=(",", ":"), ensure_ascii=False)
    return tag("svg", join(parts), viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=alt, data_hover=data)


def round_step(least: float) -> float:
    power = 10.0 ** floor(log10(least))
    return next(lead * power for lead in (1, 2, 5, 10) if lead * power >= least)
