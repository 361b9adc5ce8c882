"""Remedy 2 of arXiv 2606.15555: output lengths mixed over replicas, so that their greatest common divisor is 1.

Two replicas with a standing queue, memory counted by the token, an iteration a second, victims that start again: as
in `cycle`. Each replica serves a group of lengths of its own (`by-class`), or both serve all (`gcd-mixing`,
`round-robin`).
Lengths are the paper's, whose l is the engine's l - 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import gcd
from typing import Any

import numpy as np

from fluidgate.engine import EngineConfig, Fleet, run_fleet
from fluidgate.hardware import Hardware, StepTime
from fluidgate.policies import Greedy
from fluidgate.studies.paper.cycle import completions_per_iteration
from fluidgate.studies.paper.verdicts import CLEAR, NEAR_LATENCY, Claim, agreed
from fluidgate.workload import Workload

Lengths = tuple[tuple[int, int], ...]
"""Prompt l and output o of the types of a group, in equal shares."""

PUBLISHED, SHORT, LONG = "as published", "short outputs", "long outputs"


@dataclass(frozen=True)
class Mixture:
    """Two groups of lengths, and the KV tokens of each replica."""

    groups: tuple[Lengths, Lengths]
    capacity: int

    @property
    def every(self) -> Lengths:
        """Both groups."""
        return self.groups[0] + self.groups[1]


SCALE = 20
"""Times the published memory, in which a few requests of whole numbers fit; the paper's are real numbers."""
MIXTURES = {
    PUBLISHED: Mixture((((4, 8), (4, 16)), ((3, 5), (3, 15))), 500 * SCALE),
    SHORT: Mixture((((20, 6), (20, 9)), ((20, 4), (20, 10))), 3_000),
    LONG: Mixture((((10, 60),), ((10, 97),)), 10_700),
}
PUBLISHED_PER_ITERATION = (7.160, 7.709)
"""Completions of both replicas in an iteration, apart and mixed: github.com/Luoxiaogan/
interesting_continuos_batching_dynamics, experiments/multi_replica_mixing_results.json (7.68% more)."""
APART, MIXED, IN_TURNS = "by-class", "gcd-mixing", "round-robin"
ORDERS = ("in turn", "at random")
"""Of the types in the queue."""
REQUESTS = 24_000


@dataclass(frozen=True)
class MixingRun:
    """A job: a key of `MIXTURES` behind a router, with the types in the queue in an order."""

    mixture: str
    router: str
    order: str
    requests: int = REQUESTS
    seed: int = 0


MIXING_SHAPE = dict.fromkeys(("per_iteration", "share", "restarts"), float)
"""Of what a run gives."""


def mixing_runs(seeds: Iterable[int]) -> list[MixingRun]:
    """All jobs; a fixed order needs no seeds."""
    every = [(mixture, router) for mixture in MIXTURES for router in (APART, IN_TURNS, MIXED)]
    fixed = [MixingRun(*of, ORDERS[0]) for of in every]
    return fixed + [MixingRun(*of, ORDERS[1], seed=seed) for of in every for seed in seeds]


def mixing_run(job: MixingRun) -> dict[str, Any]:
    """Completions per iteration of both replicas, their share of x*, and restarts per request."""
    mixture = MIXTURES[job.mixture]
    types = np.array([(k, *of) for k, group in enumerate(mixture.groups) for of in group])
    at = np.arange(job.requests) % len(types)
    if job.order == ORDERS[1]:
        at = np.random.default_rng(job.seed).integers(0, len(types), job.requests)
    group, prompt, output = types[at].T
    workload = Workload(
        np.zeros(job.requests), prompt + 1, output.copy(), class_id=group.copy(), class_names=("first", "second")
    )
    hardware = Hardware("one token a block", StepTime(c0=1.0), mixture.capacity + 1, block_size=1)
    config = EngineConfig(
        max_num_seqs=mixture.capacity,
        max_num_batched_tokens=10 * mixture.capacity,
        enable_prefix_caching=False,
        scheduler_reserve_full_isl=False,
        preemption="restart",
    )
    records = run_fleet(workload, hardware, Greedy(), Fleet(2, job.router), config)
    rates, best = [], []
    for part in records.runs:
        assert part is not None
        rates.append(completions_per_iteration(part))
        best.append(mixture.capacity / float(_kv(part.workload.prompt_tokens - 1, part.workload.output_tokens).mean()))
    return {
        "per_iteration": sum(rates),
        "share": sum(rates) / sum(best),
        "restarts": float(records.preemptions.mean()),
    }


def _kv(prompt: Any, output: Any) -> Any:
    """KV tokens of a request summed over its iterations."""
    return prompt * output + 0.5 * output * (output + 1)


def largest_root(types: Lengths) -> float:
    """By how much a disturbance of the eviction-free point grows in an iteration; below 1 the point is stable.

    With all memory taken, the differences D_t of successive admissions obey Σ_m w_m D_t-m = 0, where w_m is what the
    requests that are m iterations old hold: Σ (l + m + 1) over the types with o > m. The largest root of that
    polynomial.
    """
    longest = max(output for _, output in types)
    held = [sum(prompt + m + 1 for prompt, output in types if output > m) for m in range(longest)]
    return float(abs(np.roots(held)).max()) if longest > 1 else 0.0


def common_divisor(types: Lengths) -> int:
    """Of the output lengths."""
    return gcd(*(output for _, output in types))


def mean_of(runs: dict[MixingRun, dict[str, float]], key: str, mixture: str, router: str, order: str) -> float:
    """Mean over the seeds."""
    wanted = (mixture, router, order)
    return float(np.mean([of[key] for run, of in runs.items() if (run.mixture, run.router, run.order) == wanted]))


def mixing_claims(runs: dict[MixingRun, dict[str, float]]) -> list[Claim]:
    """What mixing gains, and where the common divisor decides it."""
    apart, mixed = (
        {name: mean_of(runs, "per_iteration", name, router, ORDERS[0]) for name in MIXTURES}
        for router in (APART, MIXED)
    )
    published = PUBLISHED_PER_ITERATION[1] / PUBLISHED_PER_ITERATION[0] - 1.0
    gain = mixed[PUBLISHED] / apart[PUBLISHED] - 1.0
    restarts = [mean_of(runs, "restarts", SHORT, router, ORDERS[0]) for router in (APART, MIXED)]
    share = mean_of(runs, "share", SHORT, MIXED, ORDERS[0])
    return [
        agreed(
            "[2], the authors' runs: two replicas that serve all lengths complete more than one group each, by",
            f"{published:.1%}",
            f"{gain:.1%}; in whole requests, of which none enters an iteration that evicts",
            gain >= (1.0 - NEAR_LATENCY) * published,
            "Mixing of output lengths",
        ),
        agreed(
            "[2]: lengths with a common divisor fall into the cycle, coprime ones stay at x* (prompts much longer)",
            "evictions / none",
            f"{restarts[0]:.2f} / {restarts[1]:.2f} restarts per request; mixed {share:.3f} x*",
            restarts[0] > CLEAR > restarts[1] and share > 1.0 - CLEAR,
            "Mixing of output lengths, short outputs",
        ),
    ]
