"""The forecast of memory: each request runs on or has ended, by itself; all outcomes together are counted out."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fluidgate.kernel import interpreted
from fluidgate.policies.parts import forecast
from fluidgate.policies.parts.forecast import FORECAST_SIZE
from fluidgate.policies.parts.length_law import ALIVE, CELLS, FILLED, LAW_SIZE, PER_TOKEN, TIMES, new_law

from .laws import estimate, fade, start_table, survival

Floats = NDArray[np.float64]

add_request = interpreted(forecast.add_request)
clear_forecast = interpreted(forecast.clear_forecast)
copy_forecast = interpreted(forecast.copy_forecast)
peak = interpreted(forecast.peak)

LAW = 3
GRID = LAW + LAW_SIZE
FIRST = GRID + TIMES
SECOND = FIRST + FORECAST_SIZE
"""Where things lie in the memory of these tests; the law not at its beginning, as in a policy's."""

WIDTH_TOKENS = 4.0

REQUESTS = st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 3000)), max_size=7)
"""KV tokens and age."""


def blank(seed: int) -> Floats:
    """Memory with any table of survival, and times 1, 3, 5, …"""
    memory = np.zeros(SECOND + FORECAST_SIZE)
    memory[LAW + PER_TOKEN] = 1.0 / WIDTH_TOKENS
    memory[LAW + FILLED : LAW + FILLED + CELLS] = 1.0
    memory[LAW + ALIVE : LAW + LAW_SIZE] = np.random.default_rng(seed).random(CELLS * TIMES)
    memory[GRID : GRID + TIMES] = times()
    return memory


def times() -> Floats:
    return 2.0 * np.arange(TIMES) + 1.0


def add(memory: Floats, at: int, requests: list[tuple[int, int]]) -> None:
    for kv_tokens, age in requests:
        add_request(memory, at, GRID, LAW, kv_tokens, age)


def chances(memory: Floats, age: int) -> Floats:
    """Whether a request of an age still runs, by time; the last cell is for every greater age."""
    return memory[LAW + ALIVE : LAW + LAW_SIZE].reshape(CELLS, TIMES)[min(CELLS - 1, age // 4)]


@given(REQUESTS, st.integers(0, 9))
def test_mean_and_variance_are_those_of_all_outcomes(requests: list[tuple[int, int]], seed: int) -> None:
    memory = blank(seed)
    add(memory, FIRST, requests)
    first, second = np.zeros(TIMES), np.zeros(TIMES)
    for outcome in product((False, True), repeat=len(requests)):
        chance, held = np.ones(TIMES), np.zeros(TIMES)
        for runs, (kv_tokens, age) in zip(outcome, requests, strict=True):
            p = chances(memory, age)
            chance *= p if runs else 1 - p
            held += (kv_tokens + times()) * runs
        first += chance * held
        second += chance * held**2
    assert memory[FIRST : FIRST + TIMES] == pytest.approx(first)
    largest = max(1.0, second.max())
    assert memory[FIRST + TIMES : FIRST + FORECAST_SIZE] == pytest.approx(second - first**2, abs=1e-9 * largest)


@given(REQUESTS, REQUESTS)
def test_forecasts_add_up(some: list[tuple[int, int]], others: list[tuple[int, int]]) -> None:
    memory = blank(1)
    add(memory, FIRST, some)
    add(memory, SECOND, others)
    apart = memory[FIRST:SECOND] + memory[SECOND:]
    add(memory, FIRST, others)
    assert memory[FIRST:SECOND] == pytest.approx(apart)


def test_a_trial_leaves_the_original_alone() -> None:
    memory = blank(2)
    add(memory, FIRST, [(100, 5), (30, 700)])
    original = memory[FIRST:SECOND].copy()
    copy_forecast(memory, FIRST, SECOND)
    add(memory, SECOND, [(9, 9)])
    assert memory[FIRST:SECOND].tolist() == original.tolist()
    assert (memory[SECOND:] > 0).all()
    clear_forecast(memory, SECOND)
    assert memory[FIRST:SECOND].tolist() == original.tolist()
    assert not memory[SECOND:].any()


def test_the_peak_may_move_with_the_margin() -> None:
    # Means 50 and 40 with deviations 3 and 9: 50 at margin 0, 40 + 2·9 = 58 > 50 + 2·3 at margin 2.
    memory = np.zeros(FORECAST_SIZE)
    memory[[4, 11]] = 50.0, 40.0
    memory[[TIMES + 4, TIMES + 11]] = 9.0, 81.0
    assert peak(memory, 0, 0.0) == (50.0, 3.0)
    assert peak(memory, 0, 1.0) == (53.0, 3.0)
    assert peak(memory, 0, 2.0) == (58.0, 9.0)


def test_nobody_peaks_at_nothing() -> None:
    assert peak(np.zeros(FORECAST_SIZE), 0, 2.0) == (0.0, 0.0)


def test_a_law_gives_the_chances() -> None:
    """Outputs end at 40: at an age of 10 (middle of its cell 10.5) a request runs 20 more, and not 40."""
    memory = blank(0)
    memory[LAW : LAW + LAW_SIZE] = new_law(1.0, 10.0, np.array([40.0]))
    fade(memory, LAW, 1.0)
    estimate(memory, LAW, 0.0)
    start_table(memory, LAW, GRID)
    add(memory, FIRST, [(20, 10)])
    expected = [survival(memory, LAW, 10.5 + t) / survival(memory, LAW, 10.5) for t in times()]
    mean = memory[FIRST : FIRST + TIMES]
    assert mean == pytest.approx((20 + times()) * expected)
    assert mean[10] == pytest.approx(20 + 21, rel=0.02)
    assert mean[20] < 0.02 * (20 + 41)
