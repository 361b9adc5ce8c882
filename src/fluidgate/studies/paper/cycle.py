"""Greedy admission of equal requests: the toy example of arXiv 2504.11320 and the limit cycle of arXiv 2606.15555.

Both papers count time in iterations and memory in tokens, so here an iteration takes a second and a block holds a
token. They count l + i tokens in iteration i of a request, the engine l + i - 1: their l is the engine's l - 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fluidgate.engine import EngineConfig, RunRecords, run
from fluidgate.hardware import Hardware, StepTime
from fluidgate.metrics import number_in_system
from fluidgate.policies import Greedy, Policy, RateLimited, Wait
from fluidgate.studies.paper.runs import WINDOW
from fluidgate.workload import Poisson, Workload

LENGTHS = ((10, 100), (100, 100), (512, 20), (512, 1000))
"""Prompt and output lengths, tokens."""
COHORT = 100
"""Requests that fill the memory with their last token: C = COHORT·(l + o - 1)."""

POISSON_LENGTHS = (10, 100)
POISSON_LOADS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Arrival rate ÷ x*."""
BACKLOG_SHARE = 0.25
PACE = 0.98
"""Pace of the remedy ÷ x*."""

TOY_PROMPT, TOY_OUTPUT, TOY_MEMORY, TOY_ARRIVALS = 1, 2, 12, 4
"""A prompt "Hello" and an answer "Hi": 1 KV token after the prefill, 2 after the decode, 12 fit, 4 come at a time."""
TOY_ITERATIONS = 300


@dataclass(frozen=True)
class CycleRun:
    """A job: equal requests under one policy.

    Attributes:
        prompt, output: tokens.
        policy: greedy or rate-limited.
        requests, seed: of the draw.
        load: Poisson arrivals at this share of x*; None: all at once.
        backlog: whether a quarter of them are there at the beginning.
    """

    prompt: int
    output: int
    policy: str
    requests: int
    seed: int = 0
    load: float | None = None
    backlog: bool = False


CYCLE_SHAPE = dict.fromkeys(("per_iteration", "restarts", "growth"), float)
"""Of what a run gives."""


def cycle_run(job: CycleRun) -> dict[str, Any]:
    """Completions per iteration, restarts per request, and the share of the arriving requests that stay behind."""
    best = largest_pace(job.prompt, job.output)
    workload = Workload(_arrival_s(job, best), np.full(job.requests, job.prompt), np.full(job.requests, job.output))
    paced: dict[str, Any] = {"per_iteration": PACE * best}
    policy = Greedy() if job.policy == "greedy" else RateLimited(**paced)
    records = _run(workload, policy, COHORT * (job.prompt + job.output - 1))
    return {
        "per_iteration": completions_per_iteration(records),
        "restarts": float(records.preemptions.mean()),
        "growth": _growth(records),
    }


def largest_pace(prompt: int, output: int) -> float:
    """x*, completions per iteration at the eviction-free point: C ÷ the KV of a request summed over iterations."""
    return COHORT * (prompt + output - 1) / (prompt * output + output * (output - 1) / 2)


def cycle_share(prompt: int, output: int) -> float:
    """Rate of the limit cycle ÷ x*: (2l + o + 1)/(2(l + o)) with the papers' l, the engine's l - 1."""
    l_paper = prompt - 1
    return (2 * l_paper + output + 1) / (2 * (l_paper + output))


def toy_example(policy: Policy) -> float:
    """Completions per iteration in the long run, from 6 requests before the prefill and 3 in decode."""
    start_s = np.concatenate((np.zeros(3), np.full(6, 0.5)))
    later_s = np.repeat(np.arange(1, TOY_ITERATIONS) + 0.5, TOY_ARRIVALS)
    arrival_s = np.concatenate((start_s, later_s))
    n = len(arrival_s)
    records = _run(Workload(arrival_s, np.full(n, TOY_PROMPT), np.full(n, TOY_OUTPUT)), policy, TOY_MEMORY)
    ends_s = records.last_token_s[records.finished]
    begin, end = TOY_ITERATIONS // 3, TOY_ITERATIONS
    return float(((ends_s > begin + 0.75) & (ends_s <= end + 0.75)).sum()) / (end - begin)


def toy_wait() -> Wait:
    """WAIT to the letter with the threshold of the example, 4."""
    settings: dict[str, Any] = {
        "hold_s": 0.0,
        "strict": True,
        "thresholds": (float(TOY_ARRIVALS),),
        "output_edges": (),
    }
    return Wait(**settings)


def _arrival_s(job: CycleRun, best: float) -> np.ndarray:
    if job.load is None:
        return np.zeros(job.requests)
    arrival_s = Poisson(job.load * best).sample(job.requests, np.random.default_rng(job.seed))
    if not job.backlog:
        return arrival_s
    first = int(BACKLOG_SHARE * job.requests)
    return np.concatenate((np.zeros(first), arrival_s[first:] - arrival_s[first - 1]))


def _run(workload: Workload, policy: Policy, memory_tokens: int) -> RunRecords:
    hardware = Hardware("one token a block", StepTime(c0=1.0), memory_tokens + 1, block_size=1)
    config = EngineConfig(
        max_num_seqs=memory_tokens,
        max_num_batched_tokens=10 * memory_tokens,
        enable_prefix_caching=False,
        scheduler_reserve_full_isl=False,
        preemption="restart",
    )
    return run(workload, hardware, policy, config)


def completions_per_iteration(records: RunRecords) -> float:
    """Between two completions, so that cohorts that complete all at once count whole."""
    ends_s = records.last_token_s[records.finished]
    begin_s, end_s = np.quantile(ends_s, WINDOW, method="inverted_cdf")
    return float(((ends_s > begin_s) & (ends_s <= end_s)).sum() / (end_s - begin_s))


def _growth(records: RunRecords) -> float:
    """Growth of the number in system over the window of the arrivals ÷ the requests that arrive in it."""
    arrival_s = records.arrival_s
    if arrival_s[-1] == arrival_s[0]:
        return float("nan")
    begin_s, end_s = (share * float(arrival_s[-1]) for share in WINDOW)
    times, counts = number_in_system(records)
    before, after = (counts[np.searchsorted(times, at, side="right") - 1] for at in (begin_s, end_s))
    arrivals = int(((arrival_s > begin_s) & (arrival_s <= end_s)).sum())
    return float(after - before) / arrivals
