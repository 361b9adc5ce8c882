"""Figures of one repeat over time: KV cache, batch by stage, queue, holds, evictions; and its distributions."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import nan

from fluidgate.fluid import Stability, residents_by_stage, stage_edges
from fluidgate.metrics import Timeline
from fluidgate.report.html import Html
from fluidgate.report.over_repeats import series
from fluidgate.report.plots import Level, Line, Values, distributions, envelope, lines_over_time, shade, stack
from fluidgate.report.shown_metrics import LATENCIES
from fluidgate.report.svg import box_legend
from fluidgate.report.words import at_load, duration, load_of, short
from fluidgate.runs import Cell, Comparison, Scenario
from fluidgate.words import number

DISTRIBUTIONS = {**LATENCIES, "silence": "Longest silence of a stream"}
"""`<key>_s` is the quantity in a `Timeline`."""

LONGEST_NAME = 28
"""Of a policy, in the title of its figure."""


def timelines(comparison: Comparison, scenario: Scenario) -> list[tuple[Cell, Timeline]]:
    """The cells of a load that have a timeline, each with it."""
    return [(cell, cell.timeline) for cell in comparison.at(scenario) if cell.timeline is not None]


def kv_over_time(comparison: Comparison, cell: Cell, timeline: Timeline) -> Html:
    """`kv_plot` of a cell."""
    until_s = _last_end_s(comparison, cell.scenario)
    place, predicted = series(comparison, cell), cell.scenario.plan.stability
    return kv_plot(cell.policy, place, predicted, timeline, until_s, cell.scenario.workload)


def kv_plot(
    policy: str, place: int, predicted: Stability, timeline: Timeline, until_s: float, workload: str = ""
) -> Html:
    """KV blocks in use: mean, minimum and maximum, against the capacity and the predicted mean ± 2 sd.

    Args:
        place: of the policy among those compared, hence its colour.
        workload: its name, where there are several.
    """
    buffer = predicted.kv_peak - predicted.kv_use
    line = Line(policy, place, timeline.kv_mean, timeline.edges_s)
    mean, most = sum(timeline.kv_mean) / len(timeline.kv_mean), max(timeline.kv_high)
    alt = (
        f"KV use of {policy} over time {load_of(predicted.load, workload)}: on average {mean:.0%}, at most "
        f"{most:.0%} of the capacity; the fluid model predicts {predicted.kv_use:.0%} ± {buffer:.0%}."
    )
    levels = (
        Level(1.0, "capacity", name_at_left=True),
        Level(predicted.kv_use, "predicted", dashed=True, spread=buffer),
    )
    title = f"{short(policy, LONGEST_NAME)}: KV use, % of capacity"
    return envelope(title, alt, line, timeline.kv_low, timeline.kv_high, levels, until_s)


def batch_over_time(comparison: Comparison, cell: Cell, timeline: Timeline) -> Html:
    """Requests in the batch by output tokens so far, stacked, youngest at the bottom; dashed: the fluid equilibrium."""
    layers = [
        Line(name, k, values, timeline.coarse_edges_s)
        for k, (name, values) in enumerate(zip(_stage_names(cell.scenario), timeline.batch, strict=True))
    ]
    tops = _stage_tops(cell.scenario)
    mean = sum(map(sum, timeline.batch)) / len(timeline.batch[0])
    alt = (
        f"Batch of {cell.policy} over time {at_load(cell.scenario)}, by tokens generated so far: "
        f"{number(mean)} requests on average, {number(tops[-1])} in the fluid equilibrium."
    )
    sizes = [
        float(sum(stages)) for _, t in timelines(comparison, cell.scenario) for stages in zip(*t.batch, strict=True)
    ]
    top = 1.08 * max(*sizes, tops[-1], 1.0)  # the batches of a load share their scale
    title = f"{short(cell.policy, LONGEST_NAME)}: batch, requests"
    return stack(title, alt, layers, tops, top, _last_end_s(comparison, cell.scenario))


def _last_end_s(comparison: Comparison, scenario: Scenario) -> float:
    """When the longest run of a load ends: its figures share the axis of time."""
    return max(timeline.edges_s[-1] for _, timeline in timelines(comparison, scenario))


def _stage_names(scenario: Scenario) -> list[str]:
    """The ranges in words: `0–211 tokens`."""
    return [f"{low:,}–{high - 1:,} tokens" for low, high in pairwise(stage_edges(scenario.plan))]


def _stage_tops(scenario: Scenario) -> list[float]:
    """Where the layers end in equilibrium."""
    counts = residents_by_stage(scenario.plan, stage_edges(scenario.plan))
    return [sum(counts[: k + 1]) for k in range(len(counts))]


def stage_legend(scenario: Scenario) -> Html:
    """Shades and their ranges."""
    return box_legend(
        (name, {"fill": "var(--accent)", "fill_opacity": shade(k)}) for k, name in enumerate(_stage_names(scenario))
    )


def _lines(comparison: Comparison, scenario: Scenario, read: Callable[[Timeline], tuple[Values, Values]]) -> list[Line]:
    """One line per policy, from the values and the edges that `read` takes from its timeline."""
    return [Line(cell.policy, series(comparison, cell), *read(t)) for cell, t in timelines(comparison, scenario)]


def waiting_over_time(comparison: Comparison, scenario: Scenario) -> Html:
    """The maximum number of requests waiting in each interval, one line per policy."""
    lines = _lines(comparison, scenario, lambda t: (t.waiting_high, t.edges_s))
    peaks = "; ".join(f"{line.label} up to {max(line.values):,.0f}" for line in lines)
    alt = f"Requests waiting over time {at_load(scenario)}: {peaks}."
    return lines_over_time("Waiting, requests", alt, lines)


def held_over_time(comparison: Comparison, scenario: Scenario) -> Html:
    """How long the policy alone kept requests out, by their arrival, one line per policy."""
    lines = _lines(comparison, scenario, lambda t: (t.held_s, t.coarse_edges_s))
    peaks = "; ".join(f"{line.label} up to {duration(_most(line.values))}" for line in lines)
    alt = f"Mean time held by the policy, by arrival time, {at_load(scenario)}: {peaks}."
    return lines_over_time("Held by the policy, s, by arrival time", alt, lines, "duration")


def _most(values: Values) -> float:
    return max((value for value in values if value == value), default=nan)


def evicted_over_time(comparison: Comparison, scenario: Scenario) -> Html:
    """Requests evicted so far, one line per policy."""
    lines = _lines(comparison, scenario, lambda t: (t.evicted, t.edges_s))
    totals = "; ".join(f"{line.label} {line.values[-1]:,.0f}" for line in lines)
    alt = f"Evictions so far {at_load(scenario)}; totals: {totals}."
    return lines_over_time("Evictions so far, count", alt, lines)


def distribution(comparison: Comparison, scenario: Scenario, key: str) -> Html:
    """The share of requests at or below each value of a `DISTRIBUTIONS` quantity, one line per policy."""
    lines = _lines(comparison, scenario, lambda t: (getattr(t, f"{key}_s"), ()))
    medians = "; ".join(f"{line.label} {duration(line.values[50])}" for line in lines if line.values)
    alt = f"{DISTRIBUTIONS[key]}, {at_load(scenario)}; medians: {medians}."
    return distributions(DISTRIBUTIONS[key], alt, lines)
