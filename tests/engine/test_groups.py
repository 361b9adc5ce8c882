"""Groups of layers with blocks of their own: who holds how many, with no word from the engine's tables."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluidgate.engine import EngineConfig, Fleet, RunRecords, run, run_fleet
from fluidgate.engine.compiled import load_program
from fluidgate.engine.group_layout import layout_of, most_blocks
from fluidgate.engine.run import run_to_end
from fluidgate.engine.state import new_log, new_state
from fluidgate.hardware import Hardware, KvGroup, KvLaw, StepTime
from fluidgate.policies import Greedy
from fluidgate.testing import check_same
from fluidgate.workload import Workload

from .cases import Case, random_case


def laws(random: Random, size: int) -> KvLaw:
    """Any layout that is modelled with prefix caching too."""
    full, window = KvGroup("full", 4, size), KvGroup("sliding", 4, size, random.randint(1, 20))
    other = KvGroup("sliding", 4, size, random.randint(21, 30))
    chunk, state = KvGroup("chunked", 4, size, size * random.randint(1, 4)), KvGroup("state", 4, size)
    layouts = [(window, full), (full, window, window), (window,), (window, full, other), (chunk, chunk, full)]
    return KvLaw(random.choice([*layouts, (state, full), (replace(state, copies=3), full), (state,)]))


def group_case(random: Random) -> Case:
    """As `random_case`, in mode vllm and on a cache of groups that is about as large as one request needs."""
    workload, hardware, policy, config = random_case(random)
    law = laws(random, hardware.block_size)
    others = ("mode", "preemption", "watermark", "decodes_need_spare_block", "pad_prompt_batches")
    others = (*others, "prompts_arrive_computed")
    recompute = EngineConfig(
        **{name: value for name, value in vars(config).items() if name not in others},
        watermark=config.watermark_share,
    )
    longest = workload.prompt_tokens + workload.output_tokens
    budget, caching = recompute.token_budget(int(longest.max())), recompute.enable_prefix_caching
    layout = layout_of(law, int(longest.max()), budget, prefix_caching=caching)
    blocks = int(most_blocks(law, longest - 1, layout).max()) + random.choice([0, 1, random.randint(0, 40)])
    machine = replace(hardware, num_gpu_blocks=blocks + 1, kv_law=law)
    return workload, machine, policy, recompute


CASES = st.randoms(use_true_random=False).map(group_case)
quick = settings(max_examples=60, deadline=None)


def blocks_between(group: KvGroup, start: int, end: int) -> int:
    """Blocks of a group, without prefix caching, in a step that computes the tokens from `start` to `end`."""
    size, reach = group.block_size, group.reach or 0
    if group.kind == "state":
        return 1
    dropped = {"full": 0, "sliding": max(0, start - reach + 1), "chunked": start - start % max(reach, 1)}[group.kind]
    return -(-end // size) - dropped // size


def held_by_residents(records: RunRecords, law: KvLaw) -> list[int]:
    """Blocks in use in every step, from the batches and the victims alone."""
    steps, load = records.steps, records.workload
    assert steps is not None
    last = load.prompt_tokens + load.output_tokens - 1
    spans: dict[int, tuple[int, int]] = {}
    used = []
    batches = np.split(steps.batch, np.cumsum(steps.scheduled)[:-1])
    for batch, victims in zip(batches, np.split(steps.victims, np.cumsum(steps.preempted)[:-1]), strict=True):
        for row in victims.tolist():
            del spans[row]
        for row, tokens in batch.tolist():
            start = spans[row][1] if row in spans else 0
            spans[row] = start, start + tokens
        used.append(sum(blocks_between(group, *span) for span in spans.values() for group in law.groups))
        spans = {row: span for row, span in spans.items() if span[1] < last[row]}
    return used


@quick
@given(CASES)
def test_residents_hold_what_their_windows_and_states_need(case: Case) -> None:
    workload, machine, policy, config = case
    config = replace(config, enable_prefix_caching=False)
    records = run(workload, machine, policy, config, record="decisions")
    assert records.finished.all()
    assert records.steps is not None
    assert held_by_residents(records, machine.law) == (records.total_blocks - records.steps.free_blocks).tolist()


@quick
@given(CASES)
def test_interpreted_equals_compiled(case: Case) -> None:
    workload, machine, policy, config = case
    compiled = run(workload, machine, policy, config, record="decisions")
    check_same(compiled, run(workload, machine, policy, config, record="decisions", compile=False), "interpreted")


@quick
@given(CASES)
def test_every_block_comes_back(case: Case) -> None:
    """With prefix caching on or off; and each is in the free list once."""
    workload, machine, policy, config = case
    state, cache = new_state(workload, machine, config, policy)
    program = load_program(policy, compile=False)
    run_to_end(program, policy, state, cache, new_log(1, 1), policy.new_memory(), lambda finished: None)
    blocks = machine.num_gpu_blocks - 1
    assert cache.free[0] == blocks
    seen, block = set(), int(cache.next_free[0])
    while block:
        seen.add(block)
        block = int(cache.next_free[block])
    assert len(seen) == blocks
    assert not cache.references.any()


@settings(max_examples=30, deadline=None)
@given(CASES, st.sampled_from(["round-robin", "least-kv"]))
def test_replicas_do_what_they_would_do_alone(case: Case, router: str) -> None:
    workload, machine, policy, config = case
    fleet = run_fleet(workload, machine, policy, Fleet(3, router), config)
    for part in fleet.runs:
        if part is not None:
            check_same(part, run(part.workload, machine, policy, part.config), "alone")


@pytest.mark.parametrize("reach", [15, 16, 17, 18])
def test_a_window_lets_go_of_a_block_once_the_next_token_does_not_see_it(reach: int) -> None:
    """Blocks of one token: a step that computes token t sees itself and the `reach` - 1 before it."""
    workload = Workload(np.zeros(1), np.array([4]), np.array([40]), name="one")
    law = KvLaw((KvGroup("sliding", 1, 1, reach),))
    machine = Hardware("window", StepTime(1.0), 60, 1, kv_law=law)
    records = run(workload, machine, Greedy(), record="steps", compile=False)
    assert records.steps is not None
    held = records.total_blocks - records.steps.free_blocks
    assert held.tolist() == [min(4 + k, reach) for k in range(40)]
