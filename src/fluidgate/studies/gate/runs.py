"""One run of the gate experiment, as a job, and the numbers that are kept of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fluidgate.engine import EngineConfig, RunRecords
from fluidgate.fluid import FluidPlan, Limits, RequestMix, Stability
from fluidgate.fluid.stability import bound_seconds
from fluidgate.metrics import summarize
from fluidgate.policies import Policy, make_policy, policy_class
from fluidgate.runs.simulation import plan_for, simulate
from fluidgate.studies.gate.cases import Case, case
from fluidgate.workload import Workload

SEATS = 1024
"""Seats of every engine here: memory is to bind, not `max_num_seqs`."""

PLANNING_SEED = 1_000
"""Plans come from a draw of their own: no policy has seen the requests it is run on."""

ENGINES = {
    "no cache": EngineConfig(max_num_seqs=SEATS, enable_prefix_caching=False),
    "prefix cache": EngineConfig(max_num_seqs=SEATS),
    "restart": EngineConfig(max_num_seqs=SEATS, enable_prefix_caching=False, preemption="restart"),
    "offload": EngineConfig(max_num_seqs=SEATS, enable_prefix_caching=False, preemption="offload"),
}

PRIORS = ("right", "half", "double", "50 requests", "none")
"""What a policy's plan takes for the output lengths: the law itself, half or twice as long, what 50 requests show, or
nothing (then the policy starts without a plan)."""

KEPT = (
    "completed",
    "preemptions",
    "recompute_tax",
    "stalled_share",
    "mean_longest_silence_s",
    "p99_longest_silence_s",
    "mean_ttft_ms",
    "p99_ttft_ms",
    "mean_tpot_ms",
    "mean_e2el_ms",
    "p99_e2el_ms",
    "effective_throughput",
    "kv_mean",
)

GATE_SHAPE = dict.fromkeys((*KEPT, "bound_share", "offered"), float)
"""Of what a run gives."""


@dataclass(frozen=True)
class GateRun:
    """A job.

    Attributes:
        case: see `cases`.
        engine: a key of `ENGINES`.
        load: arrival rate ÷ stability boundary; None: all requests at once.
        requests, seed: of the draw.
        policy: a spec as `make_policy` takes it.
        watermark, cap, interval: vLLM's own settings, for the tuned baseline; None: vLLM's default.
        prior: one of `PRIORS`.
    """

    case: str
    engine: str
    load: float | None
    requests: int
    seed: int
    policy: str
    watermark: float | None = None
    cap: int | None = None
    interval: int | None = None
    prior: str = "right"


class GateRuns:
    """What all jobs share; called with a job, returns the numbers of its run.

    Args:
        mooncake: the Mooncake trace.
    """

    def __init__(self, mooncake: Path | None) -> None:
        self.mooncake = mooncake and mooncake.absolute()

    def __call__(self, job: GateRun) -> dict[str, Any]:
        gate_case = case(job.case, self.mooncake)
        workload = _drawn(gate_case, job.requests, job.seed, job.load)
        config = ENGINES[job.engine]
        if job.watermark is not None or job.cap is not None:
            config = replace(config, watermark=job.watermark, max_num_active_seqs=job.cap)
        if job.interval is not None:
            config = replace(config, prefill_schedule_interval=job.interval)
        policy = _policy(gate_case, job)
        records = simulate(workload, gate_case.hardware, policy, config=config)
        summary = summarize(records)
        numbers = {name: getattr(summary, name) for name in KEPT}
        return {**numbers, "bound_share": bound_share(records), "offered": len(workload)}


def planned(gate_case: Case, requests: int, load: float | None) -> FluidPlan:
    """The plan of a case at a load, from a draw that no run uses; saturated: at the boundary."""
    config = ENGINES["no cache"]
    at_boundary = _boundary_plan(gate_case, requests)
    if load is None:
        return at_boundary
    return plan_for(_drawn(gate_case, requests, PLANNING_SEED, load), gate_case.hardware, config)


def boundary(name: str, requests: int) -> Stability:
    """The stability of a case that needs no trace."""
    return _boundary_plan(case(name), requests).stability


def planned_facts(name: str, requests: int) -> tuple[str, str, str, str]:
    """n*, η, ρ_on and χ of a case, as text."""
    stable = boundary(name, requests)
    onset = "never" if stable.onset_load is None else f"{stable.onset_load:.2f}"
    return f"{stable.residents:.0f}", f"{stable.eta:.2f}", onset, f"{stable.coherence:.2f}"


@lru_cache(maxsize=64)
def _boundary_plan(gate_case: Case, requests: int) -> FluidPlan:
    draw = gate_case.draw(requests, PLANNING_SEED)
    return plan_for(_at_once(draw), gate_case.hardware, ENGINES["no cache"])


@lru_cache(maxsize=64)
def _plan(gate_case: Case, requests: int, load: float | None) -> FluidPlan:
    return planned(gate_case, requests, load)


@lru_cache(maxsize=4)
def _drawn(gate_case: Case, requests: int, seed: int, load: float | None) -> Workload:
    draw = gate_case.draw(requests, seed)
    if load is None:
        return _at_once(draw)
    boundary = _boundary_plan(gate_case, requests).stability.boundary_rate
    return draw.scaled(load * boundary / draw.rate)


def _at_once(workload: Workload) -> Workload:
    return replace(workload, arrival_s=np.zeros(len(workload)))


def _policy(gate_case: Case, job: GateRun) -> Policy:
    if job.prior == "none":
        return policy_class(job.policy)()
    if job.prior == "right":
        return make_policy(job.policy, _plan(gate_case, job.requests, job.load))
    sample = _drawn(gate_case, job.requests, PLANNING_SEED, job.load)
    if job.prior == "50 requests":
        sample = sample.take(slice(0, 50))
    else:
        factor = {"half": 0.5, "double": 2.0}[job.prior]
        outputs = np.maximum(1, np.rint(sample.output_tokens * factor)).astype(np.int64)
        sample = replace(sample, output_tokens=outputs)
    return make_policy(job.policy, plan_for(sample, gate_case.hardware, ENGINES[job.engine]))


def bound_share(records: RunRecords) -> float:
    """Service rate while a queue stands, as a share of the fluid bound 1/(w + c0/x*) (docs/model.md §2).

    A completed request counts for the time that the bound gives it, its work and its part of the fixed cost, so that
    a window's mix of lengths does not matter. The window begins when a fifth of the requests have finished and ends
    with the last admission; NaN if there is none, or if requests were left over.
    """
    load, hardware = records.workload, records.hardware
    mix = RequestMix(np.ones(len(load)), load.prompt_tokens, load.output_tokens)
    budget = records.config.token_budget(int(mix.peak_kv_tokens.max()))
    ideal_s = bound_seconds(mix, hardware.step_time, Limits.of(hardware, budget, records.config.max_num_seqs))
    ends_s = np.sort(records.last_token_s)
    begin_s, end_s = float(ends_s[len(ends_s) // 5]), float(records.first_scheduled_s.max())
    if not (records.finished.all() and end_s > begin_s):
        return float("nan")
    within = (records.last_token_s > begin_s) & (records.last_token_s <= end_s)
    return float(ideal_s[within].sum() / (end_s - begin_s))
