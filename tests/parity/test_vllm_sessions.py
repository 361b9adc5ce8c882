"""Closed loops and sessions equal vLLM's own scheduler step for step; a turn finds what the turns before it wrote."""

import asyncio
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluidgate.engine import EngineConfig
from fluidgate.policies import Policy
from fluidgate.workload import BenchArrivals, Workload

from .against_vllm import needs_vllm, simulate_as_vllm
from .generators import POLICIES, Case, examples
from .rare_paths import require_reached
from .sessions import closed_loops, conversations


def _reached(records: Any) -> Counter[str]:
    rows = np.argsort(records.arrival_s, kind="stable")
    return Counter(
        {
            "sent out of order": int((np.diff(rows) < 0).any()),
            "preempted": int(records.preemptions.any()),
            "reply found": int((records.cached_tokens > _first_prompt(records.workload)).any()),
        }
    )


def _first_prompt(workload: Workload) -> Any:
    """Of each turn, the prompt tokens of the turn before it: more in the cache were generated there."""
    if not (workload.has_sessions and workload.ids_cover_replies):
        return np.full(len(workload), np.inf)
    return np.where(workload.after >= 0, workload.prompt_tokens[workload.after], np.inf)


@needs_vllm
def test_closed_loops_are_vllms() -> None:
    reached: Counter[str] = Counter()

    @examples(40, of=80)
    @given(closed_loops(), st.sampled_from(sorted(POLICIES)).flatmap(POLICIES.__getitem__))
    def every_case(drawn: tuple[Case, Workload], policy: Policy) -> None:
        case, workload = drawn
        reached.update(_reached(simulate_as_vllm(workload, case.hardware, case.engine, policy)))

    every_case()
    require_reached(reached, {"sent out of order": 10, "preempted": 3})


@needs_vllm
def test_conversations_are_vllms() -> None:
    reached: Counter[str] = Counter()

    @examples(40, of=80)
    @given(conversations(), st.sampled_from(sorted(POLICIES)).flatmap(POLICIES.__getitem__))
    def every_case(drawn: tuple[Case, Workload], policy: Policy) -> None:
        case, workload = drawn
        reached.update(_reached(simulate_as_vllm(workload, case.hardware, case.engine, policy)))

    every_case()
    require_reached(reached, {"sent out of order": 10, "preempted": 1, "reply found": 8})


@needs_vllm
def test_a_turn_finds_the_reply_before_it() -> None:
    """24 prompt tokens and 41 of the reply make 64 with KV, so four blocks of 16; the turn after it finds them all."""
    workload = Workload(
        np.zeros(2),
        np.array([24, 80]),
        np.array([41, 3]),
        prefix_ids=np.array([0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5]),
        prefix_offsets=np.array([0, 5, 11]),
        prefix_block_tokens=16,
        ids_cover_replies=True,
        after=np.array([-1, 0]),
        delay_s=np.array([0.0, 1.0]),
    )
    records = simulate_as_vllm(workload, Case([], 100).hardware, EngineConfig())
    assert records.cached_tokens.tolist() == [0, 64]


@needs_vllm
@pytest.mark.parametrize("burstiness", [1.0, 0.3, 5.0, np.inf])
def test_arrivals_are_those_of_vllm_bench(burstiness: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The times at which `vllm bench serve` yields its requests, on a clock that only its own sleeps move."""
    serve = pytest.importorskip("vllm.benchmarks.serve")
    clock, rate, n = [0.0], 3.0, 50

    async def sleep(seconds: float) -> None:
        clock[0] += seconds

    async def times() -> list[float]:
        return [clock[0] async for _ in serve.get_request([None] * n, rate, burstiness)]

    monkeypatch.setattr(serve.time, "time", lambda: clock[0])
    monkeypatch.setattr(serve.asyncio, "sleep", sleep)
    np.random.seed(7)  # noqa: NPY002 - vLLM draws from numpy's global generator
    sent_s = asyncio.run(times())
    ours = BenchArrivals(rate, burstiness).sample(n, np.random.RandomState(7))  # type: ignore[arg-type]
    assert ours == pytest.approx(np.array(sent_s), rel=1e-9)
    assert ours[-1] == pytest.approx(n / rate)
