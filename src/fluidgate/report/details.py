"""Terminal tables of one run and of one trace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from fluidgate.metrics import METRICS, Interval, Summary, aggregate

if TYPE_CHECKING:
    from rich.table import Table


def summary_table(summaries: Sequence[Summary], title: str) -> Table:
    """Every metric of a run: its mean over the repeats, with the 95% interval where there are several."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, title=Text(title), pad_edge=False)
    table.add_column("metric")
    table.add_column("mean", justify="right")
    if len(summaries) > 1:
        table.add_column("95% interval", justify="right")
    table.add_column("unit")
    for key, interval in aggregate(summaries).items():
        metric = METRICS[key]
        between = [_between(key, interval)] if len(summaries) > 1 else []
        table.add_row(metric.label, metric.text(interval.mean), *between, metric.unit)
    for k, summary in enumerate(summaries):
        verdict = {True: "stable", False: "unstable", None: "cannot be told"}[summary.stable]
        table.add_section()
        which = f" (repeat {k + 1})" if len(summaries) > 1 else ""
        table.add_row(Text(f"stability{which}"), Text(f"{verdict}: {summary.stability_reason}", justify="left"))
    return table


def _between(key: str, interval: Interval) -> str:
    if not (isfinite(interval.low) and isfinite(interval.high)):
        return "–"
    return f"{METRICS[key].text(interval.low)} … {METRICS[key].text(interval.high)}"


def facts_table(facts: Mapping[str, Any], title: str) -> Table:
    """The facts of a trace (`workload.info`), one per row."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

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
