"""A decode-only server, arXiv 2504.11320, appendix on disaggregated deployment: prompts come with their KV.

Two experiments: mean latency over the paper's rates on its workload p630-d20, and the rate at which a standing queue is
served where memory binds, with output lengths of one kind, which WAIT knows, and of many, which nobody does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from fluidgate.engine import EngineConfig
from fluidgate.fluid import FluidPlan, Limits, RequestMix, affine_step_time, stability
from fluidgate.policies import Greedy, NestedWait, Policy, make_policy
from fluidgate.runs.simulation import plan_for, simulate
from fluidgate.studies.paper.runs import LAW_REQUESTS, PLANNING_SEED, mean_e2e_s, service_rate
from fluidgate.studies.paper.settings import FOUR_TERM, LARGE, SARATHI, SEARCHED, V1, VIDUR, VLLM, machine
from fluidgate.workload import Workload, generate

PAPERS, OUTPUT = "p630-d20", 20
"""The paper's workload, and its output length."""
RATES = (100.0, 150.0, 200.0, 250.0, 300.0, 350.0, 400.0, 450.0, 500.0)
"""Requests per second."""
CAPS = (100, 200, 300, 400, 500, 600)
"""WAIT's B, as the authors searched it."""
MACHINES = (LARGE, FOUR_TERM, VIDUR)
"""The first has the model and the memory of the authors' runs: their settings name Llama-3-8B."""

SATURATED = (PAPERS, "p512-d1000", "lmsys", "r1-reasoning")
SATURATED_MACHINES = (LARGE, FOUR_TERM)
KNOWN = (PAPERS, "p512-d1000")
"""Workloads of one output length, which WAIT may be said to know."""

V1_RECOMPUTES = "vLLM V1, recompute"
"""Where a victim keeps its tokens and computes all its KV here, as in vLLM, which fetches it once."""
UNTUNED = ("wait", "nested-wait", "fluid")
GAP = 0.45
"""How far WAIT's mean latency lies below vLLM's at every rate, at the least."""
PUBLISHED_S: dict[str, dict[float, float]] = {
    VLLM: dict(zip(RATES, (0.879, 0.842, 0.710, 0.701, 1.621, 3.045, 3.891, 4.723, 5.392), strict=True)),
    SEARCHED: dict(zip(RATES, (0.260, 0.292, 0.343, 0.388, 0.569, 0.781, 1.272, 1.828, 2.445), strict=True)),
}
"""Mean E2E, seconds: the authors' notes on the runs behind the figure (github.com/Luoxiaogan/vidur_or)."""

SEARCH_SEED = 500
"""B is searched on a draw of its own."""


def _decode_only(**settings: Any) -> EngineConfig:
    """A victim starts again, and the KV of its prompt comes again: as in the authors' scheduler."""
    shared: dict[str, Any] = {"enable_prefix_caching": False, "preemption": "restart"}
    return EngineConfig.preset("decode-server", **(shared | settings))


ENGINES: dict[str, EngineConfig] = {
    # as the authors ran it in Vidur: 128 seats, and requests that arrive run without those that are there
    VLLM: _decode_only(mode="prefill-first", max_num_seqs=128, max_num_batched_tokens=4096, watermark=0.01),
    SARATHI: _decode_only(mode="sarathi", max_num_seqs=512),
    V1: _decode_only(max_num_seqs=1024),
}


@dataclass(frozen=True)
class DecodeRun:
    """A job.

    Attributes:
        workload: a preset.
        machine: a key of `settings.MACHINES`.
        scheduler: a key of `ENGINES` or `V1_RECOMPUTES` with greedy admission, a policy on vLLM V1, or WAIT under
            `cap`.
        rate: requests per second; None: all requests at once.
        requests, seed: of the draw.
        cap: the paper's B.
    """

    workload: str
    machine: str
    scheduler: str
    rate: float | None
    requests: int
    seed: int
    cap: int | None = None


DECODE_SHAPE = dict.fromkeys(("mean_e2e_s", "service_rate", "restarts"), float)
"""Of what a run gives."""


