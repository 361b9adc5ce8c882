"""One run of the paper's studies, as a job, and the numbers that are kept of it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from fluidgate.engine import EngineConfig, RunRecords
from fluidgate.errors import ThresholdWarning
from fluidgate.fluid import FluidPlan, Limits, RequestMix, affine_step_time, stability
from fluidgate.policies import Greedy, Policy, make_policy
from fluidgate.runs.simulation import plan_for, simulate
from fluidgate.studies.paper.settings import EQUAL, capped_policy, draw, machine, schedulers, study
from fluidgate.workload import Workload, generate

PLANNING_SEED = 1_000
"""Plans and thresholds come from a draw of their own: no policy has seen the requests it is run on."""

LAW_REQUESTS = 20_000
"""Of the draw that stands for a law of lengths."""

WINDOW = (0.2, 0.8)
"""What is measured lies between these shares of a run, after the start and before the end."""


@dataclass(frozen=True)
class PaperRun:
    """A job.

    Attributes:
        study: a key of `STUDIES`.
        scheduler: a key of `SCHEDULERS`, or with `chunk` of `EQUAL`.
        rate: requests per second; None: all requests at once.
        requests, seed: of the draw.
        cap, segments: the paper's B, and the segments of Nested WAIT, where they are searched.
        chunk: tokens per iteration, the same for all schedulers; None: as published.
    """

    study: str
    scheduler: str
    rate: float | None
    requests: int
    seed: int
    cap: int | None = None
    segments: int = 1
    chunk: int | None = None


PAPER_SHAPE = dict.fromkeys(("mean_e2e_s", "completion_rate", "service_rate", "restarts", "completed"), float)
"""Of what a run gives."""


def paper_run(job: PaperRun) -> dict[str, Any]:
    """The numbers of a job: seconds, requests per second, shares."""
    paper_study = study(job.study)
    workload = draw(paper_study, job.requests, job.seed, job.rate)
    records = simulate(workload, machine(paper_study.machine), _policy(job), config=_engine(job))
    return {
        "mean_e2e_s": mean_e2e_s(records),
        "completion_rate": completion_rate(records),
        "service_rate": service_rate(records),
        "restarts": float(records.preemptions.sum()) / len(workload),
        "completed": float(records.finished.mean()),
    }


def mean_e2e_s(records: RunRecords) -> float:
    """Mean end-to-end latency of the requests that arrive in the window, seconds; NaN if one of them never ends."""
    n = len(records)
    within = slice(int(WINDOW[0] * n), int(WINDOW[1] * n))
    return (
        float((records.last_token_s - records.arrival_s)[within].mean()) if records.finished[within].all() else np.nan
    )


def completion_rate(records: RunRecords) -> float:
    """Completions in the window of the arrivals ÷ its length, requests per second; restarted work does not count."""
    begin_s, end_s = (share * float(records.arrival_s[-1]) for share in WINDOW)
    if end_s <= begin_s:
        return float("nan")
    ends_s = records.last_token_s[records.finished]
    return float(((ends_s > begin_s) & (ends_s <= end_s)).sum()) / (end_s - begin_s)


def service_rate(records: RunRecords) -> float:
    """Completions per second between the window's shares of all completions; at saturation the largest stable rate.

    A request counts for the part of its stay that lies within: cohorts of equal requests complete all at once, and
    whether one falls into the window must not matter. The window ends a mean stay before the last admission, beyond
    which iterations are short.
    """
    done = records.finished
    if not done.any():
        return float("nan")
    entered_s, left_s = records.first_scheduled_s[done], records.last_token_s[done]
    stay_s = left_s - entered_s
    begin_s, end_s = np.quantile(left_s, WINDOW)
    end_s = min(end_s, float(np.nanmax(records.first_scheduled_s) - stay_s.mean()))
    if end_s <= begin_s:
        return float("nan")
    within_s = np.clip(left_s, begin_s, end_s) - np.clip(entered_s, begin_s, end_s)
    return float((within_s / stay_s).sum() / (end_s - begin_s))


def boundary_rate(preset: str, on: str) -> float:
    """The largest rate that a machine's memory and the work allow a policy, requests per second (docs/model.md §2)."""
    hardware = machine(on)
    mix = RequestMix.from_workload(generate(preset, n=LAW_REQUESTS, rate=1.0, seed=PLANNING_SEED))
    limits = Limits.of(hardware)
    return stability(mix, affine_step_time(mix, hardware, limits), limits).boundary_rate


def _engine(job: PaperRun) -> EngineConfig:
    if job.chunk is None:
        engine = schedulers(study(job.study))[job.scheduler].engine
    else:
        engine = replace(EQUAL[job.scheduler].engine, max_num_batched_tokens=job.chunk)
    return engine if job.cap is None else replace(engine, max_num_active_seqs=job.cap)


def _policy(job: PaperRun) -> Policy:
    paper_study = study(job.study)
    spec = (schedulers(paper_study) if job.chunk is None else EQUAL)[job.scheduler].policy
    if spec is None:
        assert job.cap is not None
        return capped_policy(paper_study, _law(job.study, job.requests), job.cap, job.segments)
    if spec == "greedy":
        return Greedy()  # no plan, which takes longer than a run
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ThresholdWarning)  # the page says where the algorithms to the letter do not fit
        return make_policy(spec, _plan(job.study, job.requests, job.rate, _engine(job)))


@lru_cache(maxsize=8)
def _law(name: str, requests: int) -> Workload:
    return draw(study(name), requests, PLANNING_SEED, None)


@lru_cache(maxsize=64)
def _plan(name: str, requests: int, rate: float | None, engine: EngineConfig) -> FluidPlan:
    paper_study = study(name)
    return plan_for(draw(paper_study, requests, PLANNING_SEED, rate), machine(paper_study.machine), engine)
