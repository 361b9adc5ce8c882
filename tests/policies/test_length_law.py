"""The law of output lengths: a product-limit estimate on cells, held against closed forms and textbook sums.

A cell holds the lengths from j·width + 1 to (j + 1)·width and takes each for its middle, so means are right to within
half a cell. Where no width is named it is one token, and the survival at whole tokens is exact.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluidgate.policies.parts.length_law import (
    CELLS,
    LAW_SIZE,
    MEANS_WINDOW,
    MEMORY,
    OUTPUT,
    OUTPUT_SPREAD,
    PRIOR_WEIGHT,
    PROMPT,
    SCALE,
    SHARE,
    UNKNOWN_HORIZON,
    UNKNOWN_MEDIAN_TOKENS,
    UNKNOWN_SHARE,
    UNKNOWN_WEIGHT,
    WIDTH,
    new_law,
)

from .laws import (
    QUANTILES,
    Floats,
    count_completion,
    count_departure,
    estimate,
    fade,
    horizon,
    learned,
    prior_of,
    prior_weight,
    share_above,
    survival,
    survival_of,
)

LENGTHS = st.lists(st.integers(1, 300), max_size=40)


def product_limit(persons: list[tuple[float, int, bool]]) -> Floats:
    """Kaplan and Meier's estimate from (weight, last cell begun, whether it ended there), textbook fashion."""
    alive = [1.0]
    for cell in range(CELLS):
        at_risk = sum(weight for weight, last, _ in persons if last >= cell)
        ended = sum(weight for weight, last, died in persons if last == cell and died)
        alive.append(alive[-1] * (1 - ended / at_risk) if at_risk > 0 else 0.0)
    return np.array(alive)


@given(LENGTHS, LENGTHS)
def test_it_is_the_product_limit_estimate(completions: list[int], ages: list[int]) -> None:
    """A resident leaves the sample half before and half after the cell of its age; the prior is a crowd of its own."""
    law = learned(completions, ages, *QUANTILES)
    prior, weight = prior_of(law), prior_weight(len(completions))
    persons = [(weight * (prior[j] - prior[j + 1]), j, True) for j in range(CELLS)]
    persons += [(weight * prior[CELLS], CELLS, False)]
    persons += [(1.0, output - 1, True) for output in completions]
    persons += [(0.5, last, False) for age in ages for last in (age - 1, age)]
    assert survival_of(law) == pytest.approx(product_limit(persons), abs=1e-9)


@given(LENGTHS, LENGTHS)
def test_those_who_leave_count_for_the_ages_that_they_reached(completions: list[int], ages: list[int]) -> None:
    """As the residents of the last count do: nobody knows how long either would have run."""
    law, of_residents = learned(completions, [], *QUANTILES), learned(completions, ages, *QUANTILES)
    for age in ages:
        count_departure(law, 0, age)
    estimate(law, 0, 0.0)
    assert survival_of(law) == pytest.approx(survival_of(of_residents), abs=1e-9)


def test_clients_that_leave_do_not_make_outputs_look_short() -> None:
    """Memoryless outputs of 100 tokens on average, and all leave at 60: 45% end before, and the law says so."""
    rng = np.random.default_rng(1)
    outputs = np.ceil(rng.exponential(100.0, 4000)).astype(int)
    law = learned(outputs[outputs <= 60], [])
    for _ in range((outputs > 60).sum()):
        count_departure(law, 0, 60)
    estimate(law, 0, 0.0)
    assert survival(law, 0, 59.0) == pytest.approx(np.exp(-0.59), abs=0.03)


@given(LENGTHS)
def test_without_residents_it_is_a_mixture_of_sample_and_prior(completions: list[int]) -> None:
    law = learned(completions, [], *QUANTILES)
    weight, n = prior_weight(len(completions)), len(completions)
    sample = share_above(completions, np.arange(CELLS + 1.0)) if completions else 0.0
    assert law[WIDTH] == 1.0
    assert survival_of(law) == pytest.approx((n * sample + weight * prior_of(law)) / (n + weight), abs=1e-9)


def test_the_prior_is_quantiles_and_a_little_doubt() -> None:
    law = learned([], [], *QUANTILES)
    x = np.arange(1.0, CELLS + 1)
    doubt = 1 / (1 + x / 60)
    expected = UNKNOWN_SHARE * doubt + (1 - UNKNOWN_SHARE) * share_above([20, 60, 100], x)
    assert survival_of(law)[0] == 1.0
    assert survival_of(law)[1:] == pytest.approx(expected, abs=1e-9)
    assert survival_of(law)[1:] == pytest.approx(prior_of(law)[1:], abs=1e-9)


@pytest.mark.parametrize("tokens", [0, 40, CELLS, 8 * CELLS])
def test_nothing_known_is_as_long_again(tokens: int) -> None:
    law = learned([], [])
    assert survival(law, 0, tokens) == pytest.approx(1 / (1 + tokens / UNKNOWN_MEDIAN_TOKENS), abs=1e-9)
    assert survival(law, 0, 2 * tokens + UNKNOWN_MEDIAN_TOKENS) == pytest.approx(
        0.5 * survival(law, 0, tokens), rel=1e-9
    )