def decode_runs(requests: int, seeds: Iterable[int]) -> list[DecodeRun]:
    """All jobs; the search for B first."""
    seeds = list(seeds)
    over_rates = [(name, rate) for name in MACHINES for rate in RATES]
    jobs = []
    for seed in (SEARCH_SEED, *seeds):
        jobs += [
            DecodeRun(PAPERS, name, SEARCHED, rate, requests, seed, cap) for name, rate in over_rates for cap in CAPS
        ]
    for seed in seeds:
        jobs += [
            DecodeRun(PAPERS, name, scheduler, rate, requests, seed)
            for name, rate in over_rates
            for scheduler in (*ENGINES, *UNTUNED)
        ]
        jobs += [
            DecodeRun(workload, name, scheduler, None, requests, seed)
            for workload in SATURATED
            for name in SATURATED_MACHINES
            for scheduler in (*ENGINES, V1_RECOMPUTES, *UNTUNED)
        ]
    return jobs


def decode_run(job: DecodeRun) -> dict[str, Any]:
    """The numbers of a job: seconds, requests per second, restarts per request."""
    engine = ENGINES.get(job.scheduler, ENGINES[V1])
    if job.scheduler == V1_RECOMPUTES:
        engine = replace(engine, preemption="recompute")
    if job.cap is not None:
        engine = replace(engine, max_num_active_seqs=job.cap)
    workload = _draw(job.workload, job.requests, job.seed, job.rate)
    records = simulate(workload, machine(job.machine), _policy(job), config=engine)
    return {
        "mean_e2e_s": mean_e2e_s(records),
        "service_rate": service_rate(records),
        "restarts": float(records.preemptions.mean()),
    }


def boundary(workload: str, on: str) -> float:
    """The largest rate that memory and the work allow any policy, requests per second; seats to spare."""
    hardware = machine(on)
    drawn = _draw(workload, LAW_REQUESTS, PLANNING_SEED, 1.0)
    mix = replace(RequestMix.from_workload(drawn, 1.0), prompts_computed=True)
    limits = Limits.of(hardware)
    return stability(mix, affine_step_time(mix, hardware, limits), limits).boundary_rate


def chosen_cap(runs: dict[DecodeRun, dict[str, float]], on: str, rate: float) -> int:
    """The B of least mean latency on the draw of the search."""
    reached = {
        run.cap: numbers["mean_e2e_s"]
        for run, numbers in runs.items()
        if (run.machine, run.rate, run.seed) == (on, rate, SEARCH_SEED) and run.cap is not None
    }
    return min(reached, key=reached.__getitem__)


def mean_of(
    runs: dict[DecodeRun, dict[str, float]],
    key: str,
    on: str,
    scheduler: str,
    rate: float | None,
    workload: str = PAPERS,
) -> float:
    """Mean over the seeds; of WAIT at the chosen B."""
    cap = chosen_cap(runs, on, rate) if scheduler == SEARCHED and rate is not None else None
    wanted = (workload, on, scheduler, rate, cap)
    return float(
        np.mean(
            [
                numbers[key]
                for run, numbers in runs.items()
                if (run.workload, run.machine, run.scheduler, run.rate, run.cap) == wanted and run.seed != SEARCH_SEED
            ]
        )
    )


def _policy(job: DecodeRun) -> Policy:
    if job.cap is not None:
        settings: dict[str, Any] = {"hold_s": 0.0, "strict": False, "thresholds": (job.cap / OUTPUT,), "cuts": ()}
        return NestedWait(**settings)  # with one segment it is WAIT
    if job.scheduler in (*ENGINES, V1_RECOMPUTES):
        return Greedy()
    return make_policy(job.scheduler, _plan(job.workload, job.machine, job.rate))


def _draw(workload: str, requests: int, seed: int, rate: float | None) -> Workload:
    drawn = generate(workload, n=requests, rate=1.0 if rate is None else rate, seed=seed)
    return drawn if rate is not None else replace(drawn, arrival_s=np.zeros(requests))


@cache
def _plan(workload: str, on: str, rate: float | None) -> FluidPlan:
    return plan_for(_draw(workload, LAW_REQUESTS, PLANNING_SEED, rate), machine(on), ENGINES[V1])
