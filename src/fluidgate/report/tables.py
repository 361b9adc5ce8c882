"""Tables for the terminal, within 120 characters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

from fluidgate.fluid import FluidPlan
from fluidgate.report.judge import judge
from fluidgate.report.words import load_title, stability, unfinished
from fluidgate.runs import Cell, Comparison
from fluidgate.words import number, percent

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

COLOURS = {"better": "green", "worse": "red"}


@dataclass(frozen=True)
class _Column:
    """A metric under a heading of two lines; `text` writes its value."""

    heading: str
    metric: str
    text: Callable[[float], str]


def _seconds(value_ms: float) -> str:
    return number(value_ms / 1e3)


def _share(value: float) -> str:
    return percent(round(value, 3))


COLUMNS = (
    _Column("TTFT\nmean s", "mean_ttft_ms", _seconds),
    _Column("TTFT\np99 s", "p99_ttft_ms", _seconds),
    _Column("TPOT\nmean ms", "mean_tpot_ms", number),
    _Column("ITL\np99 ms", "p99_itl_ms", number),
    _Column("E2E\nmean s", "mean_e2el_ms", _seconds),
    _Column("output\ntok/s", "output_throughput", number),
    _Column("silence\np99 s", "p99_longest_silence_s", number),
    _Column("preemp-\ntions", "preemptions", number),
    _Column("recomp.\ntax", "recompute_tax", _share),
    _Column("held\nmean s", "mean_held_s", number),
    _Column("KV\nmean", "kv_mean", _share),
    _Column("fluid\nbound", "fluid_efficiency", _share),
)


def comparison_table(comparison: Comparison) -> Table:
    """Policies by metrics, a section per load; green and red where the difference from the baseline is sure.

    Returns:
        Means over the repeats; "left" counts requests that never finished, in all repeats together.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    caption = f"means over {comparison.repeats} repeats; colours: 95% interval of the paired difference from "
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 0),
        pad_edge=False,
        caption=Text(f"{caption}{comparison.baseline} excludes zero"),
        title=Text(f"{comparison.workload_name} on {comparison.hardware.name}"),
    )
    left = any(unfinished(cell) for cell in comparison.cells)
    table.add_column("policy", overflow="fold", max_width=24)
    for heading in (*(column.heading for column in COLUMNS), *(["left"] if left else []), "stable"):
        table.add_column(heading, justify="right")
    for scenario in comparison.scenarios:
        table.add_row(Text(load_title(scenario), style="bold"))
        for cell in comparison.at(scenario):
            stray = [Text(f"{unfinished(cell):,}")] if left else []
            table.add_row(Text(cell.policy), *_values(comparison, cell), *stray, Text(_stable(cell)))
        table.add_section()
    return table


def plan_table(plan: FluidPlan) -> Table:
    """The plan's numbers, two columns."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column("quantity", style="bold")
    table.add_column("value", overflow="fold")
    for label, value in plan.summary_rows():
        table.add_row(Text(label), Text(value))
    return table


def _values(comparison: Comparison, cell: Cell) -> list[Text]:
    from rich.text import Text

    intervals, texts = cell.intervals, []
    for column in COLUMNS:
        mean = intervals[column.metric].mean
        sure = judge(column.metric, comparison.difference(cell, column.metric))
        texts.append(Text(column.text(mean) if isfinite(mean) else "–", style=COLOURS[sure] if sure else ""))
    return texts


def _stable(cell: Cell) -> str:
    """`yes`, `no`, `?` when it cannot be told, or how many of the repeats are stable."""
    stable = sum(summary.stable is True for summary in cell.summaries)
    short = {"stable": "yes", "unstable": "no", "unclear": "?"}
    return short.get(stability(cell), f"{stable}/{len(cell.summaries)}")
