"""The sequential test and the bisection: how often they err, and what they find, on values of known mean."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluidgate.errors import InputError
from fluidgate.runs.frontier import Rule, bisect, decide, decide_all, until_decided

RULE = Rule(tolerance=0.05, alpha=0.05, replications=16)


def drift_series(kind: str, mean: float, rng: np.random.Generator) -> Iterator[list[float]]:
    """Work left behind per replication, deviation 1: the end of a random walk with normal or skewed steps."""
    while True:
        steps = rng.normal(size=50) if kind == "normal" else rng.exponential(size=50) - 1.0
        yield [mean + float(steps.sum()) / 50**0.5]


@pytest.mark.parametrize("kind", ["normal", "skewed"])
@pytest.mark.parametrize(("sign", "wrong"), [(1.0, True), (-1.0, False)])
def test_one_rate_errs_at_most_at_its_level(kind: str, sign: float, wrong: bool) -> None:
    """At the edge of a hypothesis, where it errs most; `level` is that of one look."""
    rule = Rule(tolerance=0.5, alpha=0.45, replications=16)  # a level that 2000 trials can measure
    rng = np.random.default_rng(7)
    trials = 2000
    errors = sum(until_decided(drift_series(kind, sign * 1e-9, rng), rule).stable is wrong for _ in range(trials))
    allowed = rule.level * len(rule.looks)
    assert errors <= trials * allowed + 3 * (trials * allowed) ** 0.5
    assert errors > 0.2 * trials * rule.level  # a test that never decides would pass the line above


@pytest.mark.parametrize("common", [True, False], ids=["common random numbers", "independent rates"])
def test_the_interval_misses_at_most_alpha(common: bool) -> None:
    rng = np.random.default_rng(11)
    searches, missed, told = 400, 0, 0
    for _ in range(searches):
        frontier = float(rng.uniform(0.6, 1.6))
        noise = rng.normal(scale=0.05, size=RULE.replications)

        def values(load: float, frontier: float = frontier, noise: np.ndarray = noise) -> Iterator[list[float]]:
            own = noise if common else rng.normal(scale=0.05, size=RULE.replications)
            return iter((load - frontier + own)[:, np.newaxis].tolist())

        stable, unstable = bisect(
            lambda index, values=values: until_decided(values(RULE.load(index)), RULE).stable, RULE.depth
        )
        low = RULE.load(stable) if stable >= 0 else 0.0
        high = RULE.load(unstable) if unstable < 2**RULE.depth - 1 else np.inf
        missed += not low <= frontier <= high
        told += high <= low * 1.2
    assert missed <= RULE.alpha * searches
    assert told > 0.9 * searches  # intervals are short enough to say something


@given(st.integers(0, 255), st.integers(1, 8))
def test_without_noise_the_bisection_brackets_the_change_by_one_step(change: int, depth: int) -> None:
    last = 2**depth - 1
    change = min(change, last)  # the first unstable index; `last`: none
    asked: list[int] = []

    def test(index: int) -> bool:
        asked.append(index)
        return index < change

    assert bisect(test, depth) == (change - 1, change)
    assert len(asked) == len(set(asked)) <= depth
    assert all(0 <= index < last for index in asked)


@given(st.integers(0, 126), st.integers(0, 126))
def test_what_cannot_be_told_widens_the_interval_and_nothing_else(a: int, b: int) -> None:
    first_unclear, first_unstable = sorted((a, b))

    def test(index: int) -> bool | None:
        return True if index < first_unclear else False if index >= first_unstable else None

    assert bisect(test, 7) == (first_unclear - 1, first_unstable)


def test_nothing_told_leaves_the_interval_open() -> None:
    assert bisect(lambda index: None, 5) == (-1, 31)


def test_decide_against_a_t_table() -> None:
    # t(3 df, one-sided 5%) = 2.353; the mean of 1, 2, 3, 4 is 2.5, its standard error 0.6455
    found = decide([1.0, 2.0, 3.0, 4.0], 0.05)
    assert (found.low, found.high) == pytest.approx((2.5 - 2.353 * 0.6455, 2.5 + 2.353 * 0.6455), rel=1e-3)
    assert found.stable is False
    assert decide([-1.0, -2.0, -3.0, -4.0], 0.05).stable is True
    assert decide([-1.0, 2.0, -3.0, 4.0], 0.05).stable is None


def test_more_replications_are_taken_only_while_nothing_is_told() -> None:
    taken: list[float] = []

    def values(mean: float) -> Iterator[list[float]]:
        for value in mean + np.tile([1.0, -1.0], 50):
            taken.append(value)
            yield [float(value)]

    assert until_decided(values(1e6), RULE).stable is False
    assert len(taken) == 4
    taken.clear()
    found = until_decided(values(0.0), RULE)
    assert found.stable is None
    assert found.replications == len(taken) == RULE.replications


def test_of_several_quantities_all_must_be_below_and_the_farthest_above_is_named() -> None:
    rng = np.random.default_rng(3)
    noise = rng.normal(scale=0.1, size=(8, 3))
    assert decide_all(noise + np.array([-1.0, -2.0, -3.0]), 0.05).stable is True
    mixed = decide_all(noise + np.array([-1.0, 2.0, 1.0]), 0.05)
    assert (mixed.stable, mixed.place) == (False, 1)
    assert decide_all(noise + np.array([-1.0, 0.0, -3.0]), 0.05).stable is None
    single = decide_all(noise[:, :1], 0.05)
    assert single == decide(noise[:, 0], 0.05)


def test_an_infinite_value_is_beyond_any_doubt() -> None:
    assert decide([0.0, -1.0, np.inf, -2.0], 0.05).stable is False
    found = decide_all([[-1.0, -1.0], [-1.1, np.inf], [-0.9, -1.0], [-1.0, -1.0]], 0.05)
    assert (found.stable, found.place) == (False, 1)


def test_that_one_of_many_is_above_errs_at_most_at_the_level() -> None:
    """With all means at 0 one of five looks above far more often than one; Bonferroni's share keeps the level."""
    rng = np.random.default_rng(5)
    trials, level = 2000, 0.1
    errors = sum(decide_all(rng.normal(size=(6, 5)), level).stable is False for _ in range(trials))
    assert 0.3 * level * trials < errors <= trials * level + 3 * (trials * level) ** 0.5


def test_the_levels_of_all_tests_on_a_path_add_up_to_alpha() -> None:
    rule = Rule(tolerance=0.01, alpha=0.05, replications=20)
    assert rule.looks == (4, 8, 16, 20)
    assert rule.level * rule.depth * len(rule.looks) == pytest.approx(0.05)
    loads = [rule.load(index) for index in range(2**rule.depth - 1)]
    assert np.diff(np.log(loads)) == pytest.approx(np.log(1.01))
    assert loads[0] < 0.5 < 2.0 < loads[-1]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tolerance": 0.0}, "tolerance 0.0 must be"),
        ({"tolerance": float("nan")}, "tolerance nan must be"),
        ({"alpha": 0.0}, "alpha 0.0 must be"),
        ({"alpha": float("nan")}, "alpha nan must be"),
        ({"replications": 3}, "3 replications are too few"),
    ],
)
def test_rules_that_cannot_work_are_refused(settings: dict[str, float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Rule(**settings)  # type: ignore[arg-type]
