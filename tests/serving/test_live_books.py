"""The gate inside vLLM's own scheduler: its books are vLLM's state at every step, and it never stops the engine."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluidgate.policies import (
    ConcurrencyCap,
    Fluid,
    Greedy,
    NestedWait,
    Policy,
    RateLimited,
    Wait,
    Watermark,
)

from .live import MAX_STEPS, STEP_S, Live, disturb, needs_vllm, new_live, run_down

pytestmark = needs_vllm

PAPER = [
    Wait(0.02, True, (2.0, 2.0), (20.0,)),
    Wait(0.02, True, (5.0, 9.0), (20.0,)),
    NestedWait(0.02, True, (2.0, 6.0), (10.0,)),
]
POLICIES = [
    Greedy(),
    ConcurrencyCap(3.0),
    Fluid(),
    RateLimited(0.3),
    Watermark(0.1),
    Wait(0.02, False, (0.4, 0.4), (20.0,)),
    NestedWait(0.02, False, (0.5, 0.4), (10.0,)),
    *PAPER,
]


def ids(policies: list[Policy]) -> list[str]:
    return [f"{k}-{policy.name}" for k, policy in enumerate(policies)]


def run(live: Live, random: Random, requests: int) -> None:
    """Arrivals, aborts, preemptions and finishes until nothing is left, with the books compared at every step."""
    for _ in range(MAX_STEPS):
        disturb(live, random, requests)
        if live.scheduler.has_requests():
            names = [name for name in live.form() if name in live.unfinished]
            live.assert_books_are_vllms()
            if names and random.random() < 0.02:
                live.abort(random.choice(names))  # while its batch is executed
        if live.in_flight:
            live.receive()
        if live.num_seen >= requests and not live.scheduler.has_requests() and not live.in_flight:
            break
    assert not live.unfinished, f"{len(live.unfinished)} requests never finished"
    assert live.books.is_empty


@pytest.mark.parametrize("policy", POLICIES, ids=ids(POLICIES))
def test_books_are_vllms_own_state(policy: Policy) -> None:
    @settings(max_examples=10, deadline=None)
    @given(st.integers(0, 2**32 - 1), st.sampled_from([12, 20, 40]), st.booleans(), st.sampled_from([1, 2]))
    def check(seed: int, blocks: int, caching: bool, depth: int) -> None:
        with pytest.MonkeyPatch.context() as patch:
            random = Random(seed)
            live = new_live(patch, policy, blocks=blocks, caching=caching, depth=depth)
            run(live, random, random.randint(10, 60))
            assert len(live.finished) + len(live.aborted) == live.num_seen

    check()


@pytest.mark.parametrize("requests", [1, 8, 40], ids=lambda count: f"{count} requests")
@pytest.mark.parametrize("policy", PAPER, ids=ids(PAPER))
def test_a_policy_that_names_no_time_does_not_idle_the_engine(
    policy: Policy, requests: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = new_live(monkeypatch, policy)
    for _ in range(requests):
        live.add(10, 30)
    run_down(live)
    assert len(live.finished) == requests
    assert live.gate.totals.forced > 0
    assert live.longest_idle_s <= STEP_S


class Late(Policy):
    """Holds all until a time of its own, on an idle engine too."""

    name = "late"

    @staticmethod
    def admit(params: Any, memory: Any, view: Any, out_quota: Any) -> float:
        release_s = 1000.5
        if view.now_s < release_s:
            out_quota[0] = 0
        return release_s


def test_a_policy_that_names_a_time_is_waited_for_as_in_the_simulator(monkeypatch: pytest.MonkeyPatch) -> None:
    live = new_live(monkeypatch, Late())
    live.add(10, 30)
    run_down(live)
    assert live.gate.totals.forced == 0
    assert live.longest_idle_s == pytest.approx(0.5, abs=2 * STEP_S)


def test_an_evicted_crowd_may_come_back_in_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    live = new_live(monkeypatch, ConcurrencyCap(5.0))
    for _ in range(12):
        live.add(20, 30)
    for step in range(MAX_STEPS):
        if step % 7 == 3:
            live.scheduler.reset_prefix_cache(reset_running_requests=True)
        live.form()
        live.assert_books_are_vllms()
        live.receive()
        if not live.unfinished:
            break
    assert len(live.finished) == 12
    assert live.gate.totals.preempted > 0


def test_an_operators_pause_stays_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.core.sched.interface import PauseState

    live = new_live(monkeypatch, ConcurrencyCap(2.0))
    for _ in range(5):
        live.add(20, 30)
    assert len(live.form()) == 2
    live.receive()
    live.scheduler.set_pause_state(PauseState.PAUSED_ALL)
    assert live.form() == []
    live.receive()
    live.scheduler.set_pause_state(PauseState.UNPAUSED)
    assert len(live.form()) == 2
