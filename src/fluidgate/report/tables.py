"""Tables for the terminal; `comparison_table` has a file of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from fluidgate.fluid import FluidPlan
from fluidgate.fluid.plan_rows import all_rows, main_rows
from fluidgate.metrics import METRICS, PATIENCE_METRICS, SLO_METRICS, Interval, Summary, aggregate
from fluidgate.report.words import or_dash
from fluidgate.runs import Frontier, StableRate
from fluidgate.words import number, percent

FRONTIER_HEADINGS = ("policy", "stable rate\nreq/s", "interval\nreq/s", "÷ fluid\nboundary", "runs")
OBJECTIVE_HEADINGS = ("policy", "rate\nreq/s", *FRONTIER_HEADINGS[2:], "breaks first")


def frontier_table(frontier: Frontier) -> Table:
    """Policies by stable rate, or by the rate at which objectives hold, a section per setting with its boundary."""
    what, found = ("Largest stable rate", "stable")
    if frontier.objectives:
        what, found = f"Largest rate of {', '.join(frontier.objectives)}", "to hold them"
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title=Text(f"{what}, {frontier.workload}"),
        caption=Text(
            f"interval: largest rate found {found} – smallest found not {found}; "
            f"probability of a miss at most {percent(frontier.rule.alpha)}"
        ),
    )
    for heading in OBJECTIVE_HEADINGS if frontier.objectives else FRONTIER_HEADINGS:
        table.add_column(heading, justify="left" if heading == "policy" else "right", overflow="fold")
    for setting in frontier.settings:
        rates = frontier.at(setting)
        table.add_row(Text(setting.label, style="bold"))
        for rate in rates:
            values = (_rate(rate.rate), _rate_interval(rate), or_dash(rate.share, number), str(rate.runs))
            breaks = (
                (rate.breaks or ("all hold" if rate.low >= rate.high else "undecided"),) if frontier.objectives else ()
            )
            table.add_row(Text(rate.policy), *map(Text, values + breaks))
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


def plan_table(plan: FluidPlan, *, all_numbers: bool = False) -> Table:
    """The plan's eight main numbers, or all, in two columns."""
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column("quantity", style="bold")
    table.add_column("value", overflow="fold")
    for label, value in all_rows(plan) if all_numbers else main_rows(plan):
        table.add_row(Text(label), Text(value))
    return table


def summary_table(summaries: Sequence[Summary], title: str) -> Table:
    """Every metric of a run: its mean over the repeats, with the 95% interval where there are several."""
    several = len(summaries) > 1
    verdicts = [
        f"stability{f' (repeat {k})' if several else ''}: {summary.stability_reason}"
        for k, summary in enumerate(summaries, 1)
    ]
    table = Table(
        box=box.SIMPLE_HEAD,
        title=Text(title),
        pad_edge=False,
        caption=Text("\n".join(verdicts)),
        caption_justify="left",
    )
    table.add_column("metric")
    for heading in ("mean", "95% interval") if several else ("mean",):
        table.add_column(heading, justify="right")
    table.add_column("unit")
    for key, interval in aggregate(summaries).items():
        if key in (*PATIENCE_METRICS, *SLO_METRICS) and not isfinite(interval.mean):  # no one gives up, no SLO is set
            continue
        metric = METRICS[key]
        table.add_row(
            metric.label, metric.text(interval.mean), *([_between(key, interval)] if several else []), metric.unit
        )
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
