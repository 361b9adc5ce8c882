"""Runs over growing horizons, for the theorems of arXiv 2504.11320: what they leave behind, delay, and hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.engine import EngineConfig, RunRecords, run
from fluidgate.studies.paper.scaling_cases import (
    BOUNDARY_CASES,
    CASES,
    PROMPT,
    WAIT_CASES,
    Case,
    case,
)
from fluidgate.studies.paper.settings import LINEAR, machine
from fluidgate.workload import Discrete, Fixed, Workload, generate

BLOCK = 10
"""Seeds of a job."""
LONGER = {name: (0.25, 1.0, 4.0, 16.0) if name in WAIT_CASES | BOUNDARY_CASES else (0.25, 1.0, 4.0) for name in CASES}
"""Horizons by case, in requests of a run."""
LEAST_REQUESTS = 4_000
"""A study of fewer requests per run takes so many here: residents must be few against what arrives."""
AFTER = 1.25
"""How long arrivals go on, ÷ the horizon: without them the algorithms to the letter never serve the last ones."""
AFTER_REQUESTS = 400.0
AMPLE, LIMITLESS = 2, 10
"""Memory of Nested WAIT ÷ M^π, within the conditions and beyond: enough to run on, so that what was
held says how often M_req would not have done."""

_ENGINE = EngineConfig(
    max_num_seqs=2**12,
    max_num_batched_tokens=2**24,
    enable_prefix_caching=False,
    scheduler_reserve_full_isl=False,
    preemption="restart",
)


@dataclass(frozen=True)
class ScalingRun:
    """A job: a case over a horizon in which `requests` are expected, at `seeds` seeds from `first_seed` on."""

    case: str
    requests: int
    first_seed: int
    seeds: int = BLOCK


SCALING_SHAPE = dict.fromkeys(("gap", "queue", "latency", "wait", "peak_tokens", "restarts", "unfinished"), list)
"""Of what a run gives: a value a seed."""

Numbers = dict[str, FloatArray]
Scaling = dict[str, dict[int, Numbers]]
"""Values of all seeds, by case and by the requests expected in the horizon."""


def scaling_run(job: ScalingRun) -> dict[str, Any]:
    """Per seed, over the requests that arrive within the horizon.

    - gap: decode tokens of those not complete at its end ÷ those that the fluid completes. Its mean is that of the
      throughput's gap, whose arrivals have the fluid's mean, without their noise.
    - queue: the same of those that have not begun.
    - latency, wait: mean time to the last token and to the first iteration, full iterations. A request that never ends
      counts up to the end of the run, and in `unfinished`.
    - peak_tokens: the most KV that was held; restarts: of all requests. Both up to the end of the run, a quarter of the
      horizon after it, which counts against the theorems.
    """
    seeds = range(job.first_seed, job.first_seed + job.seeds)
    found = [_one(case(job.case), job.requests, seed) for seed in seeds]
    return {key: [numbers[key] for numbers in found] for key in SCALING_SHAPE}


def scaling_runs(requests: int, seeds: int) -> list[ScalingRun]:
    """All jobs of a study of so many requests per run and seeds."""
    return [
        ScalingRun(name, int(share * max(requests, LEAST_REQUESTS)), first)
        for name, shares in LONGER.items()
        for share in shares
        for first in range(0, seeds * CASES[name].repeats, BLOCK)
    ]


def collected(results: Iterable[tuple[ScalingRun, dict[str, Any]]]) -> Scaling:
    """The values of jobs put together."""
    parts: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for job, numbers in results:
        parts.setdefault(job.case, {}).setdefault(job.requests, []).append(numbers)
    return {
        name: {
            requests: {key: np.concatenate([block[key] for block in blocks]) for key in SCALING_SHAPE}
            for requests, blocks in by_requests.items()
        }
        for name, by_requests in parts.items()
    }


def draw_case(of: Case, requests: int, seed: int) -> Workload:
    """The requests of a case up to some time after the horizon."""
    horizon_s = of.horizon_s(requests)
    until_s = AFTER * horizon_s + AFTER_REQUESTS / (of.load * of.capacity)
    drawn = [
        generate(
            (stream.arrivals(of.capacity, horizon_s), Fixed(PROMPT), Discrete(stream.outputs, stream.shares)),
            duration_s=until_s,
            seed=len(of.streams) * seed + k,
        )
        for k, stream in enumerate(of.streams)
    ]
    arrival_s, output = (
        np.concatenate([getattr(one, name) for one in drawn]) for name in ("arrival_s", "output_tokens")
    )
    order = np.argsort(arrival_s, kind="stable")
    return Workload(arrival_s[order], np.full(len(order), PROMPT), output[order])


def run_case(of: Case, workload: Workload, memory_tokens: int) -> RunRecords:
    """A run on the linear machine with this memory."""
    hardware = machine(LINEAR).with_cache(memory_tokens + 1, block_size=1)
    return run(workload, hardware, of.make_policy(), _ENGINE)


def memory_of(of: Case) -> int:
    """M^π, which is all that WAIT needs; ample for Nested WAIT."""
    return of.base_tokens * (1 if of.cuts is None else AMPLE if of.within else LIMITLESS)


def _one(of: Case, requests: int, seed: int) -> dict[str, float]:
    horizon_s = of.horizon_s(requests)
    records = run_case(of, draw_case(of, requests, seed), memory_of(of))
    due = records.arrival_s <= horizon_s
    done = records.finished & (records.last_token_s <= horizon_s)
    begun = records.first_scheduled_s <= horizon_s
    decodes = records.workload.output_tokens - 1
    fluid = float(requests * _mean_decodes(of))
    begins_s, ends_s = (
        np.where(np.isnan(times) | ~reached, records.end_s, times) - records.arrival_s
        for times, reached in (
            (records.first_scheduled_s, np.ones(len(due), bool)),
            (records.last_token_s, records.finished),
        )
    )
    return {
        "gap": float(decodes[due & ~done].sum()) / fluid,
        "queue": float(decodes[due & ~begun].sum()) / fluid,
        "latency": float(ends_s[due].mean()) / of.iteration_s,
        "wait": float(begins_s[due].mean()) / of.iteration_s,
        "peak_tokens": float(records.peak_blocks),
        "restarts": float(records.preemptions.sum()),
        "unfinished": float((due & ~records.finished).sum()),
    }


def _mean_decodes(of: Case) -> float:
    total = sum(
        stream.rate.load * share * (length - 1)
        for stream in of.streams
        for length, share in zip(stream.outputs, stream.shares, strict=True)
    )
    return total / of.load
