"""The residents' part of `fluid`'s forecast, summed by age: it is the sum over residents, one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fluidgate.kernel import interpreted
from fluidgate.policies import Fluid, View
from fluidgate.policies.parts import fluid_memory, residents
from fluidgate.policies.parts.forecast import FORECAST_SIZE
from fluidgate.policies.parts.length_law import TIMES

from .laws import chances

Floats = NDArray[np.float64]

forecast_residents = interpreted(residents.forecast_residents)
unshared_share = interpreted(residents.unshared_share)

LAWS = (fluid_memory.CLASSES, 2, fluid_memory.CLASS_SIZE)
ROUNDING = 7.5
REQUESTS = st.lists(st.tuples(st.integers(1, 4000), st.integers(0, 900), st.integers(-1, 3)), min_size=1, max_size=20)
"""Prompt, generated tokens, label."""


def view_of(requests: list[tuple[int, int, int]], *, shared_blocks: int = 0) -> View:
    """All but the last are resident, and the last waits."""
    prompt, generated, label = (np.array(column, dtype=np.int64) for column in zip(*requests, strict=True))
    held = len(requests) - 1
    computed = np.maximum(prompt + generated - 1, 0)
    blocks = 10**6
    return View(
        now_s=0.0,
        iteration=0,
        free_blocks=blocks + shared_blocks - int((-(-computed[:held] // 16)).sum()),
        total_blocks=blocks,
        block_size=16,
        token_budget=2048,
        max_num_seqs=256,
        residents=np.arange(held),
        waiting_head=np.array([held, -1]),
        waiting_count=np.array([1, 0]),
        next_waiting=np.full(held + 1, -1),
        arrival_s=np.zeros(held + 1),
        prompt_tokens=prompt,
        generated_tokens=generated,
        computed_tokens=computed,
        output_tokens=np.full(held + 1, -1),
        class_id=label,
    )


@pytest.fixture(scope="module")
def learned() -> Floats:
    """The memory of a policy of two classes after a decision: one of long outputs, one of short ones."""
    policy = Fluid(0.1, (0.5, 0.5), (100.0, 900.0), (10.0, 200.0, 600.0, 5.0, 9.0, 90.0))
    memory = policy.new_memory()
    interpreted(policy.admit)(policy.pack(), memory, view_of([(50, 5, 0), (60, 0, 1)]), np.zeros(2, np.int64))
    return memory


def one_by_one(memory: Floats, view: View, rows: list[int], unshared: float) -> tuple[Floats, Floats]:
    """Mean and variance at each time: a request of c tokens runs on with probability p, and then holds c + τ."""
    times = memory[fluid_memory.GRID : fluid_memory.GRID + TIMES]
    mean, variance = np.zeros(TIMES), np.zeros(TIMES)
    for row in rows:
        law = LAWS[0] + min(max(int(view.class_id[row]), 0), 1) * LAWS[2]
        p = chances(memory, law, int(view.generated_tokens[row]))
        then = unshared * view.prompt_tokens[row] + view.generated_tokens[row] + ROUNDING + times
        mean += then * p
        variance += then**2 * p * (1 - p)
    return mean, variance


@settings(max_examples=25)
@given(REQUESTS, st.sampled_from([1.0, 0.3]), st.booleans())
def test_the_forecast_is_the_sum_over_residents(
    learned: Floats, requests: list[tuple[int, int, int]], unshared: float, by_age: bool
) -> None:
    """In order of age, where many are added at once, and in any order."""
    memory, at = learned.copy(), fluid_memory.OF_RESIDENTS
    view = view_of(sorted(requests, key=lambda r: (r[2], -r[1])) if by_age else requests)
    forecast_residents(memory, at, fluid_memory.GRID, view, unshared, *LAWS)
    mean, variance = one_by_one(memory, view, view.residents.tolist(), unshared)
    assert memory[at : at + TIMES] == pytest.approx(mean, rel=1e-9)
    assert memory[at + TIMES : at + FORECAST_SIZE] == pytest.approx(variance, rel=1e-9, abs=1e-6)


@settings(max_examples=25)
@given(REQUESTS, st.integers(0, 200))
def test_shared_blocks_are_counted_once(requests: list[tuple[int, int, int]], shared_blocks: int) -> None:
    view = view_of(requests, shared_blocks=shared_blocks)
    prompts = max(1, sum(prompt for prompt, _, _ in requests[:-1]))
    assert unshared_share(view) == pytest.approx(1 - min(0.95, 16 * shared_blocks / prompts))
