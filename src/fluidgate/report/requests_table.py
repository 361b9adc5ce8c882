"""A fit to measured loads as tables for the terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from fluidgate.calibration.requests.report import LATENCIES, LoadErrors, RequestsReport
from fluidgate.hardware.calibration import COEFFICIENTS
from fluidgate.report.calibration import UNITS
from fluidgate.words import number, percent


def requests_table(report: RequestsReport, title: str) -> Table:
    """Coefficients with their 95% intervals beside the estimate, and what a request takes outside the engine."""
    table = Table(title=Text(title), box=box.SIMPLE_HEAD)
    for heading in ("", "fitted", "estimate", "share of the time"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, share in zip(COEFFICIENTS, report.shares, strict=True):
        unit, scale = UNITS[name]
        value, width = getattr(report.posterior.step_time, name) * scale, report.half_widths[name] * scale
        mark = " (estimate's)" if name in report.undetermined else ""
        estimate = number(getattr(report.estimate, name) * scale)
        table.add_row(f"{name}, {unit}", f"{number(value)} ± {number(width)}{mark}", estimate, percent(share))
    outside = "not known"
    if report.overhead_s is not None:
        outside = f"{number(1e3 * report.overhead_s)} ± {number(1e3 * report.overhead_half_width_s)}"
    table.add_row("outside the engine, ms per request", outside, "", "")
    tpot, ttft = report.posterior.spreads
    table.add_row("spread of groups of requests, TPOT / TTFT", f"{percent(tpot)} / {percent(ttft)}", "", "")
    return table


def loads_table(report: RequestsReport) -> Table:
    """Mean latencies of each load, measured and simulated, with the errors; held out where there are such."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0), pad_edge=False)
    table.add_column("load", overflow="fold")
    for heading in ("requests", "decoding", "", "measured\nms", "simulated\nms", "error", "error\nheld out"):
        table.add_column(heading, justify="right", no_wrap=True)
    for load in report.loads:
        _add(table, load)
        table.add_section()
    return table


def _add(table: Table, load: LoadErrors) -> None:
    unseen = load.held_out_errors or (None,) * len(LATENCIES)
    rows = zip(LATENCIES, load.measured_s, load.simulated_s, load.errors, unseen, strict=True)
    for row, (name, measured_s, simulated_s, error, held_out) in enumerate(rows):
        about = [load.name, f"{load.requests:,}", number(load.decoding)] if row == 0 else ["", "", ""]
        times = [number(1e3 * measured_s), number(1e3 * simulated_s)]
        table.add_row(
            *map(Text, (*about, name, *times, _signed(error), "–" if held_out is None else _signed(held_out)))
        )


def _signed(error: float) -> str:
    return f"{100.0 * error:+.1f}%"
