"""The recommendation follows its stated rule, and says when there is nothing to choose."""

from collections.abc import Callable
from typing import Any

import pytest

from fluidgate.report import Recommendation, recommend
from fluidgate.report.recommend import rule
from fluidgate.runs import Comparison

Change = Callable[[dict[str, list[dict[str, Any]]]], Comparison]


def chosen(comparison: Comparison) -> Recommendation:
    return recommend(comparison, comparison.scenarios[0])


def both(**numbers: float | bool) -> list[dict[str, Any]]:
    """The same numbers in both repeats: an interval of no width."""
    return [numbers, numbers]


def test_equal_policies_do_not_matter(with_numbers: Change) -> None:
    result = chosen(with_numbers({}))
    assert result.policy == "greedy"
    assert result.headline == "The policy does not matter at this load"
    assert set(result.equals) == {"watermark", "concurrency-cap:cap=3"}


def test_more_throughput_wins(with_numbers: Change) -> None:
    slow, fast = both(output_throughput=100.0), both(output_throughput=105.0)
    result = chosen(with_numbers({"greedy": slow, "concurrency-cap:cap=3": slow, "watermark": fast}))
    assert result.policy == "watermark"
    assert "output throughput" in dict(result.others)["greedy"]


def test_throughput_within_one_percent_does_not_count(with_numbers: Change) -> None:
    noisy = both(output_throughput=100.5, p99_longest_silence_s=5.0)
    calm = both(output_throughput=100.0, p99_longest_silence_s=0.0)
    result = chosen(with_numbers({"greedy": noisy, "concurrency-cap:cap=3": noisy, "watermark": calm}))
    assert result.policy == "watermark"
    assert "p99 longest silence" in dict(result.others)["concurrency-cap:cap=3"]


def test_latency_decides_where_silence_is_equal(with_numbers: Change) -> None:
    base = with_numbers({}).cells[0].summaries[0].mean_e2el_ms
    slow = both(mean_e2el_ms=2 * base)
    assert chosen(with_numbers({"greedy": slow, "watermark": slow})).policy == "concurrency-cap:cap=3"


def test_a_policy_that_leaves_requests_unfinished_is_set_aside(with_numbers: Change) -> None:
    base = with_numbers({}).cells[0].summaries[0].output_throughput
    result = chosen(with_numbers({"watermark": both(unfinished=3, output_throughput=9 * base)}))
    assert result.policy == "greedy"
    assert "6 requests unfinished" in dict(result.others)["watermark"]


def test_an_unstable_policy_is_set_aside_below_the_boundary(with_numbers: Change) -> None:
    unstable = [{"stable": False, "stability_reason": "the queue grows"}] * 2
    result = chosen(with_numbers({"greedy": unstable}))
    assert result.policy != "greedy"
    assert "the queue grows" in dict(result.others)["greedy"]


def test_noise_removes_nobody(with_numbers: Change) -> None:
    base = with_numbers({}).cells[0].summaries[0].mean_e2el_ms
    scattered = [{"mean_e2el_ms": 0.5 * base}, {"mean_e2el_ms": 1.6 * base}]
    result = chosen(with_numbers({"watermark": scattered}))
    assert result.policy == "greedy"
    assert dict(result.others)["watermark"].startswith("no clear difference")


def test_the_busy_time_is_accounted_for_where_memory_matters(comparison: Comparison) -> None:
    calm, overloaded = comparison.scenarios
    assert "fluid bound" not in recommend(comparison, calm).reason
    result = recommend(comparison, overloaded)
    cell = next(c for c in comparison.at(overloaded) if c.policy == result.policy)
    share = round(100 * cell.intervals["fluid_efficiency"].mean, 1)
    assert f"Of the busy time of {result.policy}, the fluid bound needs {share:g}%" in result.reason


def test_overload_is_said(comparison: Comparison) -> None:
    result = recommend(comparison, comparison.scenarios[1])
    assert "above the stability boundary" in result.reason


@pytest.mark.parametrize("words", ["unfinished", "unstable", "1%", "0.1 s", "greedy (the baseline)"])
def test_the_rule_names_what_it_looks_at(comparison: Comparison, words: str) -> None:
    assert words in rule(comparison)
