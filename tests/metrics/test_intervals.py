"""Intervals over repeats, against scipy.stats."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from fluidgate.errors import InputError
from fluidgate.metrics import METRICS, aggregate, mean_interval, paired_difference, summarize


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("n", [2, 3, 10, 200])
def test_mean_interval_is_student_t(n, level):
    values = np.random.default_rng(n).normal(5, 2, n)
    interval = mean_interval(values, level)
    low, high = stats.t.interval(level, n - 1, loc=values.mean(), scale=stats.sem(values))
    assert (interval.mean, interval.n) == (pytest.approx(values.mean()), n)
    assert (interval.low, interval.high) == (pytest.approx(low), pytest.approx(high))


def test_one_value_has_no_interval():
    interval = mean_interval([3.0])
    assert interval.mean == 3
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def test_a_missing_repeat_is_not_dropped_from_the_average():
    interval = mean_interval([1.0, math.nan, 3.0])
    assert math.isnan(interval.mean)
    assert math.isnan(interval.low)
    assert interval.n == 3


@pytest.mark.parametrize(
    ("values", "level", "message"),
    [([], 0.95, "at least one"), ([[1.0]], 0.95, "shape"), ([1.0], 95, "such as 0.95"), ([1.0], math.nan, "0.95")],
)
def test_mean_interval_refuses(values, level, message):
    with pytest.raises(InputError, match=message):
        mean_interval(values, level)


def test_paired_difference_is_the_paired_t_test():
    rng = np.random.default_rng(0)
    seed_effect = rng.normal(100, 30, 8)
    own, base = seed_effect + rng.normal(5, 1, 8), seed_effect
    difference = paired_difference(own, base)
    expected = stats.ttest_rel(own, base).confidence_interval(0.95)
    assert (difference.low, difference.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert difference.low > 0
    assert difference.relative.mean == pytest.approx(np.mean(own / base - 1))


def test_paired_difference_by_hand():
    difference = paired_difference([2.0, 6.0], [1.0, 4.0])
    # differences 1, 2: mean 1.5, standard error 0.5; t(0.975, 1) = 12.7062; relative 1, 0.5
    assert difference.mean == 1.5
    assert difference.high - difference.mean == pytest.approx(6.3531, rel=1e-4)
    assert difference.relative.mean == pytest.approx(0.75)


def test_no_relative_difference_from_zero():
    difference = paired_difference([1.0, 2.0], [0.0, 4.0])
    assert difference.mean == -0.5
    assert math.isnan(difference.relative.mean)


def test_pairs_must_match():
    with pytest.raises(InputError, match="3 values cannot be paired with 2"):
        paired_difference([1.0, 2.0, 3.0], [1.0, 2.0])


def test_aggregate_covers_every_metric(make_records):
    one = summarize(make_records([0.0, 1.0], last_token_s=[0.5, 4.0]))
    other = replace(one, request_throughput=1.5, preemptions=4)
    intervals = aggregate([one, other])
    assert intervals.keys() == METRICS.keys()
    assert intervals["request_throughput"].mean == pytest.approx(1.0)  # 2 requests in 4 s, and 1.5
    assert intervals["preemptions"] == mean_interval([0, 4])
    assert math.isnan(intervals["goodput_share"].mean)
    with pytest.raises(InputError, match="nothing to aggregate"):
        aggregate([])
