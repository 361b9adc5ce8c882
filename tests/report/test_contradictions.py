"""Where runs and plan disagree it is said, and only there."""

from dataclasses import replace

import pytest

from fluidgate.report.contradictions import contradictions
from fluidgate.runs import Comparison, Scenario

from .conftest import Change


def said(comparison: Comparison) -> tuple[str, ...]:
    return contradictions(comparison, comparison.scenarios[0])


def at(comparison: Comparison, load: float, onset: float | None) -> Comparison:
    """The same runs at another load, with a plan that has another onset."""
    plan = comparison.scenarios[0].plan
    scenario = Scenario(load, replace(plan, stability=replace(plan.stability, onset_load=onset, load=load)))
    return replace(comparison, cells=tuple(replace(cell, scenario=scenario) for cell in comparison.cells))


def test_agreement_is_not_mentioned(with_numbers: Change) -> None:
    assert said(at(with_numbers({}), 0.5, 0.9)) == ()


@pytest.mark.parametrize("onset", [0.9, None])
def test_a_cache_that_fills_below_the_onset(with_numbers: Change, onset: float | None) -> None:
    full = {"greedy": [{"kv_above_90": 0.27}, {"kv_above_90": 0.29}]}
    (sentence,) = said(at(with_numbers(full), 0.5, onset))
    assert "hardly ever fills at this load, and under greedy it is more than 90% full for 28%" in sentence
    assert said(at(with_numbers(full), 0.95, 0.9)) == ()


def test_repeats_that_disagree_contradict_nothing(with_numbers: Change) -> None:
    scattered = {"greedy": [{"kv_above_90": 0.0}, {"kv_above_90": 0.6}]}
    assert said(at(with_numbers(scattered), 0.5, 0.9)) == ()


def test_a_gate_that_fills_the_cache_says_nothing_of_greedy(with_numbers: Change) -> None:
    assert said(at(with_numbers({"watermark": [{"kv_above_90": 0.5}] * 2}), 0.5, 0.9)) == ()


def test_no_eviction_above_the_onset(with_numbers: Change) -> None:
    (sentence,) = said(at(with_numbers({}), 0.95, 0.9))
    assert "from 90% of the boundary on and evicts, and nothing is evicted" in sentence
    assert said(at(with_numbers({"greedy": [{"preemptions": 2}, {"preemptions": 0}]}), 0.95, 0.9)) == ()


def test_queues_that_grow_at_a_sustainable_load(with_numbers: Change) -> None:
    growing = with_numbers({"greedy": [{"stable": False}] * 2})
    (sentence,) = said(at(growing, 0.5, 0.9))
    assert "called this load sustainable, and under greedy the queue keeps growing" in sentence
    assert "unlike under watermark and concurrency-cap:cap=3" in sentence
    half = with_numbers({"greedy": [{"stable": False}, {"stable": True}]})
    assert said(at(half, 0.5, 0.9)) == ()


def test_queues_that_stay_bounded_in_an_overload(with_numbers: Change) -> None:
    stay = at(with_numbers({"greedy": [{"stable": None, "preemptions": 1}] * 2}), 1.2, 0.9)
    (sentence,) = said(stay)
    assert (
        "called this load an overload, and under watermark and concurrency-cap:cap=3 the queue stays bounded"
        in sentence
    )
