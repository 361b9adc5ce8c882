"""Clients that give up: by hand, on random cases, and against the closed form of a queue with impatient customers."""

from collections.abc import Callable
from dataclasses import replace
from math import inf, nan
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fluidgate.arrays import NONE
from fluidgate.engine import EngineConfig, Fleet, RunRecords, patience, run, run_fleet
from fluidgate.engine.compiled import load_program
from fluidgate.engine.run import run_to_end
from fluidgate.engine.state import new_log, new_state
from fluidgate.hardware import Hardware, StepTime
from fluidgate.kernel import interpreted
from fluidgate.policies import ConcurrencyCap, Greedy
from fluidgate.testing import check_records, check_same
from fluidgate.workload import Workload

from .cases import random_case
from .test_closed_loops import FLEETS, check_rule, closed_cases

Simulate = Callable[..., RunRecords]
Batches = Callable[[RunRecords], list[tuple[float, dict[int, int], list[int]]]]

# Iterations last a second and a block holds one token, unless a test says otherwise.


def test_one_leaves_the_middle_of_the_queue_and_the_others_keep_their_order(
    simulate: Simulate, batches: Batches
) -> None:
    # one seat: request 0 has it until 3; of those that wait, 2 leaves at 2.0, between two iterations
    requests = [(0.0, 1, 3), (0.5, 1, 1), (0.6, 1, 1), (0.7, 1, 1)]
    records = simulate(requests, max_num_seqs=1, timeout_s=[inf, inf, 1.4, inf])
    assert batches(records) == [
        (0.0, {0: 1}, []),
        (1.0, {0: 1}, []),
        (2.0, {0: 1}, []),
        (3.0, {1: 1}, []),
        (4.0, {3: 1}, []),
    ]
    assert records.aborted.tolist() == [False, False, True, False]
    assert records.left_s[2] == records.gave_up_s[2] == 2.0
    assert records.steps is not None
    assert records.steps.waiting.tolist() == [0, 3, 2, 1, 0]
    assert np.isnan(records.first_scheduled_s[2])


@pytest.mark.parametrize(("leaver", "order"), [(1, [2, 3]), (3, [1, 2])], ids=["first", "last"])
def test_either_end_of_the_queue_may_leave(simulate: Simulate, leaver: int, order: list[int]) -> None:
    timeout_s = [inf] * 4
    timeout_s[leaver] = 1.0
    requests = [(0.0, 1, 3), (0.25, 1, 1), (0.5, 1, 1), (0.75, 1, 1)]
    records = simulate(requests, max_num_seqs=1, timeout_s=timeout_s)
    assert records.first_scheduled_s[order].tolist() == [3.0, 4.0]


def test_a_resident_that_leaves_makes_room_for_the_next(simulate: Simulate, batches: Batches) -> None:
    # 10 blocks: the second prompt fits once the first client has left, at 2.5, seen as the iteration ends at 3
    records = simulate([(0.0, 6, 5), (0.0, 6, 2)], blocks=10, timeout_s=[2.5, inf])
    assert batches(records) == [
        (0.0, {0: 6}, []),
        (1.0, {0: 1}, []),
        (2.0, {0: 1}, []),
        (3.0, {1: 6}, []),
        (4.0, {1: 1}, []),
    ]
    assert (records.gave_up_s[0], records.left_s[0]) == (2.5, 3.0)
    assert records.generated_tokens.tolist() == [2, 2]  # that of 3.0 came too late to be given
    assert records.last_token_s[0] == 2.0
    assert records.steps is not None
    assert records.steps.free_blocks.tolist() == [4, 3, 2, 4, 3]


def test_a_last_token_at_the_deadline_is_in_time(simulate: Simulate) -> None:
    in_time, late = (simulate([(0.0, 1, 3)], timeout_s=[timeout_s]) for timeout_s in (3.0, np.nextafter(3.0, 0)))
    assert in_time.finished.all()
    assert not in_time.aborted.any()
    assert late.aborted.all()
    assert not late.finished.any()
    assert (late.last_token_s[0], late.left_s[0]) == (2.0, 3.0)


def test_a_first_token_in_time_leaves_only_the_other_deadline(simulate: Simulate) -> None:
    # tokens at 1, 2, 3, …; the first client has its first one in time and waits for the last until 3.5
    records = simulate([(0.0, 1, 9), (0.0, 1, 2)], timeout_s=[3.5, inf], ttft_timeout_s=[1.0, 1.0])
    assert records.aborted.tolist() == [True, False]
    assert (records.gave_up_s[0], records.left_s[0]) == (3.5, 4.0)
    assert not records.no_first_token.any()


