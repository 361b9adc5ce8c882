"""Comparisons to report on: one that was run, and the means to change its numbers by hand."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from fluidgate.hardware import Hardware, StepTime
from fluidgate.runs import Comparison, compare

HARDWARE = Hardware("test", StepTime(c0=0.01, c_tok=2e-5, c_kv=2e-7), num_gpu_blocks=400, source="made up")


@pytest.fixture(scope="session")
def comparison() -> Comparison:
    """Three policies at two loads, two repeats."""
    policies = ["greedy", "watermark", "concurrency-cap:cap=3"]
    return compare("p512-d20", HARDWARE, policies, requests=60, repeats=2, loads=[0.5, 1.2], timelines=True)


Repeats = dict[str, list[dict[str, Any]]]
Change = Callable[[Repeats], Comparison]


def both(**numbers: Any) -> list[dict[str, Any]]:
    """The same numbers in both repeats: an interval of no width."""
    return [numbers, numbers]


@pytest.fixture
def with_numbers(comparison: Comparison) -> Change:
    """The lower load of the comparison, with every policy equal to greedy but for the numbers given per repeat."""

    def changed(numbers: Repeats) -> Comparison:
        scenario = comparison.scenarios[0]
        base = [
            replace(summary, unfinished=0, stable=True, preemptions=0, kv_above_90=0.0)
            for summary in comparison.at(scenario)[0].summaries
        ]
        cells = tuple(
            replace(
                cell,
                summaries=tuple(
                    replace(summary, **own)
                    for summary, own in zip(base, numbers.get(cell.policy, [{}, {}]), strict=True)
                ),
            )
            for cell in comparison.at(scenario)
        )
        return replace(comparison, cells=cells)

    return changed
