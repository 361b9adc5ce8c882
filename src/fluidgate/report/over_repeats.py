"""Figures over all repeats: throughput against latency, any metric by policy, KV use against capacity and plan."""

from __future__ import annotations

from math import isfinite

from fluidgate.metrics import METRICS, Interval
from fluidgate.report.charts import Bar, Curve, Limit, bars, curves, scale_top
from fluidgate.report.html import Html
from fluidgate.report.words import duration, load_title, measured
from fluidgate.runs import Cell, Comparison, Frontier, Scenario, StableRate
from fluidgate.words import number, percent


def policies(comparison: Comparison) -> list[str]:
    """The policies in order; a policy's place is its series, hence its colour, in every figure."""
    return list(dict.fromkeys(cell.policy for cell in comparison.cells))


def throughput_latency(comparison: Comparison) -> Html:
    """One curve per policy through the loads: down and to the right is better."""
    lines = [_curve(comparison, series, name) for series, name in enumerate(policies(comparison))]
    alt = "Mean E2E latency against output throughput. " + " ".join(
        f"{line.label}: {'; '.join(text for _, _, text in line.points)}." for line in lines
    )
    return curves("output throughput, tok/s", "mean E2E latency", alt, lines, number, duration)


def _curve(comparison: Comparison, series: int, name: str) -> Curve:
    points = []
    for cell in (c for c in comparison.cells if c.policy == name):
        x, y = cell.intervals["output_throughput"], cell.intervals["mean_e2el_ms"]
        y = Interval(y.mean / 1e3, y.low / 1e3, y.high / 1e3, y.n)
        text = f"{number(x.mean)} tok/s and {duration(y.mean)} at load {percent(cell.scenario.load)}"
        points.append((x, y, text))
    return Curve(name, series, tuple(points))


def metric_bars(comparison: Comparison, scenario: Scenario, key: str) -> Html:
    """A metric of every policy at one load, with intervals."""
    rows = [_metric_bar(comparison, cell, key) for cell in comparison.at(scenario)]
    title = METRICS[key].label
    return bars(title, _alt(title, scenario, rows), rows, scale_top([row.value for row in rows]))


def _metric_bar(comparison: Comparison, cell: Cell, key: str) -> Bar:
    value = cell.intervals[key]
    return Bar(cell.policy, policies(comparison).index(cell.policy), value, measured(key, value.mean))


def kv_bars(comparison: Comparison, scenario: Scenario) -> Html:
    """Mean KV use (bar) and peak (tick) of every policy at one load, as shares of the capacity."""
    rows = []
    for cell in comparison.at(scenario):
        mean, peak = cell.intervals["kv_mean"], cell.intervals["kv_peak"].mean
        series = policies(comparison).index(cell.policy)
        rows.append(Bar(cell.policy, series, mean, f"{_share(mean.mean)} / {_share(peak)}", mark=peak))
    predicted = scenario.plan.stability.kv_use
    limits = (
        Limit(1.0, f"capacity, {number(scenario.plan.limits.kv_tokens)} tokens"),
        Limit(predicted, f"fluid prediction, {percent(round(predicted, 3))}", dashed=True),
    )
    title = load_title(scenario)
    alt = f"{_alt('KV use, mean / peak', scenario, rows)} The fluid model predicts {percent(predicted)}."
    return bars(title, alt, rows, 1.0, limits)


def stable_rate_bars(comparison: Comparison, frontier: Frontier) -> Html:
    """The largest stable rate of every policy, with its interval, next to the fluid boundary."""
    drawn, rows = policies(comparison), []
    for found in frontier.at(frontier.settings[0]):
        series = drawn.index(found.policy) if found.policy in drawn else len(drawn)
        rows.append(
            Bar(found.policy, series, Interval(found.rate, found.low, found.high, found.runs), rate_text(found))
        )
    boundary = frontier.rates[0].boundary_rate
    limits = (Limit(boundary, f"fluid boundary, {number(boundary)} req/s", dashed=True),)
    values = "; ".join(f"{row.label} {row.text}" for row in rows)
    alt = f"Largest stable rate: {values}. The fluid boundary is {number(boundary)} req/s."
    top = 1.1 * max(boundary, scale_top([row.value for row in rows]))
    return bars("Largest stable rate", alt, rows, top, limits)


def rate_text(found: StableRate) -> str:
    """A stable rate as it stands beside its bar."""
    return f"{found.rate:.4g} req/s" if isfinite(found.rate) else "cannot tell"


def _alt(title: str, scenario: Scenario, rows: list[Bar]) -> str:
    values = "; ".join(f"{row.label} {row.text}" for row in rows)
    return f"{title} at load {percent(scenario.load)}: {values}."


def _share(value: float) -> str:
    return f"{value:.0%}" if isfinite(value) else "–"
