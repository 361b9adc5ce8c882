"""The gate in a server whose layers cache in several groups: the books, what the policy sees, and what it achieves."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluidgate.hardware import KvGroup, KvLaw
from fluidgate.policies import ConcurrencyCap, Fluid, Greedy, KnownLengths, NoEvict, Policy, Wait

from .live import MAX_STEPS, Live, needs_vllm, new_live, run_down
from .test_live_books import run

pytestmark = needs_vllm

LAWS = {
    "gpt-oss": KvLaw((KvGroup("sliding", 12, 16, 32), KvGroup("full", 12, 16))),
    "gemma-3": KvLaw((*[KvGroup("sliding", 10, 16, 48)] * 5, KvGroup("full", 10, 16))),
    "llama-4": KvLaw((*[KvGroup("chunked", 12, 16, 64)] * 3, KvGroup("full", 12, 16))),
    "qwen3-next": KvLaw((*[KvGroup("state", 12, 48)] * 3, KvGroup("full", 12, 48))),
    "nemotron-h": KvLaw((*[KvGroup("state", 12, 48, copies=3)] * 3, KvGroup("full", 12, 48))),
    "mistral": KvLaw((KvGroup("sliding", 32, 16, 32),)),
}
POLICIES = [ConcurrencyCap(3.0), Fluid(), NoEvict(60.0), Wait(0.02, True, (5.0, 9.0), (20.0,))]


@pytest.mark.parametrize("layout", LAWS)
def test_books_are_vllms_own_state(layout: str) -> None:
    of_all = st.tuples(st.sampled_from(POLICIES), st.sampled_from([60, 100]), st.booleans(), st.sampled_from([1, 2]))

    @settings(max_examples=5, deadline=None)
    @given(st.integers(0, 2**32 - 1), of_all)
    def check(seed: int, chosen: tuple[Policy, int, bool, int]) -> None:
        policy, blocks, caching, depth = chosen
        with pytest.MonkeyPatch.context() as patch:
            live = new_live(patch, policy, blocks=blocks, caching=caching, depth=depth, law=LAWS[layout])
            run(live, Random(seed), 30)
            assert len(live.finished) + len(live.aborted) == live.num_seen

    check()


class Seen(Policy):
    """Keeps the last view's free and total blocks and the size of one; admits all."""

    name = "seen"

    def new_memory(self) -> Any:
        return np.zeros(3)

    @staticmethod
    def admit(params: Any, memory: Any, view: Any, out_quota: Any) -> float:
        memory[0], memory[1], memory[2] = view.free_blocks, view.total_blocks, view.block_size
        return np.inf


def seen(live: Live) -> tuple[int, int, int]:
    """(free blocks, all, tokens of one) in the policy's last view."""
    free, total, size = live.gate._memory.astype(int)
    return free, total, size


@pytest.mark.parametrize("layout", LAWS)
def test_the_policy_sees_the_pool_in_blocks_that_it_counts(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests of one kind: what is free of the pool, in the blocks that such requests would hold where nothing is
    forgotten. A free block counts for any group."""
    law, prompt, output = LAWS[layout], 200, 40
    live = new_live(monkeypatch, Seen(), blocks=400, seats=4, law=law)
    for _ in range(12):
        live.add(prompt, output)
    run_down(live)
    contexts = np.arange(prompt, prompt + output)
    ratio = np.ceil(contexts / law.block_size).sum() / law.blocks(contexts).sum()
    live.add(prompt, output)
    live.form()
    live.receive()
    held = 399 - live.scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
    live.add(prompt, output)
    live.form()
    free, total, size = seen(live)
    assert size == law.block_size
    assert held > 0
    assert total == pytest.approx(399 * ratio, rel=0.1)
    assert free == pytest.approx((399 - held) * ratio, rel=0.1)
    run_down(live)


def test_blocks_of_requests_outside_the_books_are_taken_from_all_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    live = new_live(monkeypatch, Greedy(), blocks=100, law=LAWS["gpt-oss"])
    live.add(90, 60, resumable=True)
    for _ in range(20):
        live.form()
        live.receive()
    room = live.scheduler.gatekeeper._room()
    assert room.outside_blocks == 99 - room.free_blocks > 0


@pytest.mark.parametrize(("layout", "blocks"), [("gpt-oss", 70), ("gemma-3", 70), ("llama-4", 70), ("qwen3-next", 40)])
def test_a_policy_that_knows_lengths_saves_evictions(layout: str, blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where admission on vLLM's own terms evicts again and again, look-ahead over the counted pool evicts nobody."""

    def evictions(policy: Policy) -> int:
        live = new_live(monkeypatch, policy, blocks=blocks, seats=8, law=LAWS[layout])
        for _ in range(40):
            live.add(20, 100)
        for _ in range(MAX_STEPS):
            live.form()
            live.receive()
            if not live.unfinished:
                break
        return int(live.gate.totals.preempted)

    assert evictions(Greedy()) > 10
    assert evictions(KnownLengths(1024.0)) == 0
