"""The fleets that hold: the latency that was promised first, against what they cost."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from math import isfinite

from fluidgate.metrics import Objective
from fluidgate.report.html import Html, tag
from fluidgate.report.labels import ROW, Box, Point, below, place, written
from fluidgate.report.svg import Axis, frame, marker, svg, tick_text
from fluidgate.report.words import capital, cost_text, duration
from fluidgate.runs.size import Option, Sizing
from fluidgate.words import number

WIDTH, HEIGHT, LEFT, RIGHT, TOP, FOOT = 400.0, 330.0, 52.0, 12.0, 28.0, 40.0
GOODPUT = "goodput"
OTHERS, ANSWER = 0, 1
"""Series of the marks."""


def cost_chart(sizing: Sizing) -> Html:
    """A mark per fleet with its name, the answer apart, a line through those that no other beats, and the bound."""
    objective, latencies = _latencies(sizing)
    statistic = "p99 TTFT" if objective is None else capital(objective.words.partition(" of at most ")[0])
    shown = [pair for pair in zip(sizing.options, latencies, strict=True) if isfinite(pair[1])]
    if not shown:
        why = f"{statistic} is unbounded on every fleet."
        return svg(WIDTH, 30, why, [tag("text", why, x=0, y=20)])
    x = _cost_axis([option.cost for option, _ in shown])
    y = _latency_axis([*(value for _, value in shown), *([] if objective is None else [objective.bound])])
    costs = "Cost, $/h" if sizing.priced else "GPUs"
    told = (f"{option.label} {duration(value / 1e3)} at {cost_text(sizing, option.cost)}" for option, value in shown)
    alt = f"{statistic} against {costs}: {'; '.join(told)}. Lower and further left is better."
    parts = [
        tag("text", f"{statistic}, ms", x=0, y=14, font_weight=600),
        *frame(x, y, (costs, ""), (tick_text(x), number if y.log else tick_text(y))),
        *([] if objective is None else _bound(objective, x, y)),
    ]
    options, points = [option for option, _ in shown], [(x(option.cost), y(value)) for option, value in shown]
    kept_off = (
        [] if objective is None else [Box.of_segment((x.start, y(objective.bound)), (x.end, y(objective.bound)), 2)]
    )
    marks, rows = _marks(sizing, options, points, Box(x.start, y.end, WIDTH, y.start), kept_off)
    return svg(WIDTH, HEIGHT + ROW * rows, alt, [*parts, *marks])


def _latencies(sizing: Sizing) -> tuple[Objective | None, list[float]]:
    """The first latency that was promised, and its mean of each option, ms; if none was, the p99 TTFT."""
    for place_of, objective in enumerate(sizing.objectives):
        if objective.quantity != GOODPUT:
            return objective, [option.outcome.values[place_of] for option in sizing.options]
    return None, [option.outcome.figures["p99_ttft_ms"] for option in sizing.options]


def _marks(
    sizing: Sizing, options: list[Option], points: list[Point], plot: Box, kept_off: list[Box]
) -> tuple[list[Html], int]:
    """Marks with their names, and how many names found no place in the plot."""
    front = _front(options, points)
    lines = [*kept_off, *(Box.of_segment(*segment, 2) for segment in pairwise(front))]
    labels = place(points, [option.label for option in options], plot, lines)
    unplaced = [option for option, label in zip(options, labels, strict=True) if label is None]
    parts = [
        _line(front),
        *(_mark(sizing, option, *point) for option, point in zip(options, points, strict=True)),
        *written(labels),
        *(
            below(partial(_mark, sizing, option), option.label, LEFT, HEIGHT + 2, k)
            for k, option in enumerate(unplaced)
        ),
    ]
    return parts, len(unplaced)


def _cost_axis(costs: list[float]) -> Axis:
    low, high = min(costs), max(costs)
    pad = max(0.12 * (high - low), 0.05 * high)
    return Axis(max(0.0, low - pad), high + pad, LEFT, WIDTH - RIGHT)


def _latency_axis(values: list[float]) -> Axis:
    low, high = min(values), max(values)
    if high > 4.0 * low > 0.0:
        return Axis(low / 1.4, high * 1.4, HEIGHT - FOOT, TOP, log=True)
    return Axis(0.0, 1.15 * high, HEIGHT - FOOT, TOP)


def _bound(objective: Objective, x: Axis, y: Axis) -> list[Html]:
    at, text = y(objective.bound), f"at most {objective.text(objective.bound)}"
    return [
        tag("line", x1=x.start, x2=x.end, y1=at, y2=at, class_="limit dashed"),
        tag("text", text, x=x.end, y=at - 4, text_anchor="end", class_="soft"),
    ]


def _front(options: list[Option], points: list[Point]) -> list[Point]:
    """Steps through the fleets that no other beats in both: a dearer one is there for its latency."""
    steps: list[Point] = []
    for _, (x, y) in sorted(zip(options, points, strict=True), key=lambda pair: (pair[0].cost, -pair[1][1])):
        if not steps:
            steps.append((x, y))
        elif y > steps[-1][1]:  # further down
            steps += [(x, steps[-1][1]), (x, y)]
    return steps


def _line(steps: list[Point]) -> Html:
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in steps)
    return tag("path", d=path, class_="front", fill="none")


def _mark(sizing: Sizing, option: Option, x: float, y: float) -> Html:
    hint = f"{option.label}: {cost_text(sizing, option.cost)}"
    if option is not sizing.answer:
        return marker(OTHERS, x, y, hint)
    ring = tag("circle", cx=round(x, 1), cy=round(y, 1), r=9, class_="ring", fill="none")
    return tag("g", ring, marker(ANSWER, x, y, f"{hint}, the answer"))
