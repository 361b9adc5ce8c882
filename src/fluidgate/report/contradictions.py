"""Where the runs say otherwise than the plan, in sentences that come before all others."""

from __future__ import annotations

from collections.abc import Iterator
from math import isnan

from fluidgate.metrics import Interval
from fluidgate.report.words import counted
from fluidgate.runs import Cell, Comparison, Scenario
from fluidgate.words import listed, percent

SELDOM_FULL = 0.01
"""With KV above 90% for less than this share of the busy time, a memory gate has next to nothing to decide."""

UNGATED = "greedy"
"""The policy that the plan's onset load is about: a gate keeps the cache from filling."""


def contradictions(comparison: Comparison, scenario: Scenario) -> tuple[str, ...]:
    """One sentence for each claim of the plan that the runs at `scenario` contradict.

    A quantity counts only where its whole 95% interval over the repeats lies beyond what was claimed (the value itself,
    where there is one repeat), a verdict on stability where it is that of most repeats.
    """
    cells = comparison.at(scenario)
    repeats = counted(comparison.repeats, "repeat")
    return tuple(f"The runs contradict the plan: {claim} ({repeats})." for claim in _claims(scenario, cells))


def mostly(cell: Cell, stable: bool) -> bool:
    """Whether most repeats are stable, or unstable."""
    return 2 * sum(summary.stable is stable for summary in cell.summaries) > len(cell.summaries)


def _claims(scenario: Scenario, cells: tuple[Cell, ...]) -> Iterator[str]:
    yield from _sustainable(scenario, cells)
    greedy = next((cell for cell in cells if cell.policy == UNGATED), None)
    if greedy is None:
        return
    onset = scenario.plan.stability.onset_load
    full = greedy.intervals["kv_above_90"]
    if (onset is None or scenario.load < onset) and _ends(full)[0] >= SELDOM_FULL:
        yield (
            f"it said that the KV cache hardly ever fills at this load, and under {UNGATED} it is more than 90% full "
            f"for {percent(full.mean)} of the busy time"
        )
    idle = _ends(full)[1] < SELDOM_FULL and all(summary.preemptions == 0 for summary in greedy.summaries)
    if onset is not None and scenario.load >= onset and idle:
        yield (
            f"it said that {UNGATED} fills the KV cache from {percent(onset)} of the boundary on and evicts, and "
            "nothing is evicted at this load"
        )


def _sustainable(scenario: Scenario, cells: tuple[Cell, ...]) -> Iterator[str]:
    unstable, stable = ([cell.policy for cell in cells if mostly(cell, verdict)] for verdict in (False, True))
    if scenario.load <= 1.0 and unstable:
        but = f", unlike under {listed(stable)}" if stable else ""
        yield f"it called this load sustainable, and under {listed(unstable)} the queue keeps growing{but}"
    if scenario.load > 1.0 and stable:
        yield f"it called this load an overload, and under {listed(stable)} the queue stays bounded"


def _ends(interval: Interval) -> tuple[float, float]:
    """The interval's ends; the mean where there are none."""
    low, high = (interval.mean if isnan(end) else end for end in (interval.low, interval.high))
    return low, high
