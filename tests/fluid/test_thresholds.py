"""WAIT thresholds: the paper's conditions, the choice of period, and the least integers."""

from math import ceil, sqrt

import numpy as np
import pytest

from fluidgate.errors import InputError
from fluidgate.fluid import Limits, RequestMix, equilibrium, length_edges, stability, wait_thresholds
from fluidgate.hardware.core import StepTime
from fluidgate.hardware.kv_law import KvLaw

STEP = StepTime(0.012, 4e-5, 3.5e-7, 1e-9, 1e-5)
THREE = RequestMix([6.0, 4.0, 8.0], [20, 20, 20], [100, 200, 300])


def test_real_thresholds_meet_the_conditions() -> None:
    limits = Limits(110_000, 16)
    wait = wait_thresholds(THREE, STEP, limits)
    # The iteration with n_j requests at every stage of every type, stage by stage.
    tokens = kv = pairs = sequences = 0.0
    for n, length, output in zip(wait.thresholds, THREE.prompt_tokens, THREE.output_tokens, strict=True):
        tokens += n * (length + output - 1)
        kv += n * sum(length + i for i in range(output))
        pairs += n * length * (length + 1) / 2
        sequences += n * output
    assert wait.iteration_time_s == pytest.approx(STEP.duration_s(tokens, kv, pairs, sequences))
    assert np.all(wait.iteration_time_s < wait.thresholds / THREE.rate)
    steady_state = equilibrium(THREE, STEP, KvLaw.full(16))
    assert steady_state is not None
    assert steady_state.memory_tokens < wait.memory_tokens < limits.kv_tokens
    assert wait.memory_tokens == pytest.approx(kv + 7.5 * wait.thresholds @ THREE.output_tokens)
    assert wait.thresholds == pytest.approx(THREE.rate * wait.period_s)
    low, high = wait.period_range_s
    assert low == pytest.approx(steady_state.iteration_time_s)
    assert high == pytest.approx(110_000 / (THREE.rate @ THREE.memory_token_iterations(KvLaw.full(16))))
    assert wait.period_s == pytest.approx(1.05 * low)


def test_a_narrow_range_is_split_evenly() -> None:
    limits = Limits(110_000, 16)
    boundary = stability(THREE, STEP, limits).boundary_rate
    wait = wait_thresholds(THREE.scaled(0.999 * boundary), STEP, limits)
    low, high = wait.period_range_s
    assert high < 1.05**2 * low
    assert wait.period_s == pytest.approx(sqrt(low * high))
    assert low < wait.period_s < high


def test_token_budget_and_seats_end_the_range_too() -> None:
    tokens, iterations = THREE.mean(THREE.tokens), THREE.mean(THREE.iterations)
    budget = wait_thresholds(THREE, STEP, Limits(1e9, 16, max_num_batched_tokens=400))
    assert budget.period_range_s[1] == pytest.approx(400 / (18 * tokens))
    seats = wait_thresholds(THREE, STEP, Limits(1e9, 16, max_num_seqs=300))
    assert seats.period_range_s[1] == pytest.approx(300 / (18 * iterations))


@pytest.mark.parametrize("rate", [0.5, 5.0, 18.0, 39.0])
def test_integers_are_the_least_solution(rate: float) -> None:
    """The least fixed point, found from below: n = 1 everywhere, raised until nothing changes."""
    mix = THREE.scaled(rate)
    wait = wait_thresholds(mix, STEP, Limits(110_000, 16))
    n = [1, 1, 1]
    while True:
        duration_s = STEP.c0 + sum(k * w for k, w in zip(n, mix.work_s(STEP), strict=True))
        following = [max(1, ceil(r * duration_s)) for r in mix.rate]
        if following == n:
            break
        n = following
    assert wait.integer.tolist() == n
    memory = sum(k * a for k, a in zip(n, mix.memory_token_iterations(KvLaw.full(16)), strict=True))
    assert wait.integer_memory_tokens == pytest.approx(memory)
    assert wait.integer_feasible == (memory <= 110_000)
    assert wait.integer_residents == sum(k * o for k, o in zip(n, (100, 200, 300), strict=True))
    assert wait.integer_tokens_per_iteration == sum(k * (19 + o) for k, o in zip(n, (100, 200, 300), strict=True))


def test_whole_products_are_not_rounded_up() -> None:
    # c0 alone: λ·ΔT* = 100 · 0.07 is 7.000000000000001 in floating point.
    wait = wait_thresholds(RequestMix([100.0], [5], [5]), StepTime(0.07), Limits(1e6))
    assert wait.integer.tolist() == [7]


@pytest.mark.parametrize(
    "limits", [Limits(60_000), Limits(1e9, 1, max_num_seqs=599), Limits(1e9, 1, max_num_batched_tokens=656)]
)
def test_integers_beyond_any_limit_are_infeasible(limits: Limits) -> None:
    # One of each type: 81,700 KV tokens, 657 tokens per iteration, 600 residents.
    wait = wait_thresholds(THREE.scaled(1.0), STEP, limits)
    assert wait.integer.tolist() == [1, 1, 1]
    assert (wait.integer_memory_tokens, wait.integer_tokens_per_iteration) == (81_700, 657)
    assert not wait.integer_feasible
    assert wait_thresholds(THREE.scaled(1.0), STEP, Limits(81_700, 1, 657, 600)).integer_feasible


def test_classes_of_few_and_of_many_lengths() -> None:
    assert length_edges(THREE).tolist() == [100, 200]
    sixteen = RequestMix(np.ones(16), np.ones(16), np.arange(1, 17))
    assert length_edges(sixteen).tolist() == list(range(1, 16))
    many = RequestMix(np.ones(800), np.ones(800), np.arange(1, 801))
    assert length_edges(many).tolist() == [100, 200, 300, 400, 500, 600, 700]
    wait = wait_thresholds(many.scaled(8.0), STEP, Limits(110_000))
    assert wait.rate == pytest.approx(np.full(8, 1.0))
    heavy = RequestMix([100.0] + [1.0] * 20, np.ones(21), np.arange(1, 22))
    assert length_edges(heavy).tolist() == [1, 6]


def test_no_thresholds_beyond_the_boundary_or_without_fixed_time() -> None:
    limits = Limits(110_000, 16)
    boundary = stability(THREE, STEP, limits).boundary_rate
    for rate in (1.001 * boundary, 100 * boundary):
        with pytest.raises(InputError, match="scale the rate down"):
            wait_thresholds(THREE.scaled(rate), STEP, limits)
    with pytest.raises(InputError, match="c0 above 0"):
        wait_thresholds(THREE, StepTime(0.0, 4e-5), limits)
