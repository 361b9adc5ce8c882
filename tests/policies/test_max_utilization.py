"""`max-utilization`: greedy in memory, patient with prompts."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluidgate.engine import EngineConfig, RunRecords, run
from fluidgate.errors import InputError
from fluidgate.fluid import plan
from fluidgate.hardware import Hardware, StepTime
from fluidgate.policies import Greedy, MaxUtilization, make_policy
from fluidgate.testing import check_policy, small_hardware, small_workloads
from fluidgate.workload import Workload

Simulate = Callable[..., RunRecords]
Decide = Callable[..., int]


@pytest.mark.parametrize(
    ("iters", "ratio", "start_s"), [(3.0, 0.9, 4.0), (1.0, 0.9, 2.0), (0.0, 0.9, 1.0), (3.0, 0.0, 1.0)]
)
def test_the_hold_ends_after_its_iterations(simulate: Simulate, iters: float, ratio: float, start_s: float) -> None:
    # Row 0 decodes from 1 on; row 1 arrives then and is held in the iterations from 1, 2, ...
    r = simulate(MaxUtilization(iters, ratio), [(0.0, 1, 20), (1.0, 1, 1)])
    assert r.first_scheduled_s.tolist() == [0.0, start_s]
    assert r.held_s.tolist() == [0.0, start_s - 1.0]


def test_every_batch_is_waited_for_anew(simulate: Simulate) -> None:
    # Row 1 starts the count at 1 and row 2 joins it: both enter at 4. Row 3 starts it again at 5.
    r = simulate(MaxUtilization(3.0, 0.9), [(0.0, 1, 20), (1.0, 1, 9), (3.0, 1, 9), (5.0, 1, 1)])
    assert r.first_scheduled_s.tolist() == [0.0, 4.0, 4.0, 8.0]


def test_enough_tokens_end_the_hold(simulate: Simulate) -> None:
    # Half of 10 tokens: at 1 one decode and a prompt of 2, at 2 one decode and 2 + 2.
    config = EngineConfig(max_num_batched_tokens=10)
    r = simulate(MaxUtilization(9.0, 0.5), [(0.0, 1, 20), (1.0, 2, 1), (2.0, 2, 1)], config=config)
    assert r.first_scheduled_s.tolist() == [0.0, 2.0, 2.0]
    assert r.held_s.tolist() == [0.0, 1.0, 0.0]


def test_waits_only_beside_decodes(simulate: Simulate) -> None:
    # Budget 4: at 1 row 0 still has 3 tokens of its prompt to compute, so that nobody decodes and row 1 takes the rest.
    config = EngineConfig(max_num_batched_tokens=4)
    r = simulate(MaxUtilization(9.0, 1.0), [(0.0, 7, 9), (1.0, 1, 1)], config=config)
    assert r.first_scheduled_s.tolist() == [0.0, 1.0]


def test_an_iteration_counts_if_a_prompt_fits(decide: Decide) -> None:
    # The resident holds 5 of 10 blocks and needs one more: a prompt of 4 fits, one of 5 does not.
    policy = MaxUtilization(2.0, 1.0)
    memory = policy.new_memory()
    assert decide(policy, [(2, 4)], [(5, 0)], blocks=10, memory=memory) == 1
    assert memory[0] == 0.0
    assert [decide(policy, [(2, 4)], [(4, 0)], blocks=10, memory=memory) for _ in range(4)] == [0, 0, 1, 0]


def test_only_prompts_that_fit_are_counted(decide: Decide) -> None:
    # 10 tokens are enough. One decode, and 4 + 5 of the waiting prompts; with 9 blocks, seats for 2 or a decode less
    # the second prompt, or one token, is missing.
    policy = MaxUtilization(2.0, 1.0)
    waiting = [(4, 0), (2, 3)]
    assert decide(policy, [(1, 1)], waiting, blocks=11, token_budget=10) == 2
    assert decide(policy, [(1, 1)], waiting, blocks=10, token_budget=10) == 0
    assert decide(policy, [(1, 1)], waiting, blocks=11, token_budget=10, max_num_seqs=2) == 0
    assert decide(policy, [(1, 1)], waiting, blocks=11, token_budget=11) == 0


REQUESTS = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 9), st.integers(1, 20)), min_size=2, max_size=20)


def _workload(requests: list[tuple[int, int, int]]) -> Workload:
    gap, prompt, output = (np.array(column) for column in zip(*requests, strict=True))
    return Workload(np.cumsum(gap).astype(float), prompt, output)


@settings(max_examples=40, deadline=None)
@given(REQUESTS, st.integers(0, 5))
def test_nobody_who_fits_is_held_longer(requests: list[tuple[int, int, int]], iters: int) -> None:
    hardware = Hardware("roomy", StepTime(c0=1.0), 2000, 1)
    r = run(_workload(requests), hardware, MaxUtilization(float(iters), 1.0))
    assert r.held_s.max() <= iters


@settings(max_examples=30, deadline=None)
@given(REQUESTS, st.sampled_from([(0.0, 1.0), (5.0, 0.0)]))
def test_without_waiting_it_is_greedy(requests: list[tuple[int, int, int]], off: tuple[float, float]) -> None:
    hardware = Hardware("crowded", StepTime(c0=1.0), 40, 1)
    ours, greedy = (run(_workload(requests), hardware, policy) for policy in (MaxUtilization(*off), Greedy()))
    assert ours.last_token_s.tolist() == greedy.last_token_s.tolist()
    assert ours.preemptions.tolist() == greedy.preemptions.tolist()


def test_evicts_when_memory_is_full(simulate: Simulate) -> None:
    # Both enter at 0 with 2 + 2 of 6 blocks; 3 + 3 fill them, and at 2 row 0 takes row 1's.
    r = simulate(MaxUtilization(), [(0.0, 2, 4), (0.0, 2, 4)], blocks=6)
    assert r.first_scheduled_s.tolist() == [0.0, 0.0]
    assert r.preemptions.tolist() == [0, 1]


def test_takes_its_parameters_from_the_plan() -> None:
    overload = next(w for w in small_workloads() if w.name == "overload")
    policy = make_policy("max-utilization", plan(overload, small_hardware()))
    assert policy == MaxUtilization(batch_wait_timeout_iters=20.0, batch_wait_max_tokens_ratio=0.9)


@pytest.mark.parametrize(("iters", "ratio"), [(0.0, 0.0), (1e6, 1.0), (2.5, 0.1)])
def test_conforms_at_its_extremes(iters: float, ratio: float) -> None:
    check_policy(MaxUtilization(iters, ratio))


@pytest.mark.parametrize(
    ("iters", "ratio", "named"),
    [
        (-1.0, 0.5, "batch_wait_timeout_iters"),
        (np.nan, 0.5, "batch_wait_timeout_iters"),
        (np.inf, 0.5, "batch_wait_timeout_iters"),
        (1.0, -0.1, "batch_wait_max_tokens_ratio"),
        (1.0, 1.1, "batch_wait_max_tokens_ratio"),
        (1.0, np.nan, "batch_wait_max_tokens_ratio"),
    ],
)
def test_refuses_what_is_out_of_range(iters: float, ratio: float, named: str) -> None:
    with pytest.raises(InputError, match=f"policy max-utilization: {named} = .* must be"):
        MaxUtilization(iters, ratio)
