"""The page's figures: throughput against latency, latencies by load, KV use against capacity and plan."""

from __future__ import annotations

from math import isfinite

from fluidgate.experiments import Cell, Comparison, Scenario
from fluidgate.fluid.verdict import number, percent
from fluidgate.metrics import METRICS, Interval
from fluidgate.report.html import Html, tag
from fluidgate.report.svg import Bar, Curve, Limit, bars, curves, legend, scale_top
from fluidgate.report.words import duration, listed, load_title, measured

BARS = ("mean_ttft_ms", "mean_e2el_ms", "p99_longest_silence_s")


def policies(comparison: Comparison) -> list[str]:
    """The policies in order; a policy's place is its series, hence its colour, in every figure."""
    return list(dict.fromkeys(cell.policy for cell in comparison.cells))


def throughput_latency(comparison: Comparison) -> Html:
    """One curve per policy through the loads: down and to the right is better."""
    names = policies(comparison)
    lines = [_curve(comparison, series, name) for series, name in enumerate(names)]
    alt = "Mean E2E latency against output throughput. " + " ".join(
        f"{line.label}: {'; '.join(text for _, _, text in line.points)}." for line in lines
    )
    chart = curves("output throughput, tok/s", "mean E2E latency", alt, lines, number, duration)
    loads = listed([percent(scenario.load) for scenario in comparison.scenarios])
    caption = (
        f"Each mark is a load ({loads} of the boundary), joined in this order; lines through it are 95% intervals."
    )
    return tag("figure", legend(names), chart, tag("figcaption", caption), class_="wide")


def _curve(comparison: Comparison, series: int, name: str) -> Curve:
    points = []
    for cell in (c for c in comparison.cells if c.policy == name):
        x, y = cell.intervals["output_throughput"], cell.intervals["mean_e2el_ms"]
        y = Interval(y.mean / 1e3, y.low / 1e3, y.high / 1e3, y.n)
        text = f"{number(x.mean)} tok/s and {duration(y.mean)} at load {percent(cell.scenario.load)}"
        points.append((x, y, text))
    return Curve(name, series, tuple(points))


def latency_bars(comparison: Comparison, scenario: Scenario) -> Html:
    """TTFT, E2E and silence of every policy at one load."""
    figures = []
    for key in BARS:
        cells = comparison.at(scenario)
        rows = [_metric_bar(comparison, cell, key) for cell in cells]
        title = METRICS[key].label
        chart = bars(title, _alt(title, scenario, rows), rows, scale_top([row.value for row in rows]))
        figures.append(tag("figure", chart))
    return tag("div", *figures, class_="panels")


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
    return tag("figure", bars(title, alt, rows, 1.0, limits))


def _alt(title: str, scenario: Scenario, rows: list[Bar]) -> str:
    values = "; ".join(f"{row.label} {row.text}" for row in rows)
    return f"{title} at load {percent(scenario.load)}: {values}."


def _share(value: float) -> str:
    return f"{value:.0%}" if isfinite(value) else "–"
