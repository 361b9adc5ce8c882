"""Both ways through the engine agree to the last bit: decodes as a group, and every resident walked.

A policy whose refusals stand is asked in every iteration of the second one.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest

from fluidgate.engine import EngineConfig, RunRecords
from fluidgate.engine.compiled import Program, load_program
from fluidgate.engine.decode_group import dissolve_group
from fluidgate.engine.policy_hooks import REFUSALS_STAND
from fluidgate.engine.run import run_program
from fluidgate.hardware import Hardware, StepTime
from fluidgate.kernel import interpreted
from fluidgate.policies import Greedy, Policy
from fluidgate.testing import check_same
from fluidgate.workload import Workload

from .cases import STEP_TIMES, Case, any_policy, random_config

CASES = int(os.environ.get("FLUIDGATE_TWO_WAYS_CASES", "5000"))
"""Generated workloads; the same ones in every run, in 10 tests."""


def simulate(program: Program, case: Case, **options: Any) -> RunRecords:
    workload, hardware, policy, config = case
    config = replace(config, **policy.engine_settings)
    options.setdefault("record", "decisions")
    return run_program(program, workload, hardware, policy, config, progress=None, **options)


def a_case(random: Random) -> Case:
    """Up to 40 requests without shared prefixes, of outputs that fill the cache together; half of them crowded."""
    block_size = random.choice([1, 2, 4, 16])
    n = random.choice([random.randint(1, 14), random.randint(10, 40)])
    crowded = random.random() < 0.5
    prompt = np.array([random.choice([1, random.randint(1, 12), random.randint(1, 40)]) for _ in range(n)])
    output = np.array(
        [random.randint(10, 60) if crowded else random.choice([1, random.randint(1, 90)]) for _ in range(n)]
    )
    spread = random.choice([0.5, 15.0, 60.0])
    arrival_s = np.sort([random.choice([0.0, random.randint(0, 30) / 2, spread * random.random()]) for _ in range(n)])
    least = int(max(-(-(prompt + output - 1) // block_size)))
    blocks = least + random.choice([0, 1, random.randint(0, 80 // block_size), random.randint(0, 400 // block_size)])
    hardware = Hardware("random", random.choice(STEP_TIMES), blocks + 1, block_size)
    config = random_config(random)
    if not config.formation.chunks_prompts:
        config = replace(config, max_num_batched_tokens=None)
    if config.mode == "vllm" and config.preemption != "restart":
        config = replace(config, async_scheduling=random.random() < 0.5)
    policy = any_policy(random)
    if policy.advance is not None:
        config = replace(config, prefill_schedule_interval=1)
    return Workload(arrival_s, prompt, output, name="random"), hardware, policy, config


def interrupted(program: Program, random: Random) -> Program:
    """The program with its decode group dissolved now and then, between two calls of the loop."""
    dissolve = interpreted(dissolve_group)

    def run_loop(state: Any, *rest: Any) -> int:
        if random.random() < 0.5:
            dissolve(state)
        return program.run_loop(state, *rest)

    return replace(program, run_loop=run_loop)


def always_asking(program: Program) -> Program:
    """The program, which asks a policy again in every iteration that somebody waits in."""
    return replace(program, hooks=program.hooks & ~REFUSALS_STAND)


def counting_ticks(program: Program, reached: Counter[str]) -> Program:
    """The program, which counts the iterations of its decode group."""

    def run_loop(state: Any, *rest: Any) -> int:
        status = program.run_loop(state, *rest)
        reached["ticks"] += int(state.run[0].tick)
        return status

    return replace(program, run_loop=run_loop)


@pytest.mark.parametrize("part", range(10))
def test_both_ways_agree(part: int) -> None:
    reached: Counter[str] = Counter()
    for seed in range(part, CASES, 10):
        random = Random(seed)
        case = a_case(random)
        program, record = load_program(case[2]), random.choice(["requests", "decisions"])
        walked = simulate(always_asking(program), case, walked=True, record=record)
        law = f"seed {seed}: as a group and walked"
        grouped = simulate(counting_ticks(program, reached), case, record=record)
        check_same(grouped, walked, law)
        if seed % 5 == 0:
            broken = simulate(interrupted(program, random), case, record=record, iterations_per_call=30)
            check_same(broken, walked, law + ", dissolved on the way")
        reached += Counter(
            runs=1,
            iterations=walked.iterations,
            evictions=int(walked.preemptions.sum()),
            stalled=int(walked.stalled),
        )
        reached[walked.policy] += 1
    assert reached["ticks"] > 0.3 * reached["iterations"], reached
    assert reached["evictions"] > reached["runs"], reached


@pytest.mark.parametrize("compile", [True, False])
def test_a_long_stream_remembers_its_longest_tick(compile: bool) -> None:
    """Prompts that shrink from step to step make ever shorter ticks, more than there is room to remember."""
    prompts = np.array([1, *range(60, 10, -1)])
    load = Workload(np.arange(51) * 1.0, prompts, np.array([80] + [1] * 50))
    hardware = Hardware("exact", StepTime(0.5, c_tok=1 / 256), 200, 16)
    program = load_program(Greedy(), compile=compile)
    case = (load, hardware, Greedy(), EngineConfig(max_num_seqs=2))
    grouped, walked = simulate(program, case), simulate(program, case, walked=True)
    check_same(grouped, walked, "as a group and walked")
    assert (
        grouped.longest_gap_s[0] == 0.5 + 61 / 256
    )  # the step with the longest prompt, of 60 tokens, and its own token


def test_members_remembered_apart() -> None:
    """Two streams that joined at different times have different longest ticks."""
    load = Workload(
        np.array([0.0, 4.0, 12.0]), np.array([1, 100, 40]), np.array([60, 50, 1]), name="two streams and a prompt"
    )
    hardware = Hardware("exact", StepTime(0.5, c_tok=1 / 256), 200, 16)
    case: tuple[Workload, Hardware, Policy, EngineConfig] = (load, hardware, Greedy(), EngineConfig())
    records = simulate(load_program(Greedy()), case)
    assert records.longest_gap_s.tolist() == [0.5 + 101 / 256, 0.5 + 42 / 256, 0.0]
