"""Figures of one repeat over time: KV cache, batch by stage, queue, holds, evictions; and its distributions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import nan

from fluidgate.fluid import residents_by_stage, stage_edges
from fluidgate.metrics import Timeline
from fluidgate.report.html import Html, tag
from fluidgate.report.over_repeats import policies
from fluidgate.report.plots import Level, Line, distributions, envelope, lines_over_time, shade, stack
from fluidgate.report.words import duration
from fluidgate.runs import Cell, Comparison, Scenario
from fluidgate.words import number, percent

DISTRIBUTIONS = {
    "ttft_s": "TTFT: time to the first token",
    "tpot_s": "TPOT: time per further token",
    "e2el_s": "E2E latency: arrival to last token",
    "silence_s": "Longest silence of a stream",
}

Watched = tuple[Cell, Timeline]


def watched(comparison: Comparison, scenario: Scenario) -> list[Watched]:
    """The cells of a load that were looked at over time."""
    return [(cell, cell.timeline) for cell in comparison.at(scenario) if cell.timeline is not None]


def series(comparison: Comparison, cell: Cell) -> int:
    """The policy's place, which is its colour."""
    return policies(comparison).index(cell.policy)


def kv_over_time(comparison: Comparison, cell: Cell, over_time: Timeline) -> Html:
    """KV blocks in use, mean within least and most, against capacity and the predicted mean and its 2 sd."""
    stable = cell.scenario.plan.stability
    buffer = stable.kv_peak - stable.kv_use
    line = Line(cell.policy, series(comparison, cell), over_time.kv_mean, over_time.edges_s)
    mean, most = sum(over_time.kv_mean) / len(over_time.kv_mean), max(over_time.kv_high)
    alt = (
        f"KV use of {cell.policy} over time at load {percent(cell.scenario.load)}: on average {mean:.0%}, at most "
        f"{most:.0%} of the capacity; the fluid model predicts {stable.kv_use:.0%} ± {buffer:.0%}."
    )
    levels = (Level(1.0, "capacity", name_at_left=True), Level(stable.kv_use, "predicted", dashed=True, spread=buffer))
    until_s = last_end_s(comparison, cell.scenario)
    return envelope(alt, line, over_time.kv_low, over_time.kv_high, levels, until_s)


def batch_over_time(comparison: Comparison, cell: Cell, over_time: Timeline) -> Html:
    """Members of the batch by output tokens so far, stacked, young ones below; dashed: the fluid equilibrium."""
    ranges, expected = stage_names(cell.scenario), stage_tops(cell.scenario)
    edges_s = over_time.coarse_edges_s
    layers = [
        Line(name, k, values, edges_s) for k, (name, values) in enumerate(zip(ranges, over_time.batch, strict=True))
    ]
    mean = sum(map(sum, over_time.batch)) / len(over_time.batch[0])
    alt = (
        f"Batch of {cell.policy} over time at load {percent(cell.scenario.load)}, by tokens generated so far: "
        f"{number(mean)} requests on average, {number(expected[-1])} in the fluid equilibrium."
    )
    top, until_s = _batch_top(comparison, cell.scenario), last_end_s(comparison, cell.scenario)
    return stack(cell.policy, alt, layers, expected, top, until_s)


def last_end_s(comparison: Comparison, scenario: Scenario) -> float:
    """When the longest run of a load ends: its figures share the axis of time."""
    return max(t.edges_s[-1] for _, t in watched(comparison, scenario))


def _batch_top(comparison: Comparison, scenario: Scenario) -> float:
    """The end of the scale that the batches of a load share."""
    seen: list[float] = [sum(column) for _, t in watched(comparison, scenario) for column in zip(*t.batch, strict=True)]
    return 1.08 * max([*seen, stage_tops(scenario)[-1], 1.0])


def stage_names(scenario: Scenario) -> list[str]:
    """The ranges in words: `0–211 tokens`."""
    edges = stage_edges(scenario.plan)
    return [f"{low:,}–{high - 1:,} tokens" for low, high in pairwise(edges)]


def stage_tops(scenario: Scenario) -> list[float]:
    """Where the layers end in equilibrium."""
    counts = residents_by_stage(scenario.plan, stage_edges(scenario.plan))
    return [sum(counts[: k + 1]) for k in range(len(counts))]


def stage_legend(scenario: Scenario) -> Html:
    """Shades and their ranges."""
    items = []
    for k, name in enumerate(stage_names(scenario)):
        box = tag("rect", x=1, y=1, width=14, height=14, rx=2, fill="var(--accent)", fill_opacity=shade(k))
        items.append(tag("li", tag("svg", box, viewBox="0 0 16 16", aria_hidden="true"), name))
    return tag("ul", *items, class_="legend")


def waiting_over_time(comparison: Comparison, scenario: Scenario) -> Html:
    """The most requests waiting in each interval, one line per policy."""
    cells = watched(comparison, scenario)
    lines = [Line(cell.policy, series(comparison, cell), t.waiting_high, t.edges_s) for cell, t in cells]
    ends = "; ".join(f"{line.label} up to {max(line.values):,.0f}" for line in lines)
    alt = f"Requests waiting over time at load {percent(scenario.load)}: {ends}."
    return lines_over_time("Requests waiting", alt, lines)


def held_over_time(comparison: Comparison, scenario: Scenario) -> Html:
    """How long the policy alone kept requests out, by their arrival, one line per policy."""
    cells = watched(comparison, scenario)
    lines = [Line(cell.policy, series(comparison, cell), t.held_s, t.coarse_edges_s) for cell, t in cells]
    ends = "; ".join(f"{line.label} up to {duration(_most(line.values))}" for line in lines)
    alt = f"Mean time held by the policy, by arrival, at load {percent(scenario.load)}: {ends}."
    return lines_over_time("Held by the policy, by arrival", alt, lines, "duration")


def evicted_over_time(comparison: Comparison, scenario: Scenario) -> Html:
    """Requests evicted so far, one line per policy."""
    cells = watched(comparison, scenario)
    lines = [Line(cell.policy, series(comparison, cell), t.evicted, t.edges_s) for cell, t in cells]
    ends = "; ".join(f"{line.label} {line.values[-1]:,.0f}" for line in lines)
    alt = f"Evictions so far at load {percent(scenario.load)}, in the end: {ends}."
    return lines_over_time("Evictions so far", alt, lines)


def distribution(comparison: Comparison, scenario: Scenario, quantity: str) -> Html:
    """The share of requests at or below each value of a `DISTRIBUTIONS` quantity, one line per policy."""
    cells = watched(comparison, scenario)
    lines = [Line(cell.policy, series(comparison, cell), getattr(t, quantity)) for cell, t in cells]
    medians = "; ".join(f"{line.label} {duration(line.values[50])}" for line in lines if line.values)
    alt = f"{DISTRIBUTIONS[quantity]}, at load {percent(scenario.load)}; medians: {medians}."
    return distributions(DISTRIBUTIONS[quantity], alt, lines)


def _most(values: Sequence[float]) -> float:
    return max((v for v in values if v == v), default=nan)
