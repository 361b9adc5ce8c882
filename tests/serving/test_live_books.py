"""The gate inside vLLM's own scheduler: its books are vLLM's state at every step, and it never stops the engine."""

from __future__ import annotations

import importlib.util
import logging
from random import Random
from types import SimpleNamespace
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

from .live import STEP_S, Live, disturb, new_live

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None,
    reason="vLLM is not installed here; `make test` runs these in an environment of their own",
)

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
MOST_STEPS = 5000


def ids(policies: list[Policy]) -> list[str]:
    return [f"{k}-{policy.name}" for k, policy in enumerate(policies)]


def run(live: Live, random: Random, requests: int) -> None:
    """Arrivals, aborts, preemptions and finishes until nothing is left, with the books compared at every step."""
    from fluidgate.serving.gate import empty_books

    for _ in range(MOST_STEPS):
        disturb(live, random, requests)
        if live.scheduler.has_requests():
            names = [name for name in live.form() if name in live.unfinished]
            assert live.scheduler.gate is not None, "fell back to stock scheduling"
            live.assert_books_are_vllms()
            if names and random.random() < 0.02:
                live.abort(random.choice(names))  # while its batch is executed
        if live.in_flight:
            live.receive()
        if live.num_seen >= requests and not live.scheduler.has_requests() and not live.in_flight:
            break
    assert not live.unfinished, f"{len(live.unfinished)} requests never finished"
    assert empty_books(live.scheduler.gate)


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
def test_a_strict_policy_idles_no_longer_than_the_limit(
    policy: Policy, requests: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fluidgate.serving.gate import MOST_IDLE_S

    live = new_live(monkeypatch, policy)
    for _ in range(requests):
        live.add(10, 30)
    for _ in range(MOST_STEPS):
        live.form()
        live.receive()
        if not live.unfinished:
            break
    assert len(live.finished) == requests
    assert live.scheduler.gate.totals.forced > 0
    assert live.longest_idle_s <= MOST_IDLE_S + 2 * STEP_S


def failing_after(calls: int, then: Any) -> Any:
    """`then`, which raises from the given call on."""
    count = 0

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count > calls:
            raise ZeroDivisionError("a mistake in a policy")
        return then(*args, **kwargs)

    return wrapper


def fallbacks(live: Live, where: str) -> float:
    return live.scheduler.gate_metrics.fallbacks.labels(where=where)._value.get()


@pytest.mark.parametrize("calls", [0, 1, 40])
@pytest.mark.parametrize(
    ("method", "where"), [("joined", "add_request"), ("decide", "decide"), ("_admit", "decide"), ("book", "book")]
)
def test_an_error_falls_back_once_and_loses_no_request(
    method: str, where: str, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = new_live(monkeypatch, ConcurrencyCap(3.0))
    gate = live.scheduler.gate
    monkeypatch.setattr(gate, method, failing_after(calls, getattr(gate, method)))
    before = fallbacks(live, where)
    for _ in range(60):
        live.add(20, 30)
    for _ in range(MOST_STEPS):
        live.form()
        live.receive()
        if not live.unfinished:
            break
    assert len(live.finished) == 60
    assert live.scheduler.gate is None
    assert fallbacks(live, where) == before + 1


def test_an_evicted_crowd_may_come_back_in_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    live = new_live(monkeypatch, ConcurrencyCap(5.0))
    for _ in range(12):
        live.add(20, 30)
    for step in range(MOST_STEPS):
        if step % 7 == 3:
            live.scheduler.reset_prefix_cache(reset_running_requests=True)
        live.form()
        assert live.scheduler.gate is not None
        assert live.scheduler.gate.books.num_residents == len(live.scheduler.running)
        live.receive()
        if not live.unfinished:
            break
    assert len(live.finished) == 12
    assert live.scheduler.gate.totals.preempted > 0


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


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Any:
    """What the plugin logs; vLLM's loggers do not reach pytest by themselves."""
    logger = logging.getLogger("vllm.fluidgate")
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO, logger.name):
        yield caplog
    logger.removeHandler(caplog.handler)


def test_without_its_seams_it_is_stock_vllm_and_says_so(monkeypatch: pytest.MonkeyPatch, said: Any) -> None:
    from fluidgate.serving import seams

    monkeypatch.setattr(seams, "missing", lambda scheduler: "this vLLM's scheduler has no waiting room")
    before = fallbacks(new_live(monkeypatch, Greedy()), "probe")
    live = new_live(monkeypatch, ConcurrencyCap(1.0))
    assert live.scheduler.gate is None
    assert fallbacks(live, "probe") == before + 1
    assert "stock vLLM's: this vLLM's scheduler has no waiting room" in said.text
    for _ in range(8):
        live.add(10, 10)
    assert len(live.form()) == 7  # as many as fit into 64 tokens; a cap of 1 would admit one


def test_what_cannot_be_scheduled_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.core.sched.request_queue import PriorityRequestQueue

    from fluidgate.serving import seams

    scheduler = new_live(monkeypatch, Greedy()).scheduler
    assert seams.missing(scheduler) is None
    bare = SimpleNamespace(vllm_config=scheduler.vllm_config)
    assert "has no _pause_state" in str(seams.missing(bare))
    scheduler.waiting = PriorityRequestQueue()
    assert "priority scheduling" in str(seams.missing(scheduler))