def test_without_a_first_token_in_time_the_client_leaves(simulate: Simulate) -> None:
    # the prompt of 6 takes three iterations of 2 tokens
    records = simulate([(0.0, 6, 2)], max_num_batched_tokens=2, timeout_s=[9.0], ttft_timeout_s=[2.5])
    assert records.no_first_token.all()
    assert np.isnan(records.first_token_s).all()
    assert (records.gave_up_s[0], records.left_s[0]) == (2.5, 3.0)
    assert records.computed_tokens == 6


def test_a_deadline_within_the_iteration_of_the_arrival(simulate: Simulate, batches: Batches) -> None:
    # sent at 0.25 and given up at 0.5: it is received and aborted as the iteration ends, and never waits at a batch
    records = simulate([(0.0, 1, 2), (0.25, 1, 1)], timeout_s=[inf, 0.25])
    assert batches(records) == [(0.0, {0: 1}, []), (1.0, {0: 1}, [])]
    assert records.left_s[1] == 1.0


def test_an_evicted_request_can_leave_the_queue(simulate: Simulate) -> None:
    # both grow into 6 blocks; 1 is evicted as they meet, at 2, and its client leaves at 4
    records = simulate([(0.0, 2, 5), (0.0, 2, 5)], blocks=6, timeout_s=[inf, 3.5], enable_prefix_caching=False)
    assert records.preemptions.tolist() == [0, 1]
    assert records.aborted.tolist() == [False, True]
    assert records.generated_tokens.tolist() == [5, 2]


def test_shares_of_an_iteration_are_by_tokens(simulate: Simulate) -> None:
    # 0 to 1: three tokens of 0, one of 1; 1 to 2 and 2 to 3: one of each; then 0 alone
    records = simulate([(0.0, 3, 5), (0.0, 1, 5)], timeout_s=[inf, 2.5])
    assert records.spent_tokens is not None
    assert records.spent_s is not None
    assert records.spent_tokens.tolist() == [7, 3]
    assert records.spent_s.tolist() == [0.75 + 0.5 + 0.5 + 1 + 1, 0.25 + 0.5 + 0.5]


def test_an_idle_engine_wakes_as_a_client_leaves(simulate: Simulate) -> None:
    """Where every request is held and nothing else will happen: the deadline itself, to the bit; and no `Stalled`."""

    class Never(Greedy):
        name = "never"

        @staticmethod
        def admit(params: Any, memory: Any, view: Any, out_quota: Any) -> float:
            out_quota[0] = 0
            return inf

    workload = Workload(
        np.array([0.0, 1.0]), np.ones(2, np.int64), np.ones(2, np.int64), timeout_s=np.array([7.1, 2.3])
    )
    records = run(workload, Hardware("h", StepTime(1.0), 10), Never(), compile=False)
    assert records.left_s.tolist() == [7.1, 1.0 + 2.3]
    assert records.iterations == 0
    assert records.end_s == 7.1
    assert records.held_s.tolist() == [7.1, pytest.approx(2.3)]


def test_what_a_request_takes_outside_the_engine_counts() -> None:
    """A client sees its last token `overhead_s` later: in time only if both fit."""
    workload = Workload(np.zeros(1), np.ones(1, np.int64), np.array([3]), timeout_s=np.array([3.25]))
    hardware = Hardware("h", StepTime(1.0), 10, overhead_s=0.25)
    assert run(workload, hardware, Greedy(), compile=False).finished.all()
    slower = replace(hardware, overhead_s=0.5)
    assert run(workload, slower, Greedy(), compile=False).gave_up_s.tolist() == [2.75]


# Random cases.


def with_timeouts(workload: Workload, hardware: Hardware, random: Random) -> Workload:
    """The requests of clients most of whom give up sooner or later; ends of iterations may tie with deadlines."""
    choices = [inf, 0.25, 1.0, 2.0, 4.0, 8.0, 20.0, 0.01 + 10 * random.random()]
    scale = 1.0 if hardware.step_time.c0 > 0.1 else 0.05 if hardware.step_time.c0 < 0.05 else 0.0625
    columns = {
        name: scale * np.array([random.choice(choices) for _ in range(len(workload))])
        for name in ("timeout_s", "ttft_timeout_s")
    }
    return replace(workload, **columns)


def impatient_case(random: Random) -> tuple[Workload, Hardware, Any, EngineConfig]:
    """A random case with timeouts."""
    workload, hardware, policy, config = random_case(random)
    return with_timeouts(workload, hardware, random), hardware, policy, config


