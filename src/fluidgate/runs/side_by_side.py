"""Comparisons of several workloads on one machine, as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fluidgate.errors import InputError
from fluidgate.runs.comparison import Comparison
from fluidgate.words import listed

ALIKE = ("hardware", "config", "slo", "objectives", "seed", "repeats", "requests", "baseline", "fleet")
"""What all of them must share."""


def side_by_side(comparisons: Sequence[Comparison]) -> Comparison:
    """One comparison that has the scenarios of all, each with the name of its workload.

    Raises:
        InputError: none, or they differ in more than the workload and the loads.
    """
    if not comparisons:
        raise InputError("nothing to put side by side; give at least one comparison")
    first = comparisons[0]
    for other in comparisons[1:]:
        unlike = [name for name in ALIKE if getattr(other, name) != getattr(first, name)]
        unlike += ["policies"] * (_policies(other) != _policies(first))
        if unlike:
            raise InputError(
                f"{other.workload_name} and {first.workload_name} cannot stand side by side: their {listed(unlike)} "
                "differ; compare them with the same"
            )
    return replace(
        first,
        workload_name=listed([comparison.workload_name for comparison in comparisons]),
        workload_digest=listed([comparison.workload_digest for comparison in comparisons]),
        cells=tuple(cell for comparison in comparisons for cell in _named(comparison).cells),
    )


def _policies(comparison: Comparison) -> list[str]:
    return [cell.policy for cell in comparison.at(comparison.scenarios[0])]


def _named(comparison: Comparison) -> Comparison:
    """With the workload's name in every scenario."""
    named = {scenario: replace(scenario, workload=comparison.workload_name) for scenario in comparison.scenarios}
    return replace(comparison, cells=tuple(replace(cell, scenario=named[cell.scenario]) for cell in comparison.cells))
