"""Tables for the terminal, within 120 characters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from fluidgate.fluid import FluidPlan
from fluidgate.metrics import METRICS, Interval, Summary, aggregate
from fluidgate.report.shown_metrics import COLUMNS, judge
from fluidgate.report.words import counted, load_title, or_dash, outside_engine, stability, unfinished
from fluidgate.runs import Cell, Comparison, Frontier, StableRate
from fluidgate.words import number, percent

COLOURS = {"better": "green", "worse": "red", None: ""}
FRONTIER_HEADINGS = ("policy", "stable rate\nreq/s", "interval\nreq/s", "÷ fluid\nboundary", "runs")


def comparison_table(comparison: Comparison) -> Table:
    """Policies by metrics, a section per load; green and red where the difference from the baseline is significant.

    Returns:
        Means over the repeats; "left" counts the requests that never finished, over all repeats.
    """
    repeats = counted(comparison.repeats, "repeat")
    rule = f"colours: 95% interval of the paired difference from {comparison.baseline} excludes zero"
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 0),
        pad_edge=False,
        caption=Text(f"means over {repeats}; {rule}{_too_long(comparison)}"),
        title=Text(f"{comparison.workload_name}, {comparison.hardware.name}{outside_engine(comparison.hardware)}"),
    )
    with_left = any(unfinished(cell) for cell in comparison.cells)
    table.add_column("policy", overflow="fold", max_width=24)
    for heading in (*(heading for heading, _ in COLUMNS.values()), *(["left"] if with_left else []), "stable"):
        table.add_column(heading, justify="right")
    for scenario in comparison.scenarios:
        table.add_row(Text(load_title(scenario), style="bold"))
        for cell in comparison.at(scenario):
            left = [Text(f"{unfinished(cell):,}")] if with_left else []
            table.add_row(Text(cell.policy), *_values(comparison, cell), *left, Text(_stable(cell)))
        table.add_section()
    return table


def _too_long(comparison: Comparison) -> str:
    first = comparison.cells[0].summaries[0]
    if not first.refused:
        return ""
    refused = f"{first.refused:,} of {first.offered:,} requests are too long for the model and refused"
    return f"; {refused}; only goodput counts them"


def _values(comparison: Comparison, cell: Cell) -> Iterator[Text]:
    intervals = cell.intervals
    for key, (_, text) in COLUMNS.items():
        yield Text(or_dash(intervals[key].mean, text), style=COLOURS[judge(key, comparison.difference(cell, key))])


def _stable(cell: Cell) -> str:
    """`yes`, `no`, `?` if unclear, or how many of the repeats are stable."""
    stable = sum(summary.stable is True for summary in cell.summaries)
    words = {"stable": "yes", "unstable": "no", "unclear": "?"}
    return words.get(stability(cell), f"{stable}/{len(cell.summaries)}")


def frontier_table(frontier: Frontier) -> Table:
    """Policies by stable rate, a section per setting, each with its fluid boundary."""
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title=Text(f"Largest stable rate of {frontier.workload}"),
        caption=Text(
            "interval: largest rate found stable – smallest found unstable; "
            f"probability of a miss at most {percent(frontier.rule.alpha)}"
        ),
    )
    for heading in FRONTIER_HEADINGS:
        table.add_column(heading, justify="left" if heading == "policy" else "right", overflow="fold")
    for setting in frontier.settings:
        rates = frontier.at(setting)
        table.add_row(Text(setting.label, style="bold"))
        for rate in rates:
            values = (_rate(rate.rate), _rate_interval(rate), or_dash(rate.share, number), str(rate.runs))
            table.add_row(Text(rate.policy), *map(Text, values))
        table.add_row(Text(f"fluid boundary, set by {rates[0].limit}"), Text(_rate(rates[0].boundary_rate)))
        if rates[0].refused_share:
            table.add_row(Text(f"{percent(rates[0].refused_share)} of the requests are too long, and left out"))
        table.add_section()
    return table


def _rate_interval(rate: StableRate) -> str:
    """The interval of a stable rate, requests per second; ∞ where no rate was found unstable."""
    return f"{_rate(rate.low)} – {_rate(rate.high) if isfinite(rate.high) else '∞'}"


def _rate(value: float) -> str:
    """Four digits, since the tolerance is 1%."""
    return or_dash(value, "{:.4g}".format)


def plan_table(plan: FluidPlan) -> Table:
    """The plan's numbers, two columns."""
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column("quantity", style="bold")
    table.add_column("value", overflow="fold")
    for label, value in plan.summary_rows():
        table.add_row(Text(label), Text(value))
    return table


def summary_table(summaries: Sequence[Summary], title: str) -> Table:
    """Every metric of a run: its mean over the repeats, with the 95% interval where there are several."""
    several = len(summaries) > 1
    table = Table(box=box.SIMPLE_HEAD, title=Text(title), pad_edge=False)
    table.add_column("metric")
    for heading in ("mean", "95% interval") if several else ("mean",):
        table.add_column(heading, justify="right")
    table.add_column("unit")
    for key, interval in aggregate(summaries).items():
        metric = METRICS[key]
        table.add_row(
            metric.label, metric.text(interval.mean), *([_between(key, interval)] if several else []), metric.unit
        )
    for k, summary in enumerate(summaries):
        verdict = {True: "stable", False: "unstable", None: "unclear"}[summary.stable]
        table.add_section()
        label = f"stability (repeat {k + 1})" if several else "stability"
        table.add_row(Text(label), Text(f"{verdict}: {summary.stability_reason}", justify="left"))
    return table


def _between(key: str, interval: Interval) -> str:
    if not (isfinite(interval.low) and isfinite(interval.high)):
        return "–"
    return f"{METRICS[key].text(interval.low)} … {METRICS[key].text(interval.high)}"


def facts_table(facts: Mapping[str, Any], title: str) -> Table:
    """The facts of a trace (`workload.info`), one per row."""
    table = Table(box=box.SIMPLE, show_header=False, title=Text(title), pad_edge=False)
    table.add_column("fact", style="bold")
    table.add_column("value", justify="right")
    for name, value in _flat(facts):
        table.add_row(Text(name), Text(value))
    return table


def _flat(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in facts.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name} · ")
        elif isinstance(value, list):
            for entry in value:
                yield from _flat(entry, f"{name} · ")
        else:
            yield name, _fact(value)


def _fact(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
