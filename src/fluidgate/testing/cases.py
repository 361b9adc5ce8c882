"""The cases of the kit: a cache that a handful of requests fill, every mode of the engine, and seven workloads."""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from fluidgate.arrays import FloatArray, IntArray
from fluidgate.engine import EngineConfig
from fluidgate.hardware import Hardware, StepTime
from fluidgate.workload import Workload


def small_hardware() -> Hardware:
    """24 blocks of 4 tokens: a cache that a handful of requests fill."""
    step_time = StepTime(c0=0.01, c_tok=1e-4, c_kv=1e-5, c_attn=1e-6, c_seq=1e-4)
    return Hardware("small", step_time, num_gpu_blocks=25, block_size=4)


def small_configs() -> list[EngineConfig]:
    """Every mode, prefix caching on and off, every fate of victims, tight and loose limits."""
    return [
        EngineConfig(),
        EngineConfig(
            max_num_batched_tokens=16,
            long_prefill_token_threshold=8,
            enable_prefix_caching=False,
            scheduler_reserve_full_isl=False,
        ),
        EngineConfig(max_num_seqs=6, async_scheduling=True),
        EngineConfig(max_num_seqs=6, enable_prefix_caching=False, preemption="restart"),
        EngineConfig(max_num_seqs=6, enable_prefix_caching=False, preemption="offload"),
        EngineConfig(mode="sarathi", max_num_batched_tokens=16),
        EngineConfig(mode="prefill-first", enable_prefix_caching=False),
    ]


def small_workloads() -> list[Workload]:
    """Burst, light load, overload, shared prefixes, a cache nearly too small, one request, ties in time."""
    draw = np.random.default_rng(7)

    def lengths(n: int, most: int) -> IntArray:
        return draw.integers(1, most + 1, n)

    def poisson(n: int, mean_gap_s: float) -> FloatArray:
        return np.cumsum(draw.exponential(mean_gap_s, n))

    shared = Workload(
        poisson(8, 0.03),
        np.full(8, 26),
        lengths(8, 20),
        prefix_ids=np.tile([1, 2, 3, 1, 2, 4], 4),
        prefix_offsets=np.arange(0, 25, 3),
        prefix_block_tokens=8,
        name="shared",
    )
    tight = np.array([[96, 1], [1, 96], [48, 49], [40, 57], [1, 2]])
    return [
        Workload(np.zeros(16), lengths(16, 30), lengths(16, 20), name="burst"),
        Workload(poisson(8, 1.0), lengths(8, 30), lengths(8, 12), name="light"),
        Workload(poisson(24, 0.01), lengths(24, 24), lengths(24, 24), name="overload"),
        shared,
        Workload(np.zeros(5), tight[:, 0], tight[:, 1], name="nearly too small"),
        Workload(np.array([0.5]), np.array([7]), np.array([5]), name="one request"),
        Workload(np.repeat([0.0, 0.25, 0.25, 0.5], 3), lengths(12, 20), np.full(12, 9), name="ties"),
    ]


def case_in_words(policy: str, workload: Workload, config: EngineConfig) -> str:
    """As an error names a case: the policy, the workload, and the settings that differ from the defaults."""
    default = EngineConfig()
    set_here = [f.name for f in fields(config) if getattr(config, f.name) != getattr(default, f.name)]
    settings = ", ".join(f"{name}={getattr(config, name)}" for name in set_here) or "default settings"
    return f"policy {policy} on workload {workload.name!r} ({settings})"
