"""Random small cases that reach the rare paths: eviction, a full cache, ties in time, hits on old blocks."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np

from fluidgate import policies
from fluidgate.engine import EngineConfig
from fluidgate.hardware import Hardware, StepTime
from fluidgate.policies import Policy
from fluidgate.workload import Workload

Case = tuple[Workload, Hardware, Policy, EngineConfig]

STEP_TIMES = (StepTime(1.0), StepTime(0.5, c_tok=0.25, c_seq=0.125), StepTime(0.01, 1e-4, 1e-6, 1e-8, 3e-5))
"""The first two are exact in binary, so that arrivals on a grid tie with the ends of steps."""


def random_case(random: Random) -> Case:
    """A workload of up to 14 requests, a cache about as large as the largest of them, any policy and setting."""
    block_size = random.choice([1, 2, 4, 16])
    n = random.randint(1, 14)
    crowded = random.random() < 0.5  # short prompts that grow together: they outgrow the cache
    prompt = [random.choice([1, random.randint(1, 12), random.randint(1, 12 if crowded else 40)]) for _ in range(n)]
    output = [random.randint(10, 30) if crowded else random.choice([1, random.randint(1, 30)]) for _ in range(n)]
    arrival_s = sorted(random.choice([0.0, random.randint(0, 30) / 2, 15 * random.random()]) for _ in range(n))
    least = max(-(-(p + o - 1) // block_size) for p, o in zip(prompt, output, strict=True))
    blocks = least + random.choice([0, 1, random.randint(0, 40 // block_size)])
    hardware = Hardware("random", random.choice(STEP_TIMES), blocks + 1, block_size)
    columns = np.array(arrival_s), np.array(prompt), np.array(output)
    prefixes = _prefix_tree(random, prompt, 4 * block_size if random.random() < 0.5 else block_size)
    workload = Workload(*columns, **(prefixes if random.random() < 0.4 else {}), name="random")
    policy, config = _policy(random), random_config(random)
    if policy.advance is not None:  # a pause and an interval between prompts are refused together
        config = replace(config, prefill_schedule_interval=1)
    return workload, hardware, policy, config


def _prefix_tree(random: Random, prompt: list[int], unit: int) -> dict[str, object]:
    """Chains of content ids, two branches at every node; equal ids mean equal content up to there."""
    node_of: dict[tuple[int, ...], int] = {}
    ids: list[int] = []
    offsets = [0]
    for tokens in prompt:
        path: tuple[int, ...] = ()
        for _ in range(random.randint(0, tokens // unit)):
            path = (*path, random.randint(0, 1))
            ids.append(node_of.setdefault(path, len(node_of)))
        offsets.append(len(ids))
    if not ids:
        return {}
    return {"prefix_ids": np.array(ids), "prefix_offsets": np.array(offsets), "prefix_block_tokens": unit}


def _policy(random: Random) -> Policy:
    choices: list[Policy] = [
        policies.ConcurrencyCap(float(random.randint(1, 4))),
        policies.RateLimited(random.choice([0.1, 0.5, 2.0])),
        policies.Watermark(random.choice([0.1, 0.4])),
        policies.Wait(random.choice([0.0, 2.5]), False, (random.choice([0.3, 2.0]), 1.0), (6.0,)),
        policies.NestedWait(random.choice([0.0, 2.5]), False, (2.0, random.choice([0.5, 2.0])), (5.0,)),
    ]
    return policies.Greedy() if random.random() < 0.4 else random.choice(choices)


def any_policy(random: Random) -> Policy:
    """Any built-in policy but `interval`, with parameters at which it acts on a small case."""
    seats = float(random.choice([2, 6, 256]))
    longest = float(random.randint(1, 100))
    lengths = tuple(sorted(float(random.randint(1, 90)) for _ in range(3)))
    rising = (1.0, float(random.randint(2, 20)), 40.0)
    strict = random.random() < 0.5
    paces = (float(random.randint(1, 2)), 1.0) if strict else (random.choice([0.3, 2.0]), 1.0)
    hold_s = random.choice([0.0, 2.5])
    choices: list[Policy] = [
        policies.Greedy(),
        policies.ConcurrencyCap(float(random.randint(1, 6))),
        policies.RateLimited(random.choice([0.1, 0.5, 2.0])),
        policies.Watermark(random.choice([0.1, 0.4])),
        policies.Wait(hold_s, strict, paces, (6.0,)),
        policies.NestedWait(hold_s, strict, paces, (5.0,)),
        policies.Fluid(random.choice([0.0, 0.1, 1.0])),
        policies.Fluid(0.1, (1.0,), (8.0,), lengths),
        policies.FluidVolume(),
        policies.Fluid(*(0.1, (1.0,), (8.0,), lengths, random.choice([8.0, 30.0])), learned=random.random() < 0.5),
        policies.Fluid(
            *(0.1, (0.5, 0.5), (8.0, 8.0)),
            class_timeouts_s=(random.choice([0.0, 20.0]), 8.0),
            class_weights=(1.0, 3.0),
            class_floors=(0.2, 0.0),
        ),
        policies.Fluid(random.choice([0.0, 0.1]), timeout_s=random.choice([0.0, 12.0]), ttft_timeout_s=4.0),
        policies.Fluid(announced=True),
        policies.KnownLengths(seats),
        policies.KnownDeadlines(seats),
        policies.Lifo(),
        policies.QueueCap(float(random.randint(0, 3))),
        policies.Codel(random.choice([0.5, 3.0]), random.choice([1.0, 10.0])),
        policies.McSf(seats),
        policies.ShortestFirst(),
        policies.SmallestVolumeFirst(),
        policies.AMin(seats, rising),
        policies.ExpectedCompletions(random.choice([0.5, 1.5, 3.0]), lengths),
        policies.MaxUtilization(random.choice([0.0, 4.0]), random.choice([0.0, 0.5])),
        policies.NoEvict(longest),
        policies.PastFuture(random.choice([0.0, 0.3]), 8.0, 256.0, lengths),
        policies.SGLang(longest, random.choice([0.0, 0.5, 1.0])),
    ]
    return random.choice(choices)


def random_config(random: Random) -> EngineConfig:
    """Any limits and switches of any mode."""
    mode = random.choice(["vllm", "vllm", "vllm", "sarathi", "prefill-first"])
    seats = random.choice([1, 2, 4, 256, 256])
    config = EngineConfig(
        mode=mode,
        max_num_seqs=seats,
        max_num_active_seqs=random.choice([None, max(1, seats // 2)]),
        max_num_batched_tokens=None if mode == "prefill-first" else random.choice([1, 7, 16, 64, 2048]),
        watermark=random.choice([None, 0.0, 0.0, 0.3]),
        enable_prefix_caching=random.random() < 0.6,
        scheduler_reserve_full_isl=random.random() < 0.6,
        long_prefill_token_threshold=random.choice([0, 0, 1, 5]) if mode == "vllm" else 0,
        cut_lone_prefill=mode == "vllm" and random.random() < 0.3,
        prefill_schedule_interval=random.choice([1, 1, 2, 3, 8]) if mode == "vllm" else 1,
        preemption=random.choice([*["recompute"] * 6, "restart", "offload"]),
        prompts_arrive_computed=random.random() < 0.25,
    )
    if mode == "vllm":
        return config
    spare = config.preemption != "restart" and random.random() < 0.5
    padded = mode == "prefill-first" and random.random() < 0.5
    return replace(config, decodes_need_spare_block=spare, pad_prompt_batches=padded)
