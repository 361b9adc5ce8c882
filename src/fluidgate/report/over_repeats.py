"""Figures over all repeats: throughput against latency, any metric by policy, KV use, stable rates, busy time."""

from __future__ import annotations

from itertools import groupby
from math import isfinite

from fluidgate.metrics import METRICS, Interval
from fluidgate.report.amounts import scale_of
from fluidgate.report.charts import Bar, Curve, CurvePoint, Limit, Split, bars, curves, scale_top, split_bars
from fluidgate.report.html import Html
from fluidgate.report.shown_metrics import BUSY_TIME
from fluidgate.report.svg import box_legend
from fluidgate.report.words import at_load, duration, or_dash, tenths, whole_percent
from fluidgate.runs import Cell, Comparison, Frontier, Scenario, StableRate
from fluidgate.words import number, percent


def policies(comparison: Comparison) -> list[str]:
    """The policies in order; a policy's place is its series, hence its colour, in every figure."""
    return list(dict.fromkeys(cell.policy for cell in comparison.cells))


def series(comparison: Comparison, cell: Cell) -> int:
    """The place of the cell's policy."""
    return policies(comparison).index(cell.policy)


def throughput_latency(comparison: Comparison) -> Html:
    """One curve per policy through the loads: down and to the right is better."""
    lines = [_curve(comparison, place, name) for place, name in enumerate(policies(comparison))]
    alt = "Mean E2E latency against output throughput. " + " ".join(
        f"{line.label}: {'; '.join(text for _, _, text in line.points)}." for line in lines
    )
    return curves("Mean E2E latency, s, against output throughput", "output throughput, tok/s", alt, lines)


def _curve(comparison: Comparison, place: int, name: str) -> Curve:
    """Broken between workloads, where there are several."""
    cells = [cell for cell in comparison.cells if cell.policy == name]
    stretches = groupby(cells, key=lambda cell: cell.scenario.workload)
    return Curve(name, place, tuple(tuple(map(_curve_point, stretch)) for _, stretch in stretches))


def _curve_point(cell: Cell) -> CurvePoint:
    x, y = cell.intervals["output_throughput"], cell.intervals["mean_e2el_ms"]
    y = Interval(y.mean / 1e3, y.low / 1e3, y.high / 1e3, y.n)
    return x, y, f"{number(x.mean)} tok/s and {duration(y.mean)} {at_load(cell.scenario)}"


def metric_bars(comparison: Comparison, scenario: Scenario, key: str) -> Html:
    """A metric of every policy at one load, with intervals."""
    values = [cell.intervals[key] for cell in comparison.at(scenario)]
    scale = scale_of(key, [value.mean for value in values])
    rows = [
        Bar(cell.policy, series(comparison, cell), value, scale.text(value.mean))
        for cell, value in zip(comparison.at(scenario), values, strict=True)
    ]
    title = scale.titled(METRICS[key].label)
    return bars(title, f"{title}, {_values(scenario, rows)}", rows, scale_top(values))


def kv_bars(comparison: Comparison, scenario: Scenario) -> Html:
    """Mean KV use (bar) and peak (tick) of every policy at one load, as shares of the capacity."""
    rows = []
    for cell in comparison.at(scenario):
        mean, peak = cell.intervals["kv_mean"], cell.intervals["kv_peak"].mean
        text = f"{or_dash(mean.mean, whole_percent)} / {or_dash(peak, whole_percent)}"
        rows.append(Bar(cell.policy, series(comparison, cell), mean, text, mark=peak))
    predicted = scenario.plan.stability.kv_use
    limits = (
        Limit(1.0, f"capacity, {number(scenario.plan.limits.kv_tokens)} tokens"),
        Limit(predicted, f"fluid prediction, {tenths(predicted)}", dashed=True),
    )
    values = _values(scenario, rows)
    alt = f"KV use, mean / peak {values} The fluid model predicts {percent(predicted)}."
    return bars("KV use, mean / peak, % of capacity", alt, rows, 1.0, limits)


def stable_rate_bars(comparison: Comparison, frontier: Frontier) -> Html:
    """The largest stable rate of every policy, with its interval, next to the fluid boundary."""
    compared, rows = policies(comparison), []
    for rate in frontier.at(frontier.settings[0]):
        place = compared.index(rate.policy) if rate.policy in compared else len(compared)
        rows.append(Bar(rate.policy, place, Interval(rate.rate, rate.low, rate.high, rate.runs), _rate(rate)))
    boundary = frontier.rates[0].boundary_rate
    limits = (Limit(boundary, f"fluid boundary, {number(boundary)} req/s", dashed=True),)
    values = "; ".join(f"{row.label} {row.text}" for row in rows)
    alt = f"Largest stable rate: {values}. The fluid boundary is {number(boundary)} req/s."
    top = 1.1 * max(boundary, scale_top([row.value for row in rows]))
    return bars("Largest stable rate, req/s", alt, rows, top, limits)


def _rate(rate: StableRate) -> str:
    return f"{rate.rate:.4g} req/s" if isfinite(rate.rate) else "unknown"


def _values(scenario: Scenario, rows: list[Bar]) -> str:
    return f"{at_load(scenario)}: {'; '.join(f'{row.label} {row.text}' for row in rows)}."


def busy_time(comparison: Comparison, scenario: Scenario) -> Html:
    """One bar per policy at a load: its busy time, split; the three parts add up to 100%."""
    rows = []
    for cell in comparison.at(scenario):
        intervals = cell.intervals
        parts = tuple((name, style, intervals[key].mean) for key, (name, style) in BUSY_TIME.items())
        rows.append(Split(cell.policy, series(comparison, cell), parts, "unknown: requests are unfinished"))
    values = [f"{row.label} {', '.join(f'{name} {tenths(share)}' for name, _, share in row.parts)}" for row in rows]
    alt = f"Busy time {at_load(scenario)}: {'; '.join(values)}."
    return split_bars("Busy time, % of it", alt, rows)


def busy_time_legend() -> Html:
    """The three parts of the busy time and their colours."""
    return box_legend((name, {"class_": style}) for name, style in BUSY_TIME.values())
