"""Length distributions against their closed forms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluidgate.errors import InputError
from fluidgate.workload import (
    Discrete,
    Empirical,
    Fixed,
    Independent,
    JointMixture,
    LognormalMixture,
    Types,
    max_entropy,
    survival,
)

MIX = LognormalMixture((0.72, 0.28), (4.63, 6.01), (0.70, 0.052), high=1000)
DISTRIBUTIONS = [
    Fixed(7),
    Discrete([3, 50], [1, 3]),
    Empirical([5, 5, 9]),
    MIX,
    LognormalMixture((1,), (0.0,), (1.5,), low=2, high=30),
]


@pytest.mark.parametrize("lengths", DISTRIBUTIONS, ids=lambda d: type(d).__name__)
def test_samples_have_the_mean_and_extend(lengths):
    drawn = lengths.sample(200_000, np.random.default_rng(1))
    assert drawn.dtype == np.int64
    assert drawn.min() >= 1
    assert abs(drawn.mean() - lengths.mean) <= 5 * drawn.std() / np.sqrt(len(drawn)) + 1e-12
    np.testing.assert_array_equal(lengths.sample(100, np.random.default_rng(1)), drawn[:100])


def test_lognormal_mean_is_the_closed_form_plus_half_a_token():
    wide = LognormalMixture((0.4, 0.6), (5.0, 6.0), (0.5, 0.8))
    closed = 0.4 * np.exp(5 + 0.5**2 / 2) + 0.6 * np.exp(6 + 0.8**2 / 2)
    assert wide.mean == pytest.approx(closed + 0.5, abs=0.01)


def test_lognormal_components_have_their_share_and_median():
    drawn = LognormalMixture((0.3, 0.7), (2.0, 8.0), (0.1, 0.1)).sample(100_000, np.random.default_rng(2))
    low = drawn < 100
    assert low.mean() == pytest.approx(0.3, abs=0.01)
    assert np.median(drawn[low]) == np.ceil(np.exp(2.0))
    assert np.median(drawn[~low]) == pytest.approx(np.exp(8.0), rel=0.005)
    assert np.log(drawn[~low]).std() == pytest.approx(0.1, rel=0.02)


def test_lognormal_is_clipped_at_both_ends():
    drawn = LognormalMixture((1,), (3.0,), (5.0,), low=4, high=60).sample(10_000, np.random.default_rng(3))
    assert (drawn.min(), drawn.max()) == (4, 60)


def test_extreme_lognormals_stay_in_range():
    drawn = LognormalMixture((1,), (30.0,), (10.0,)).sample(10_000, np.random.default_rng(4))
    assert drawn.min() >= 1
    assert drawn.max() == 131_072


def test_empirical_counts_are_repetitions():
    counted, repeated = Empirical([9, 5], [2, 6]), Empirical([5, 9, 5, 5, 9, 5, 5, 5])
    np.testing.assert_array_equal(counted.values, repeated.values)
    np.testing.assert_array_equal(counted.weights, repeated.weights)
    assert counted.mean == pytest.approx((2 * 9 + 6 * 5) / 8)


def test_discrete_never_draws_weight_zero():
    drawn = Discrete([1, 2, 3], [0, 1, 0]).sample(1000, np.random.default_rng(5))
    assert set(drawn) == {2}


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60))
def test_survival_counts_longer_ones_and_sums_to_the_mean(values):
    s = survival(values)
    assert len(s) == max(values) + 1
    for k in range(len(s)):
        assert s[k] == pytest.approx(sum(v > k for v in values) / len(values))
    assert s.sum() == pytest.approx(np.mean(values))
    assert s[0] == 1
    assert s[-1] == 0


@pytest.mark.parametrize("bad", [[], [0, 3], [2.5], [-1], [float("nan")], ["a"], [[1, 2]]])
def test_survival_refuses_what_is_no_length(bad):
    with pytest.raises(InputError, match="survival: "):
        survival(bad)


def test_independent_streams_do_not_touch_each_other():
    """Another prompt distribution leaves the outputs as they were."""
    outputs = [Independent(p, MIX).sample(500, np.random.default_rng(6))[1] for p in (Fixed(1), MIX)]
    np.testing.assert_array_equal(*outputs)
    prompt, output, _ = Independent(MIX, MIX).sample(50_000, np.random.default_rng(6))
    assert abs(np.corrcoef(prompt, output)[0, 1]) < 5 / np.sqrt(50_000)


def test_joint_mixture_ties_outputs_to_prompts():
    joint = JointMixture.from_rows([(0.5, 2, 0.1, 7, 0.1), (0.5, 7, 0.1, 2, 0.1)], 5000, 5000)
    prompt, output, kind = joint.sample(20_000, np.random.default_rng(7))
    np.testing.assert_array_equal(prompt < 100, output > 100)
    assert not kind.any()
    assert prompt.mean() == pytest.approx(joint.prompt.mean, rel=0.03)
    assert output.mean() == pytest.approx(joint.output.mean, rel=0.03)


def test_types_are_exact_and_classed():
    types = Types((20, 20, 20), (100, 200, 300), (6, 4, 8), ("a", "b", "c"))
    prompt, output, kind = types.sample(90_000, np.random.default_rng(8))
    assert set(prompt) == {20}
    np.testing.assert_array_equal(output, np.array([100, 200, 300])[kind])
    np.testing.assert_allclose(np.bincount(kind) / 90_000, np.array([6, 4, 8]) / 18, atol=0.008)


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=5),
    st.lists(st.floats(0.05, 1), min_size=5, max_size=5),
    st.floats(0.05, 0.95),
)
def test_max_entropy_meets_shares_and_mean(widths, raw, place):
    cuts = np.cumsum(widths).tolist()
    shares = np.array(raw[: len(cuts)]) / sum(raw[: len(cuts)])
    lowest = shares @ np.array([1, *(c + 1 for c in cuts[:-1])])
    highest = shares @ np.array(cuts)
    mean = lowest + place * (highest - lowest)
    if highest - lowest < 1e-6:
        return
    found = max_entropy(cuts, shares.tolist(), mean)
    assert found.mean == pytest.approx(mean, abs=1e-6)
    parts = [w.sum() for w in np.split(np.asarray(found.weights), cuts[:-1])]
    np.testing.assert_allclose(parts, shares, atol=1e-9)


def test_max_entropy_of_the_middle_mean_is_uniform():
    np.testing.assert_allclose(max_entropy([9], [1.0], 5.0).weights, np.full(9, 1 / 9), atol=1e-9)


@pytest.mark.parametrize(
    ("cuts", "shares", "mean", "why"),
    [
        ((10, 20), (0.5, 0.5), 30, "no distribution with these shares has mean 30"),
        ((10, 20), (0.5, 0.5), 2, "no distribution with these shares has mean 2"),
        ((20, 10), (0.5, 0.5), 9, "cuts must rise"),
        ((10, 20), (0.5, 0.6), 9, "adding up to 1"),
        ((10, 20), (1.0,), 9, "one share each"),
    ],
)
def test_max_entropy_refuses_the_impossible(cuts, shares, mean, why):
    with pytest.raises(InputError, match=why):
        max_entropy(cuts, shares, mean)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Fixed(0), "at least 1"),
        (lambda: Fixed(2.5), "whole number"),
        (lambda: Discrete([1, 2], [1]), "one weight per value"),
        (lambda: Discrete([], []), "one weight per value"),
        (lambda: Discrete([0], [1]), "at least 1"),
        (lambda: Discrete([1.5], [1]), "whole numbers"),
        (lambda: Discrete([1], [0]), "not all 0"),
        (lambda: Discrete([1, 2], [2, -1]), "not be negative"),
        (lambda: Discrete([1], [float("nan")]), "finite"),
        (lambda: Discrete(["a"], [1]), "not a list of numbers"),
        (lambda: Empirical([]), "one count per value"),
        (lambda: Empirical([1, 2], [1]), "one count per value"),
        (lambda: Empirical([-3]), "at least 1"),
        (lambda: LognormalMixture((1,), (1, 2), (1,)), "one value per component"),
        (lambda: LognormalMixture((), (), ()), "one value per component"),
        (lambda: LognormalMixture((0.5, 0.4), (1, 2), (1, 1)), "add up to 1"),
        (lambda: LognormalMixture((1.5, -0.5), (1, 2), (1, 1)), "none below 0"),
        (lambda: LognormalMixture((1,), (1,), (0,)), "sigma must be in"),
        (lambda: LognormalMixture((1,), (float("nan"),), (1,)), "finite"),
        (lambda: LognormalMixture((1,), (99,), (1,)), "mu in"),
        (lambda: LognormalMixture((1,), (1,), (1,), low=0), "1 ≤ low ≤ high"),
        (lambda: LognormalMixture((1,), (1,), (1,), low=9, high=8), "1 ≤ low ≤ high"),
        (lambda: JointMixture(MIX, LognormalMixture((1,), (1,), (1,))), "weights must be equal"),
        (lambda: Types((1,), (1, 2), (1, 1), ("a", "b")), "per type"),
        (lambda: Types((1,), (0,), (1,), ("a",)), "at least 1"),
    ],
)
def test_impossible_parameters_are_refused(make, why):
    with pytest.raises(InputError, match=why):
        make()
