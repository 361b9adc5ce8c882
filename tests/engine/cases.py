"""Random small cases that reach the rare paths: eviction, a full cache, ties in time, hits on old blocks."""

from __future__ import annotations

from random import Random

import numpy as np

from fluidgate.engine import EngineConfig
from fluidgate.hardware import Hardware, StepTime
from fluidgate.policies import ConcurrencyCap, Greedy, NestedWait, Policy, RateLimited, Wait, Watermark
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
    return workload, hardware, _policy(random), _config(random)


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
    policies: list[Policy] = [
        ConcurrencyCap(float(random.randint(1, 4))),
        RateLimited(random.choice([0.1, 0.5, 2.0])),
        Watermark(random.choice([0.1, 0.4])),
        Wait(random.choice([0.0, 2.5]), False, (random.choice([0.3, 2.0]), 1.0), (6.0,)),
        NestedWait(random.choice([0.0, 2.5]), False, (2.0, random.choice([0.5, 2.0])), (5.0,)),
    ]
    return Greedy() if random.random() < 0.4 else random.choice(policies)


def _config(random: Random) -> EngineConfig:
    mode = random.choice(["vllm", "vllm", "vllm", "sarathi", "prefill-first"])
    seats = random.choice([1, 2, 4, 256, 256])
    return EngineConfig(
        mode=mode,
        max_num_seqs=seats,
        max_num_active_seqs=random.choice([None, max(1, seats // 2)]),
        max_num_batched_tokens=None if mode == "prefill-first" else random.choice([1, 7, 16, 64, 2048]),
        watermark=random.choice([None, 0.0, 0.0, 0.3]),
        enable_prefix_caching=random.random() < 0.6,
        scheduler_reserve_full_isl=random.random() < 0.6,
        long_prefill_token_threshold=random.choice([0, 0, 1, 5]) if mode == "vllm" else 0,
        cut_lone_prefill=mode == "vllm" and random.random() < 0.3,
        preemption=random.choice([*["recompute"] * 6, "restart", "offload"]),
    )
