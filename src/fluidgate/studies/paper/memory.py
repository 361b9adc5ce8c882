"""The memory that the fluid equilibrium needs, M*, and what Nested WAIT's guarantee costs with L segments."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from fluidgate.engine import EngineConfig, RunRecords, run
from fluidgate.fluid import (
    Guarantee,
    Limits,
    PromptBound,
    RequestMix,
    cut_points,
    equilibrium,
    nested_shape,
    safety_buffer,
    segments,
)
from fluidgate.hardware import Hardware
from fluidgate.policies import Greedy
from fluidgate.studies.paper.runs import LAW_REQUESTS, WINDOW
from fluidgate.studies.paper.settings import LINEAR, draw, machine, study

CAPACITY_TOKENS = 137_000
MEAN_KV_ITERATIONS = 28_172.0
"""E[(o + 1)(l + o/2)] of the paper's LMSYS sample, from its M*."""

PUBLISHED = {50.0: 34_377.0, 60.0: 55_758.0, 70.0: 100_327.0, 80.0: 250_509.0}
"""M* by arrival rate, tokens; 80 is beyond C. arXiv 2504.11320, the table of section 6.2."""
PUBLISHED_CROSSING = 74.1
"""Arrival rate at which M* = C, requests per second."""

SEGMENT_COUNTS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
SLACKS = np.geomspace(0.01, 0.5, 25)
"""How far the ratios n_k/n_{k-1} lie above the survival, as a share of the way to 1; the best one is taken."""


@dataclass(frozen=True)
class MemoryRun:
    """A job: LMSYS-like requests on the linear machine at a rate, with memory to spare, every request admitted."""

    rate: float
    seed: int
    requests: int = LAW_REQUESTS


MEMORY_SHAPE = dict.fromkeys(("kv_tokens", "predicted_tokens"), float)
"""Of what a run gives."""


def memory_run(job: MemoryRun) -> dict[str, Any]:
    """Mean KV tokens of the residents in the middle of a run, and M* of the requests that arrive there."""
    hardware = replace(_token_machine(), num_gpu_blocks=20 * CAPACITY_TOKENS)
    workload = draw(study("lmsys"), job.requests, job.seed, job.rate)
    config = EngineConfig(max_num_seqs=job.requests, max_num_batched_tokens=10**6, enable_prefix_caching=False)
    begin_s, end_s = (share * float(workload.arrival_s[-1]) for share in WINDOW)
    arriving = workload.take(np.flatnonzero((workload.arrival_s > begin_s) & (workload.arrival_s <= end_s)))
    mix = RequestMix.from_workload(arriving, len(arriving) / (end_s - begin_s))
    predicted = equilibrium(mix, hardware.step_time)
    records = run(workload, hardware, Greedy(), config, record="steps")
    return {
        "kv_tokens": _mean_kv_tokens(records, begin_s, end_s),
        "predicted_tokens": float("inf") if predicted is None else predicted.kv_tokens,
    }


def fluid_memory(rate: float, kv_iterations: float = MEAN_KV_ITERATIONS) -> float:
    """M* = d0 λa/(1 - d1 λa), tokens; infinite from d1 λa = 1 on."""
    step = machine(LINEAR).step_time
    work = step.c_kv * rate * kv_iterations
    return step.c0 * rate * kv_iterations / (1.0 - work) if work < 1.0 else float("inf")


def crossing_rate(kv_iterations: float = MEAN_KV_ITERATIONS) -> float:
    """The rate at which M* = C: C/((d0 + d1 C)·a), requests per second."""
    return CAPACITY_TOKENS / (float(machine(LINEAR).step_time.duration_s(0, CAPACITY_TOKENS, 0, 0)) * kv_iterations)


def preset_memory(rate: float) -> float:
    """M* of this package's LMSYS-like lengths in the engine's convention; infinite beyond d1 λa = 1."""
    steady_state = equilibrium(_law().scaled(rate), machine(LINEAR).step_time)
    return float("inf") if steady_state is None else steady_state.kv_tokens


def guaranteed_rate(count: int, prompt_bound: PromptBound) -> float:
    """The largest rate at which L segments come with the paper's guarantee (T = 1000 s, δ = 1%), requests per second.

    LMSYS-like lengths on the linear machine, segments of equal shares of the requests; the guarantee needs the
    largest prompts, the mean ones give an estimate of what few long prompts cost.
    """
    hardware = _token_machine()
    cut = segments(_law(), cut_points(_law(), count), hardware.law, prompt_bound)
    limits = Limits.of(hardware)
    return max(
        safety_buffer(
            nested_shape(cut, float(slack), hardware.step_time), 1.0, hardware.step_time, limits, Guarantee()
        ).guaranteed_rate
        for slack in (SLACKS if count > 1 else SLACKS[:1])
    )


@cache
def _law() -> RequestMix:
    return RequestMix.from_workload(draw(study("lmsys"), LAW_REQUESTS, 0, 1.0), 1.0)


def _token_machine() -> Hardware:
    """The linear machine with memory counted by the token, as in the paper."""
    return machine(LINEAR).with_cache(CAPACITY_TOKENS + 1, block_size=1)


def _mean_kv_tokens(records: RunRecords, begin_s: float, end_s: float) -> float:
    """The mean over iterations, which the fluid balance gives exactly; that over time is larger."""
    steps = records.steps
    assert steps is not None
    within = (steps.start_s > begin_s) & (steps.end_s < end_s)
    return float((records.total_blocks - steps.free_blocks[within]).mean())
