"""The recommendation follows its stated rule, and says when there is nothing to choose."""

from collections.abc import Callable
from dataclasses import replace
from math import sqrt
from typing import Any

import pytest

from fluidgate.metrics import Objective
from fluidgate.metrics.intervals import student_t
from fluidgate.report import Recommendation, recommend
from fluidgate.report.recommend import rule
from fluidgate.report.standing import Equal, Near, Undecided
from fluidgate.runs import Comparison, Scenario

from .conftest import Change, both


def chosen(comparison: Comparison) -> Recommendation:
    return recommend(comparison, comparison.scenarios[0])


def test_equal_policies_do_not_matter(with_numbers: Change) -> None:
    result = chosen(with_numbers({}))
    assert result.policy == "greedy"
    assert result.headline == "The policy does not matter at this load: change nothing"
    assert all(isinstance(other, Equal) for other in result.standings)
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


def test_a_policy_that_misses_an_objective_is_set_aside_if_another_meets_all(with_numbers: Change) -> None:
    bound = (Objective("ttft", 99.0, 2000.0),)
    late, early = both(objectives=[3000.0]), both(objectives=[1000.0], output_throughput=1.0)
    result = chosen(
        replace(
            with_numbers({"greedy": late, "concurrency-cap:cap=3": late, "watermark": early}),
            objectives=bound,
        )
    )
    assert result.policy == "watermark"
    assert dict(result.others)["greedy"] == "p99 TTFT of at most 2 s: 3 s, missed by 50%"
    all_late = dict.fromkeys(("greedy", "concurrency-cap:cap=3", "watermark"), late)
    assert chosen(replace(with_numbers(all_late), objectives=bound)).policy == "greedy"


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
    (undecided,) = (other for other in result.standings if other.policy == "watermark")
    assert isinstance(undecided, Undecided)
    assert undecided.open == ("mean E2E latency",)
    assert "after 2 repeats; more than 100 would decide" in undecided.sentence
    assert result.headline == "No difference shown; keep greedy"


def around(mean: float, half_width: float) -> list[float]:
    """Three values with this mean and 95% interval."""
    spread = half_width * sqrt(3) / student_t(2)
    return [mean - spread, mean, mean + spread]


@pytest.fixture
def three(comparison: Comparison) -> Callable[..., Comparison]:
    """Greedy and fluid over three repeats; fluid differs by the numbers given, each a mean and a half width."""

    def changed(load: float = 1.1, **differences: tuple[float, float]) -> Comparison:
        plan = comparison.scenarios[0].plan
        scenario = Scenario(load, plan)
        base = {
            "output_throughput": 1200.0,
            "p99_longest_silence_s": 0.4,
            "mean_e2el_ms": 50_000.0,
            "mean_ttft_ms": 20_000.0,
            "preemptions": 280.0,
            "recompute_tax": 0.02,
        }
        shared: dict[str, Any] = {"unfinished": 0, "stable": load <= 1.0, "kv_above_90": 0.5}
        greedy, fluid = (
            [
                replace(
                    comparison.cells[0].summaries[0],
                    **shared,
                    **{key: value + moves[key][k] if key in moves else value for key, value in base.items()},
                )
                for k in range(3)
            ]
            for moves in ({}, {key: around(*of) for key, of in differences.items()})
        )
        cells = [
            replace(comparison.cells[0], scenario=scenario, policy=name, summaries=tuple(summaries))
            for name, summaries in (("greedy", greedy), ("fluid", fluid))
        ]
        return replace(comparison, cells=tuple(cells), repeats=3, baseline="greedy")

    return changed