def test_ignorance_takes_its_measure_from_what_is_seen() -> None:
    """Past the longest output seen, a request runs as long again as tokens have been generated per completion."""
    outputs, ages = [20] * 10, [30] * 4
    law = learned(outputs, ages)
    scale = law[SCALE]
    generated = UNKNOWN_MEDIAN_TOKENS * UNKNOWN_WEIGHT + sum(outputs) + sum(ages)
    assert scale == pytest.approx(generated / (len(outputs) + UNKNOWN_WEIGHT), rel=0.01)
    for tokens in (40, 2 * CELLS):
        assert survival(law, 0, 2 * tokens + scale) == pytest.approx(0.5 * survival(law, 0, tokens), rel=0.01)
    assert learned(outputs, [300] * 4)[SCALE] > 2 * scale  # who runs on without an end says: longer
    assert learned(outputs, ages, *QUANTILES)[SCALE] == 0.0


def test_one_completion_says_more_than_ignorance() -> None:
    law = learned([20], [])
    assert survival(law, 0, 30) < 0.5 < survival(learned([], []), 0, 30)


def test_the_look_ahead_of_ignorance_ends_with_memory() -> None:
    law = learned([], [])
    assert horizon(law, 0) == UNKNOWN_HORIZON * UNKNOWN_MEDIAN_TOKENS
    assert horizon(law, 0, 300.0) == 300.0
    assert horizon(learned([], [], *QUANTILES), 0, 300.0) == horizon(learned([], [], *QUANTILES), 0)


def test_cells_leave_room_for_half_as_long_again() -> None:
    for longest, width in ((1, 1), (341, 1), (342, 2), (682, 2), (683, 4), (30_000, 128)):
        law = new_law(0.25, 7.0, np.array([1.0, longest]))
        assert (law[WIDTH], law[SHARE], law[PROMPT], len(law)) == (width, 0.25, 7.0, LAW_SIZE)


@pytest.mark.parametrize("scale", [1, 7], ids=["cells of a token", "cells of 8 tokens"])
def test_many_completions_give_the_moments_of_the_sample(scale: int) -> None:
    """E[o], its spread, and E[a] = l·E[o] + E[o(o - 1)]/2 with prompts of l tokens: o iterations, of l, l + 1, … KV."""
    rng = np.random.default_rng(3)
    o = scale * np.clip(rng.gamma(3.0, 40.0, 3000), 1, 500).astype(int)
    law = learned(o, [], float(o.max()) / 1.5)
    width = law[WIDTH]
    assert width == (1 if scale == 1 else 8)
    share = prior_weight(len(o)) / len(o)  # of the prior, whose lengths are of the same order
    assert survival_of(law) == pytest.approx(share_above(o, width * np.arange(CELLS + 1)), abs=2 * share)
    assert law[OUTPUT] == pytest.approx(o.mean(), abs=width / 2 + share * o.max())
    assert law[OUTPUT_SPREAD] == pytest.approx(o.std(), abs=width / 2 + share * o.max())
    kv = 10 * o.mean() + (o * (o - 1.0)).mean() / 2
    assert law[MEMORY] == pytest.approx(kv, abs=(10 + o.mean()) * width / 2 + share * o.max() ** 2)
    assert law[PROMPT] == pytest.approx(10.0)


def test_rounding_to_blocks_adds_to_every_iteration() -> None:
    law = learned([80] * 20, [])
    before = law[MEMORY]
    fade(law, 0, 1.0)
    estimate(law, 0, 7.5)
    assert law[MEMORY] == pytest.approx(before + 7.5 * law[OUTPUT])


def test_the_mean_prompt_follows_the_traffic() -> None:
    law = new_law(1.0, 100.0, np.array([5.0]))
    for _ in range(int(PRIOR_WEIGHT)):
        count_completion(law, 0, 300, 5)
    assert law[PROMPT] == pytest.approx(200.0, abs=4.0)  # as many completions as the prior counts for
    for _ in range(int(5 * MEANS_WINDOW)):
        count_completion(law, 0, 300, 5)
    assert law[PROMPT] == pytest.approx(300.0, rel=0.01)


@pytest.mark.parametrize(("most_seen", "running"), [(400, 0.5), (160, 0.8)])
def test_those_still_running_do_not_bias_it(most_seen: int, running: float) -> None:
    """Lengths uniform to 400, each watched for at most `most_seen` iterations; who ends meanwhile is short."""
    rng = np.random.default_rng(11)
    o = rng.integers(1, 401, 4000)
    watched = rng.integers(0, most_seen + 1, len(o))
    finished = o <= watched
    assert finished.mean() == pytest.approx(1 - running, abs=0.02)
    law = learned(o[finished], watched[~finished].tolist(), 200.0)
    alone = learned(o[finished], [], 200.0)
    within = np.arange(0.9 * most_seen)
    truth = share_above(o, within)
    assert np.abs(survival_of(law)[: len(within)] - truth).max() < 0.05
    assert np.abs(survival_of(alone)[: len(within)] - truth).max() > 0.2
