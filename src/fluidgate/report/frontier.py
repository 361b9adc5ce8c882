"""The table of a frontier, within 120 characters."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

from fluidgate.runs import Frontier, StableRate
from fluidgate.words import number, percent

if TYPE_CHECKING:
    from rich.table import Table

HEADINGS = ("policy", "stable rate\nreq/s", "interval\nreq/s", "÷ fluid\nboundary", "runs")


def frontier_table(frontier: Frontier) -> Table:
    """Policies by stable rate, a section per setting, each with its fluid boundary."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    rule = frontier.rule
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title=Text(f"Largest stable rate of {frontier.workload}"),
        caption=Text(
            f"interval: largest rate found stable – smallest found unstable; misses with at most {percent(rule.alpha)}"
        ),
    )
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == "policy" else "right", overflow="fold")
    for setting in frontier.settings:
        rates = frontier.at(setting)
        table.add_row(Text(setting.label, style="bold"))
        for rate in rates:
            values = (_rate(rate.rate), interval_text(rate), _share(rate.share), str(rate.runs))
            table.add_row(Text(rate.policy), *(Text(value) for value in values))
        known = rates[0]
        table.add_row(Text(f"fluid boundary, {known.limit} least"), Text(_rate(known.boundary_rate)))
        table.add_section()
    return table


def interval_text(rate: StableRate) -> str:
    """The interval of a stable rate, requests per second; ∞ where no rate was found unstable."""
    return f"{_rate(rate.low)} – {_rate(rate.high) if isfinite(rate.high) else '∞'}"


def _rate(value: float) -> str:
    """Four digits: the tolerance is 1%."""
    return f"{value:.4g}" if isfinite(value) else "–"


def _share(value: float) -> str:
    return number(value) if isfinite(value) else "–"
