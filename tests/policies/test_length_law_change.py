"""How a law of output lengths changes: wider cells, a past that fades, and the table of what an age may expect."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluidgate.policies.parts.length_law import (
    CELLS,
    DEATHS,
    HORIZON_SURVIVAL,
    LAW_SIZE,
    OUTPUT,
    SEEN,
    TIMES,
    WIDTH,
)

from .laws import (
    QUANTILES,
    chances,
    count_completion,
    cover,
    estimate,
    fade,
    horizon,
    learned,
    observe_residents,
    prior_of,
    prior_weight,
    share_above,
    start_table,
    survival,
    survival_of,
    table_of,
)

LENGTHS = st.lists(st.integers(1, 300), max_size=40)
TIMES_AHEAD = np.arange(1.0, TIMES + 1) ** 2


def test_wider_cells_keep_counts_and_survival() -> None:
    rng = np.random.default_rng(5)
    o = rng.integers(1, CELLS + 1, 300)
    law = learned(o, [], *QUANTILES)
    before, deaths = survival_of(law).copy(), law[DEATHS : DEATHS + CELLS].copy()
    cover(law, 0, CELLS)
    assert law[WIDTH] == 1.0
    cover(law, 0, 3 * CELLS)
    assert law[WIDTH] == 4.0
    assert law[DEATHS : DEATHS + CELLS // 4] == pytest.approx(deaths.reshape(-1, 4).sum(axis=1))
    assert law[DEATHS : DEATHS + CELLS].sum() == len(o)
    observe_residents(law, [])
    assert survival_of(law)[: CELLS // 4 + 1] == pytest.approx(before[::4], abs=1e-9)
    tail = prior_of(law)[CELLS // 4 :]  # past what the prior knew: as long again
    assert tail == pytest.approx(tail[0] * (CELLS // 4) / np.arange(CELLS // 4, CELLS + 1))


def test_a_longer_output_or_age_widens_the_cells() -> None:
    law = learned([2 * CELLS], [], 50.0)
    assert law[WIDTH] == 2.0
    observe_residents(law, [2 * CELLS])
    assert law[WIDTH] == 4.0
    observe_residents(law, [4 * CELLS - 1])
    assert law[WIDTH] == 4.0


@pytest.mark.parametrize("filled", [True, False], ids=["rows filled before", "rows filled after"])
def test_wider_cells_keep_what_is_predicted_for_an_age(filled: bool) -> None:
    memory = np.concatenate([learned([40, 90, 160, 300] * 9, [], 200.0), TIMES_AHEAD])
    before = table_of(memory, 0, LAW_SIZE)
    if not filled:
        start_table(memory, 0, LAW_SIZE)
    count_completion(memory, 0, 10, CELLS + 1)
    assert memory[WIDTH] == 2.0
    after = [chances(memory, 0, age) for age in range(CELLS + 10)]
    assert after == pytest.approx(np.array([before[min(age, CELLS - 1)] for age in range(CELLS + 10)]))


@given(LENGTHS, LENGTHS, st.floats(0.0, 1.0))
def test_fading_weighs_the_past(old: list[int], new: list[int], keep: float) -> None:
    law = learned(old, [], *QUANTILES)
    fade(law, 0, keep)
    for output in new:
        count_completion(law, 0, 10, output)
    estimate(law, 0, 0.0)
    x = np.arange(CELLS + 1.0)
    parts = [(keep * len(old), old), (float(len(new)), new)]
    weight = prior_weight(len(old) + len(new))
    total = weight * prior_of(law) + sum(w * share_above(lengths, x) for w, lengths in parts if lengths)
    assert survival_of(law) == pytest.approx(total / (weight + sum(w for w, _ in parts)), abs=1e-9)
    assert law[SEEN] == len(old) + len(new)


def test_residents_are_forgotten_from_one_estimate_to_the_next() -> None:
    law = learned([50] * 30, [200] * 30, *QUANTILES)
    observe_residents(law, [])
    assert survival_of(law) == pytest.approx(survival_of(learned([50] * 30, [], *QUANTILES)))


def test_a_drift_of_lengths_is_followed() -> None:
    """A hundred completions at a time fade by e. The old kind keeps e^-5 of its 1000; the new kind has the rest."""
    law = learned([50] * 1000, [])
    for _ in range(5):
        observe_residents(law, [], keep=1 / np.e)
        for _ in range(100):
            count_completion(law, 0, 10, 250)
    observe_residents(law, [])
    old, new = 1000 * np.exp(-5), 100 * sum(np.exp(-k) for k in range(5))
    assert survival(law, 0, 100.0) == pytest.approx(new / (old + new), abs=0.01)
    assert law[OUTPUT] == pytest.approx(250, rel=0.06)


def test_survival_between_and_past_the_edges() -> None:
    law = learned([100] * 50, [], *QUANTILES)
    edge = survival_of(law)
    assert survival(law, 0, 30.0) == pytest.approx(edge[30])
    assert survival(law, 0, 30.25) == pytest.approx(0.75 * edge[30] + 0.25 * edge[31])
    assert survival(law, 0, 3.0 * CELLS) == pytest.approx(edge[CELLS] / 3)


@given(LENGTHS, LENGTHS)
def test_the_table_is_conditional_survival(completions: list[int], ages: list[int]) -> None:
    memory = np.concatenate([learned(completions, ages, *QUANTILES), TIMES_AHEAD])
    table = table_of(memory, 0, LAW_SIZE)
    assert ((table > 0) & (table <= 1)).all()
    assert (np.diff(table, axis=1) <= 1e-12).all()
    for age in (0, 17, 250):
        middle = age + 0.5
        expected = [survival(memory, 0, middle + t) / survival(memory, 0, middle) for t in TIMES_AHEAD]
        assert table[age] == pytest.approx(expected)


@pytest.mark.parametrize("outputs", [[100] * 4000, list(range(1, 401)) * 10], ids=["one length", "uniform"])
def test_nobody_outlives_the_horizon(outputs: list[int]) -> None:
    law = learned(outputs, [], *QUANTILES)
    end = int(horizon(law, 0))
    assert survival_of(law)[end] <= HORIZON_SURVIVAL < survival_of(law)[end - 1]
    assert end <= max(outputs)


def test_the_horizon_ends_with_the_cells() -> None:
    law = learned([], [], 1000.0)
    assert survival_of(law)[CELLS] > HORIZON_SURVIVAL
    assert horizon(law, 0) == CELLS * law[WIDTH]
