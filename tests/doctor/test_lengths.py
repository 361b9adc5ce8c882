"""What a histogram leaves open of a law of lengths: bounds that hold for every law with these buckets and this mean."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluidgate.doctor.lengths import LengthLaw, even_spread, least_spread, most_spread
from fluidgate.errors import InputError
from fluidgate.vllm_metrics.histogram import Histogram

EDGES = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, inf]
LENGTHS = st.lists(st.integers(1, 500), min_size=1, max_size=40)


def of_values(values: list[int]) -> Histogram:
    up_to = [float(sum(value <= edge for value in values)) for edge in EDGES]
    return Histogram.of_cumulative(EDGES, up_to, float(sum(values)), "test")


def second_moment(law: tuple[np.ndarray, np.ndarray]) -> float:
    values, weights = law
    return float((values**2 * weights).sum() / weights.sum())


def mean(law: tuple[np.ndarray, np.ndarray]) -> float:
    values, weights = law
    return float((values * weights).sum() / weights.sum())


@given(LENGTHS)
def test_the_bounds_hold_the_law_the_histogram_was_made_of(values: list[int]) -> None:
    histogram = of_values(values)
    seen = histogram.counts > 0
    low = (histogram.lower_edges + (histogram.lower_edges > 0))[seen]
    high = np.minimum(histogram.edges, 500.0)[seen]
    arguments = histogram.counts[seen], low, high, histogram.mean
    least, even, most = least_spread(*arguments), even_spread(*arguments), most_spread(*arguments)
    true = float(np.mean(np.square(values)))
    for law in (least, even, most):
        assert mean(law) == pytest.approx(histogram.mean, rel=1e-3)
    assert second_moment(least) <= true * (1 + 1e-9)
    assert second_moment(most) >= true * (1 - 1e-9)
    assert second_moment(least) * (1 - 2e-3) <= second_moment(even) <= second_moment(most) * (1 + 2e-3)


def test_the_bounds_by_hand() -> None:
    """Two buckets, (0, 10] and (10, 30], one value in each, of mean 15: the sum is 30.

    Least: one level m for both is clipped to 10 and 20, so 10² + 20². Most: the large one takes 19 of the 19 tokens it
    can, from 11 to 30, which leaves 0: 0² + 30².
    """
    arguments = np.ones(2), np.array([0.0, 11.0]), np.array([10.0, 30.0]), 15.0
    assert second_moment(least_spread(*arguments)) == pytest.approx((100 + 400) / 2)
    assert second_moment(most_spread(*arguments)) == pytest.approx(900 / 2)


def test_a_mix_of_one_length_is_exact() -> None:
    """A bucket edge as the only length: every law of spread is that length where the mean says so."""
    law = LengthLaw(of_values([100] * 5), of_values([50] * 5), 10_000)
    for spread in ("least", "even", "most"):
        mix = law.mix(spread, 3.0)
        assert mix.total_rate == pytest.approx(3.0)
        assert set(mix.prompt_tokens) == {100}
        assert set(mix.output_tokens) == {50}


def test_a_request_that_cannot_fit_is_not_in_the_mix() -> None:
    law = LengthLaw(of_values([60, 480]), of_values([30, 70]), 520)
    mix = law.mix("most", 1.0)
    assert (mix.peak_kv_tokens <= 520).all()
    with pytest.raises(InputError, match="does not lie in their buckets"):
        LengthLaw(of_values([450]), of_values([30]), 100).mix("even", 1.0)


def test_values_beyond_the_last_edge_are_taken_to_reach_further() -> None:
    law = LengthLaw(of_values([900]), of_values([50]), 10_000)
    assert law.mix("most", 1.0).prompt_tokens.max() <= 2.5 * 500
    assert law.mix("even", 1.0).mean(law.mix("even", 1.0).prompt_tokens) == pytest.approx(900, rel=0.01)


def test_a_mean_outside_its_buckets_is_refused() -> None:
    broken = Histogram(np.array([10.0, inf]), np.array([4.0, 0.0]), 400.0)
    with pytest.raises(InputError, match="a mean of 100 tokens does not lie in their buckets"):
        LengthLaw(broken, of_values([50]), 10_000).mix("even", 1.0)


@pytest.mark.parametrize(
    ("edges", "up_to", "total"),
    [([1.0, 2.0], [1, 2], 3.0), ([1.0, inf], [3, 2], 3.0), ([1.0, inf], [1, 2], inf), ([inf], [1], 1.0)],
)
def test_a_broken_histogram_is_refused(edges: list[float], up_to: list[float], total: float) -> None:
    with pytest.raises(InputError, match="vllm:x: "):
        Histogram.of_cumulative(edges, up_to, total, "vllm:x")


def test_quantiles_and_tails_of_a_histogram() -> None:
    histogram = of_values([1, 3, 4, 15, 60])
    assert histogram.quantile(0.2) == (0.0, 1.0)
    assert histogram.quantile(0.5) == (2.0, 5.0)
    assert histogram.quantile(1.0) == (50.0, 100.0)
    assert histogram.above(10.0) == 2
    assert histogram.above(15.0) == 1, "15 lies in (10, 20], which does not lie above 15"