CASES = st.randoms(use_true_random=False).map(impatient_case)
quick = settings(max_examples=80, deadline=None)


@quick
@given(CASES)
def test_the_laws_hold(case: Any) -> None:
    """No request is lost or served twice, none gets a token once its client has left; compiled equals interpreted."""
    workload, hardware, policy, config = case
    compiled, plain = (
        run(workload, hardware, policy, config, record="decisions", compile=compile) for compile in (True, False)
    )
    check_same(compiled, plain, "interpreted equals compiled")
    check_records(compiled)
    for name, happened in {
        "aborted": compiled.aborted.any(),
        "aborted while resident": (compiled.aborted & ~np.isnan(compiled.first_scheduled_s)).any(),
        "evicted and aborted": (compiled.aborted & (compiled.preemptions > 0)).any(),
    }.items():
        event(f"{name}: {bool(happened)}")
    assert (compiled.finished != compiled.aborted).all()
    if workload.gives_up:
        assert compiled.spent_s is not None
        assert compiled.spent_tokens is not None
        assert compiled.spent_s.sum() == pytest.approx(compiled.busy_s, rel=1e-9)
        assert compiled.spent_tokens.sum() == compiled.computed_tokens


@quick
@given(CASES)
def test_clients_leave_as_soon_as_the_engine_can_know(case: Any) -> None:
    """At the deadline if no iteration is under way then, else as that one ends."""
    workload, hardware, policy, config = case
    records = run(workload, hardware, policy, config, record="steps")
    assert records.steps is not None
    for row in np.flatnonzero(records.aborted):
        at_s = records.gave_up_s[row]
        under_way = (records.steps.start_s < at_s) & (at_s <= records.steps.end_s)
        assert records.left_s[row] == (records.steps.end_s[under_way].item() if under_way.any() else at_s)


@quick
@given(CASES)
def test_all_is_free_at_the_end(case: Any) -> None:
    workload, hardware, policy, config = case
    config = replace(config.on(hardware), **policy.engine_settings)
    state, cache = new_state(workload, hardware, config, policy)
    program = load_program(policy)
    run_to_end(program, policy, state, cache, new_log(1, 1), policy.new_memory(), lambda _: None)
    assert cache.free[0] == hardware.num_gpu_blocks - 1
    assert not cache.references.any()
    run = state.run[0]
    assert run.free_slots == len(state.free_slots)
    assert run.running == run.waiting == run.waiting_tokens == 0
    assert (state.head == NONE).all()
    assert (state.queues.tail == NONE).all()


@quick
@given(CASES)
def test_clients_that_wait_long_enough_change_nothing(case: Any) -> None:
    workload, hardware, policy, config = case
    patient = replace(workload, timeout_s=np.zeros(0), ttft_timeout_s=np.zeros(0))
    expected = run(patient, hardware, policy, config, record="decisions")
    long = np.full(len(workload), 1e6)
    seen = run(replace(workload, timeout_s=long, ttft_timeout_s=long), hardware, policy, config, record="decisions")
    check_same(replace(seen, spent_s=None, spent_tokens=None), expected, "a patient client is one that never leaves")


@quick
@given(CASES, st.integers(1, 4), st.sampled_from(["round-robin", "least-loaded", "least-kv", "power-of-two"]))
def test_each_replica_does_what_it_would_do_alone(case: Any, replicas: int, router: str) -> None:
    workload, hardware, policy, config = case
    whole = run_fleet(workload, hardware, policy, Fleet(replicas, router), config)
    assert (whole.finished != whole.aborted).all()
    for part in filter(None, whole.runs):
        check_same(part, run(part.workload, hardware, policy, part.config), "a replica is an engine of its own")


@quick
@given(closed_cases(), st.randoms(use_true_random=False), FLEETS)
def test_others_are_sent_as_clients_leave(case: Any, random: Random, fleet: Fleet) -> None:
    """In closed loops and sessions an abort frees a place as a last token does; on one engine, and on several."""
    workload, hardware, policy, config = case
    workload = with_timeouts(workload, hardware, random)
    compiled, plain = (run(workload, hardware, policy, config, record="decisions", compile=c) for c in (True, False))
    check_same(compiled, plain, "interpreted equals compiled")
    check_records(compiled)
    check_rule(compiled)
    event(f"aborted {bool(compiled.aborted.any())}")
    whole = run_fleet(workload, hardware, policy, fleet, config)
    check_rule(whole)
    assert (whole.finished != whole.aborted).all()