def test_what_is_better_throughout_is_used_though_by_little(three: Callable[..., Comparison]) -> None:
    """Measured once, when the rule kept greedy and called the two impossible to tell apart."""
    result = chosen(
        three(
            output_throughput=(1.5, 1.13),
            p99_longest_silence_s=(-0.138, 0.072),
            mean_e2el_ms=(-660.0, 270.0),
            preemptions=(-280.0, 72.0),
        )
    )
    assert result.policy == "fluid"
    assert result.headline == "Overload: use fluid"
    assert "Beside greedy: output throughput 1.5 tok/s higher [0.37 tok/s, 2.63 tok/s]" in result.reason
    assert "p99 longest silence 138 ms lower [66 ms, 210 ms]" in result.reason
    (near,) = result.standings
    assert isinstance(near, Near)
    assert not near.equal
    assert {d.criterion.metric for d in near.worse} == {
        "output_throughput",
        "p99_longest_silence_s",
        "mean_e2el_ms",
        "preemptions",
    }
    assert near.sentence.startswith("worse than fluid by ")
    assert "not shown to be beyond the margins" in near.sentence


def test_better_throughout_needs_no_evictions(three: Callable[..., Comparison]) -> None:
    better = {
        "output_throughput": (1.0, 0.5),
        "p99_longest_silence_s": (-0.05, 0.01),
        "mean_e2el_ms": (-100.0, 50.0),
        "mean_ttft_ms": (-100.0, 50.0),
    }
    assert chosen(three(**better)).policy == "fluid"
    assert chosen(three(**better | {"mean_ttft_ms": (-100.0, 150.0)})).policy == "greedy"


def test_evictions_decide_between_equals(three: Callable[..., Comparison]) -> None:
    assert chosen(three(preemptions=(-50.0, 20.0))).policy == "fluid"
    assert chosen(three(preemptions=(-50.0, 70.0))).policy == "greedy"
    assert chosen(three(recompute_tax=(-0.01, 0.005))).policy == "fluid"
    assert chosen(three(preemptions=(50.0, 20.0))).policy == "greedy"
    # fewer evictions for a latency that may be worse by more than the margin of 1%
    assert chosen(three(preemptions=(-50.0, 20.0), mean_e2el_ms=(450.0, 200.0))).policy == "greedy"


def test_what_is_shown_but_within_the_margins_is_said_and_does_not_matter(three: Callable[..., Comparison]) -> None:
    result = chosen(three(load=0.5, mean_e2el_ms=(-100.0, 50.0)))
    assert result.policy == "greedy"
    assert result.equals == ("fluid",)
    assert result.headline.startswith("The policy does not matter")
    assert dict(result.others)["fluid"] == (
        "better than greedy by mean E2E latency 100 ms lower [50 ms, 150 ms], though within the margins"
    )


def test_a_shown_difference_is_never_called_undecided(three: Callable[..., Comparison]) -> None:
    result = chosen(three(mean_e2el_ms=(-600.0, 550.0), mean_ttft_ms=(0.0, 1500.0)))
    (near,) = result.standings
    assert isinstance(near, Near)
    assert near.undecided is not None
    assert near.undecided.open == ("mean TTFT",)
    assert result.headline == "Nothing is clearly better; keep greedy"


def test_the_repeats_that_would_decide_do(three: Callable[..., Comparison]) -> None:
    """An interval of ±900 ms around 0, and a margin of 500 ms: more values of the same scatter narrow it to that."""
    (undecided,) = chosen(three(mean_e2el_ms=(0.0, 900.0))).standings
    assert isinstance(undecided, Undecided)
    n = undecided.repeats
    assert n is not None
    deviation = 900.0 * sqrt(3) / student_t(2)
    assert student_t(n - 1) * deviation / sqrt(n) <= 500.0 < student_t(n - 2) * deviation / sqrt(n - 1)


def test_one_repeat_decides_nothing_and_asks_for_more(comparison: Comparison) -> None:
    cells = tuple(replace(cell, summaries=cell.summaries[:1]) for cell in comparison.at(comparison.scenarios[0]))
    one = replace(cells[1].summaries[0], mean_e2el_ms=1.005 * cells[1].summaries[0].mean_e2el_ms)
    result = chosen(replace(comparison, cells=(cells[0], replace(cells[1], summaries=(one,))), repeats=1))
    assert "One repeat gives no interval" in result.reason
    assert not any(isinstance(other, Near) for other in result.standings)


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
