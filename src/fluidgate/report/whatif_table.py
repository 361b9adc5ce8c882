"""A what-if for the terminal: a row per value, with as many columns as fit, and below why a value has no numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import isfinite

from rich.console import Group, RenderableType
from rich.text import Text

from fluidgate.report.columns import Column, columns_table, fitting_columns
from fluidgate.report.words import counted, or_dash, outside_engine, seconds, tenths, whole_percent
from fluidgate.runs.whatif import KNOBS, Point, WhatIf
from fluidgate.words import listed, number

NOW = " (now)"
LABEL_WIDTH = 24
"""Longer values, such as policies with parameters, are broken."""


OUTCOMES: dict[str, tuple[str, Callable[[float], str]]] = {
    "p99_ttft_ms": ("TTFT\np99 s", seconds),
    "p95_tpot_ms": ("TPOT\np95 ms", number),
    "p99_longest_silence_s": ("silence\np99 s", number),
    "kv_mean": ("KV\nmean", whole_percent),
    "kv_peak": ("KV\npeak", whole_percent),
    "preemptions_per_request": ("evicted\n÷ req", number),
    "output_throughput": ("output\ntok/s", number),
    "goodput_share": ("good-\nput", tenths),
    "cost": ("per M\ntokens", number),
}
"""The columns of numbers by name, with their headings and formats."""
_NARROW = (
    "boundary",
    "load",
    "p99_ttft_ms",
    "p95_tpot_ms",
    "cost",
    "goodput_share",
    "met",
    "binds",
    "p99_longest_silence_s",
    "output_throughput",
    "preemptions_per_request",
    "kv_mean",
    "kv_peak",
)
"""The order in which a narrow table takes columns in."""


def whatif_table(result: WhatIf, width: int | None = None) -> Group:
    """Values by outcome; objectives and reasons are lines below.

    Args:
        width: characters of a line; columns that do not fit are left out and named. None: all of them.
    """
    columns = _columns(result)
    labels = [Text(row_label(point)) for point in result.points]
    first = min(LABEL_WIDTH, max(len(result.knob), *map(len, labels)))
    fitting = fitting_columns(
        columns, [key for key in _NARROW if key in columns], None if width is None else width - first
    )
    shown = [column for key, column in columns.items() if key in fitting]
    table = columns_table(whatif_title(result), result.knob, first, shown)
    for place, label in enumerate(labels):
        table.add_row(label, *(column.texts[place] for column in shown))
    left_out = [column.name for key, column in columns.items() if key not in fitting]
    parts: list[RenderableType] = [table, Text()]
    return Group(*parts, *_objective_lines(result), *map(Text, whatif_notes(result)), *_left_out(left_out))


def whatif_title(result: WhatIf) -> str:
    """The requests, the machine and the knob."""
    setup, knob = result.setup, KNOBS[result.knob]
    machine = setup.hardware.name
    if knob.asked and setup.spec is not None:
        machine = f"{setup.spec.model or 'the model'} on {setup.spec.gpu_name}"
    return f"{result.draws[0].name}, {machine}{outside_engine(setup.hardware)}: what if {result.knob}"


def row_label(point: Point) -> str:
    """The value, and whether it is what there is now."""
    return f"{point.value.label}{NOW if point.value.is_current else ''}"


def whatif_notes(result: WhatIf) -> Iterator[str]:
    """What must be known beside the numbers: overload, values that cannot be had, estimates, repeats."""
    for point in result.points:
        if point.why_not:
            yield f"{point.value.label}: cannot be had: {point.why_not}"
    over = [point.value.label for point in result.points if point.overloaded and not point.why_not]
    if over:
        yield f"Overload at {listed(over)}: latencies grow for as long as it lasts, here for the length of the run."
    guessed = [point.value.label for point in result.points if point.is_estimate and not point.why_not]
    if guessed and any(not point.is_estimate for point in result.points if not point.why_not):
        yield f"Step times of {listed(guessed)} are estimates from data sheets, those of the others are measured."
    draw = result.draws[0]
    yield (
        f"Means over {counted(len(result.draws), 'repeat')} of {counted(draw.offered, 'request')}, the same for every "
        "value."
    )
    if result.prices.given:
        yield "per M tokens: cost of a million output tokens at this rate, idle time included."


def _left_out(names: list[str]) -> list[Text]:
    return [Text(f"Not shown at this width: {listed(names)}; --format wide shows them.")] if names else []


def _objective_lines(result: WhatIf) -> Iterator[Text]:
    style = {True: "green", False: "red", None: ""}
    for point in result.points:
        for judged in result.judged(point):
            yield Text(f"{point.value.label}: {judged.words}", style=style[judged.met])


def _columns(result: WhatIf) -> dict[str, Column]:
    columns = {
        "boundary": _column("bound-\nary/s", result, lambda point: or_dash(point.boundary_rate, number)),
        "load": _column("load", result, _load),
        "binds": _column("binds", result, lambda point: point.plan.stability.binding if point.plan else "–"),
    }
    for key, (heading, text) in OUTCOMES.items():
        means = [point.outcome[key].mean for point in result.points if point.outcome]
        if any(map(isfinite, means)) or key not in ("goodput_share", "cost"):
            columns[key] = _column(heading, result, partial(_mean, key, text))
    if result.objectives:
        columns["met"] = _column("SLO\nmet", result, lambda point: _met(result, point))
    return columns


def _column(heading: str, result: WhatIf, text: Callable[[Point], str]) -> Column:
    return Column(heading, tuple(Text(text(point)) for point in result.points))


def _load(point: Point) -> str:
    return "–" if point.plan is None else whole_percent(point.plan.stability.load)


def _mean(key: str, text: Callable[[float], str], point: Point) -> str:
    return or_dash(point.outcome[key].mean, text) if point.outcome else "–"


def _met(result: WhatIf, point: Point) -> str:
    """How many of the objectives are met for certain."""
    judged = result.judged(point)
    return f"{sum(one.met is True for one in judged)}/{len(judged)}" if judged else "–"
