"""A comparison for the terminal: a table per load, with as many columns as fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fluidgate.report.columns import Column, columns_table, fitting_columns
from fluidgate.report.shown_metrics import columns, judge, narrow_order
from fluidgate.report.words import counted, load_title, or_dash, outside_engine, stability, unfinished
from fluidgate.runs import Cell, Comparison, Scenario
from fluidgate.words import listed

COLOURS = {"better": "green", "worse": "red", None: ""}
POLICY_WIDTH = 30
"""Longer names, those with parameters, are broken."""


def comparison_table(comparison: Comparison, width: int | None = None) -> Group:
    """Policies by metrics, a table per load; green and red where the difference from the baseline is significant.

    Args:
        width: characters of a line, which must hold at least a policy and its verdict; None: as many as all columns
            take. Those that do not fit are left out, and the last line names them.

    Returns:
        Means over the repeats; "left" counts the requests that never finished, over all repeats.
    """
    metrics = {key: _metric(comparison, key, *column) for key, column in columns(comparison).items()}
    last = [Column("stable", _texts(comparison, _stable))]
    if any(unfinished(cell) for cell in comparison.cells):
        last.insert(0, Column("left", _texts(comparison, lambda cell: f"{unfinished(cell):,}")))
    policies = min(POLICY_WIDTH, max(len("policy"), *(len(cell.policy) for cell in comparison.cells)))
    room = None if width is None else width - policies - sum(1 + column.width for column in last)
    fitting = fitting_columns(metrics, narrow_order(metrics), room)
    shown = [*(metrics[key] for key in metrics if key in fitting), *last]
    title = f"{comparison.workload_name}, {comparison.hardware.name}{outside_engine(comparison.hardware)}"
    parts: list[RenderableType] = [Text(title, style="bold"), Text()]
    for scenario in comparison.scenarios:
        parts += [_of_load(comparison, scenario, policies, shown), *_objectives(comparison, scenario), Text()]
    left_out = [column.name for key, column in metrics.items() if key not in fitting]
    return Group(*parts, *(Text(note) for note in _notes(comparison, left_out)))


def _of_load(comparison: Comparison, scenario: Scenario, policies: int, shown: Sequence[Column]) -> Table:
    table = columns_table(load_title(scenario), "policy", policies, shown)
    for place, cell in enumerate(comparison.cells):
        if cell.scenario is scenario:
            table.add_row(Text(cell.policy), *(column.texts[place] for column in shown))
    return table


def _objectives(comparison: Comparison, scenario: Scenario) -> list[Text]:
    """A line per policy and objective."""
    style = {True: COLOURS["better"], False: COLOURS["worse"], None: ""}
    return [
        Text(f"{cell.policy}: {judged.words}", style=style[judged.met])
        for cell in comparison.at(scenario)
        for judged in comparison.judged(cell)
    ]


def _metric(comparison: Comparison, key: str, heading: str, text: Callable[[float], str]) -> Column:
    texts = (
        Text(or_dash(cell.intervals[key].mean, text), style=COLOURS[judge(key, comparison.difference(cell, key))])
        for cell in comparison.cells
    )
    return Column(heading, tuple(texts))


def _texts(comparison: Comparison, text: Callable[[Cell], str]) -> tuple[Text, ...]:
    return tuple(Text(text(cell)) for cell in comparison.cells)


def _stable(cell: Cell) -> str:
    """`yes`, `no`, `?` if unclear, or how many of the repeats are stable."""
    stable = sum(summary.stable is True for summary in cell.summaries)
    words = {"stable": "yes", "unstable": "no", "unclear": "?"}
    return words.get(stability(cell), f"{stable}/{len(cell.summaries)}")


def _notes(comparison: Comparison, left_out: Sequence[str]) -> Iterator[str]:
    repeats = counted(comparison.repeats, "repeat")
    yield (
        f"Means over {repeats}; colours: 95% interval of the paired difference from {comparison.baseline} excludes "
        "zero. stable: whether the queue stays bounded; ?: too short to tell; 1/3: in one of three repeats."
    )
    first = comparison.cells[0].summaries[0]
    if first.refused:
        refused = f"{first.refused:,} of {first.offered:,} requests are too long for the model and refused"
        yield f"{refused}; only goodput counts them."
    if left_out:
        yield f"Not shown at this width: {listed(left_out)}; --format wide shows them."