@pytest.mark.parametrize("router", ["least-loaded", "least-kv"])
@pytest.mark.parametrize(("arrival_s", "chosen"), [(0.75, 1), (1.5, 0)], ids=["before", "after"])
def test_a_router_sees_a_client_until_the_engine_does(router: str, arrival_s: float, chosen: int) -> None:
    """Iterations of 1 s: 0 and 2 on the first replica, 1 on the second; the first two leave at 0.5, as is seen at 1."""
    load = Workload(
        np.array([0.0, 0.0, 0.0, arrival_s]),
        np.ones(4, np.int64),
        np.full(4, 5),
        timeout_s=np.array([0.5, inf, 0.5, inf]),
    )
    records = run_fleet(load, Hardware("h", StepTime(1.0), 99), Greedy(), Fleet(2, router), compile=False)
    assert records.replica.tolist() == [0, 1, 0, chosen]


@given(st.lists(st.floats(0.1, 9.0), min_size=1, max_size=60), st.randoms(use_true_random=False))
def test_the_heap_gives_deadlines_in_order(deadlines_s: list[float], random: Random) -> None:
    """Pushes and pops in any order, against a sorted list; ties are in order of row."""
    n = len(deadlines_s)
    ones = np.ones(n, np.int64)
    workload = Workload(np.zeros(n), ones, ones, timeout_s=np.array(deadlines_s))
    hardware = Hardware("h", StepTime(1.0), 10)
    state, _ = new_state(workload, hardware, EngineConfig().on(hardware), Greedy())
    push, pop = interpreted(patience.push), interpreted(patience.pop)
    inside: list[tuple[float, int]] = []
    for row, deadline_s in enumerate(deadlines_s):
        deadline_s = round(deadline_s)  # so that some are equal
        push(state, row, float(deadline_s))
        inside.append((deadline_s, row))
        while inside and random.random() < 0.4:
            assert state.run[0].first_deadline == min(inside)[1]
            inside.remove(min(inside))
            pop(state)
    for _, row in sorted(inside):
        assert state.run[0].first_deadline == row
        pop(state)
    assert state.run[0].first_deadline == NONE


# A closed form: Erlang-A, a queue with several servers and customers who leave it after an exponential time.


def erlang_a_served(load: float, servers: int, patience_in_services: float) -> float:
    """Share of the customers who are served: births at `load`, deaths n or servers + (n - servers) / patience."""
    weights: list[float] = [1.0]
    for n in range(1, 400):
        deaths = min(n, servers) + max(0, n - servers) / patience_in_services
        weights.append(weights[-1] * load / deaths)
    shares = np.array(weights) / sum(weights)
    return float(np.minimum(np.arange(400), servers) @ shares / load)


@pytest.mark.parametrize(("load", "servers", "waits"), [(1.4, 1, 2.0), (6.0, 4, 0.5)])
def test_a_queue_with_impatient_customers(load: float, servers: int, waits: float) -> None:
    """Seats are servers, services geometric numbers of short iterations; the first token follows the start at once."""
    steps = 100.0
    hardware = Hardware("ample", StepTime(c0=1.0), num_gpu_blocks=1_000_000, block_size=16)

    def served(seed: int) -> float:
        random = np.random.default_rng([seed, 15])
        n = 3_000
        output: NDArray[np.int64] = random.geometric(1 / steps, n)
        arrival_s = np.cumsum(random.exponential(steps / load, n))
        patience_s = random.exponential(waits * steps, n)
        workload = Workload(arrival_s, np.ones(n, np.int64), output, ttft_timeout_s=patience_s)
        records = run(workload, hardware, Greedy(), EngineConfig(max_num_seqs=servers))
        return float(records.finished[200:].mean())

    shares = [served(seed) for seed in range(8)]
    error = 3.5 * np.std(shares, ddof=1) / np.sqrt(len(shares))
    assert error < 0.03
    assert (
        abs(np.mean(shares) - erlang_a_served(load, servers, waits)) < error + 0.005
    )  # arrivals wait for an iteration


def test_a_cap_counts_those_who_have_left_out(simulate: Simulate) -> None:
    records = simulate([(0.0, 1, 9), (0.0, 1, 2)], policy=ConcurrencyCap(1.0), timeout_s=[2.5, inf])
    assert records.first_scheduled_s.tolist() == [0.0, 3.0]
    assert records.longest_gap_s[1] == 1.0
    assert records.first_token_s.tolist() == [1.0, 4.0]
    assert records.left_s.tolist() == [3.0, pytest.approx(nan, nan_ok=True)]
