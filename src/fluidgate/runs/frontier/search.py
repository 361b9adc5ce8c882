"""One search, as a job: the stable rate of a policy for a workload on a machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.engine import EngineConfig
from fluidgate.errors import InputError
from fluidgate.fluid import Limits, RequestMix, Stability, affine_step_time, stability
from fluidgate.fluid.stability import bound_seconds
from fluidgate.hardware import Hardware
from fluidgate.metrics import Objective, Slo
from fluidgate.metrics.losses import busy_shares
from fluidgate.runs.factors import with_lengths
from fluidgate.runs.frontier.drift import with_backlog, work_left
from fluidgate.runs.frontier.sequential import Decision, Rule, bisect, until_decided
from fluidgate.runs.one_pool import pool_of_run
from fluidgate.runs.policy_runs import load_policies_once
from fluidgate.runs.simulation import most_residents, plan_for, policy_for, simulate
from fluidgate.workload import PRESETS, Synthetic, Workload, generate, resample

REQUESTS_PER_RESIDENT = 40
"""A run has at least this many requests per resident at n*: a quarter of them make a backlog of ten times n*."""

Source = Workload | Synthetic
"""A recorded workload, whose replications are bootstrapped from it, or one that each replication draws again."""


@dataclass(frozen=True)
class Search:
    """A job.

    Attributes:
        source: name of the workload in `Searches`.
        output_scale: factor on all output lengths.
        hardware: the machine.
        policy: a spec as `make_policy` takes it.
    """

    source: str
    output_scale: float
    hardware: Hardware
    policy: str


@dataclass(frozen=True)
class Trial:
    """One rate that was tested.

    Attributes:
        rate: requests per second.
        load: as a share of the predicted boundary.
        stable: None if undecided; with objectives, whether all of them hold.
        beyond, beyond_low, beyond_high: share of the arriving work that is left while a queue stands; below 0 the
            queue drains. With objectives, the `Objective.excess` that is largest. The bounds are those of the test.
        objective: the objective that this is of; none of stability.
        replications: runs that it took.
        recompute_loss: share of busy time that recomputation takes, mean.
    """

    rate: float
    load: float
    stable: bool | None
    beyond: float
    beyond_low: float
    beyond_high: float
    objective: str
    replications: int
    recompute_loss: float


class Searches:
    """What all searches share; called with one, gives the fields of its `StableRate`.

    Args:
        requests: per run, at least; recorded workloads keep their own number.
        seed: of the first replication; the others count on.
        policy_file: a Python file that registers policies.
        objectives, slo: what must hold at a rate, in place of stability, and what a good request is.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        config: EngineConfig,
        rule: Rule,
        *,
        requests: int,
        seed: int,
        policy_file: Path | None = None,
        objectives: Sequence[Objective] = (),
        slo: Slo | None = None,
    ) -> None:
        self.sources, self.config, self.rule = dict(sources), config, rule
        self.objectives, self.slo = tuple(objectives), slo
        self.requests, self.seed = requests, seed
        self.policy_file = policy_file and policy_file.absolute()

    def __call__(self, job: Search) -> dict[str, Any]:
        load_policies_once(self.policy_file)
        law = self._law(job)
        trials: dict[int, Trial] = {}

        def test(index: int) -> bool | None:
            trials[index] = self._trial(job, law, self.rule.load(index))
            return trials[index].stable

        stable, unstable = bisect(test, self.rule.depth)
        none_unstable = law.stability.boundary_rate if self.rule.up_to_boundary else float("inf")
        between = [trials[index] for index in sorted(trials) if stable <= index <= unstable]
        above = trials[unstable].recompute_loss if unstable in trials else float("nan")
        return {
            "boundary_rate": law.stability.boundary_rate,
            "limit": law.stability.limit,
            "residents": law.stability.residents,
            "eta": law.stability.eta,
            "fluctuation_cost": law.stability.empty_memory_cost(law.stability.watermark / 2.0),
            "requests": len(law.draws[0]),
            "refused_share": 1.0 - sum(map(len, law.draws)) / sum(draw.offered for draw in law.draws),
            "rate": _without_drift(between) if stable in trials and unstable in trials else float("nan"),
            "low": trials[stable].rate if stable in trials else 0.0,
            "high": trials[unstable].rate if unstable in trials else none_unstable,
            "breaks": trials[unstable].objective if unstable in trials else "",
            "runs": sum(trial.replications for trial in trials.values()),
            "recompute_loss": above,
            "trials": [asdict(trials[index]) for index in sorted(trials)],
        }

    def header(self) -> dict[str, Any]:
        """What the numbers depend on besides the jobs, for a results file."""
        return {
            "workloads": {name: identity(source) for name, source in self.sources.items()},
            "engine": asdict(self.config),
            "rule": asdict(self.rule),
            "requests": self.requests,
            "seed": self.seed,
            "objectives": [str(objective) for objective in self.objectives],
            "slo": self.slo and asdict(self.slo),
            "policy_file": self.policy_file and hashlib.sha256(self.policy_file.read_bytes()).hexdigest()[:12],
        }

    def _law(self, job: Search) -> _Law:
        source = self.sources[job.source]
        drawing = _Drawing(source, job.output_scale, job.hardware, self.config, self.requests, self.seed)
        return _law(drawing, self.rule.replications)

    def _trial(self, job: Search, law: _Law, load: float) -> Trial:
        rate = load * law.stability.boundary_rate
        first = law.draws[0]
        machine = pool_of_run(first, job.hardware, self.config)
        policy = policy_for(job.policy, first.scaled(rate / first.rate), machine, self.config)
        hardware = replace(machine, calibration=None)  # `policy_for` has warned of its range
        recompute_loss: list[float] = []
        offered_s: list[float] = []

        def replications() -> Iterator[Sequence[float]]:
            for draw, request_s in zip(law.draws, law.request_s, strict=True):
                sent = draw.scaled(rate / draw.rate) if self.objectives else with_backlog(draw, rate)
                records = simulate(sent, hardware, policy, config=self.config)
                recompute_loss.append(busy_shares(records)["recompute_loss"])
                if self.objectives:
                    yield [objective.excess(records, self.slo) for objective in self.objectives]
                else:
                    work = work_left(records, request_s, load, law.stability.residents)
                    offered_s.append(work.offered_s)
                    yield [work.left_s]

        decision: Decision = until_decided(replications(), self.rule)
        unit = float(np.mean(offered_s)) if offered_s else 1.0
        return Trial(
            rate=rate,
            load=load,
            stable=decision.stable,
            beyond=decision.mean / unit,
            beyond_low=decision.low / unit,
            beyond_high=decision.high / unit,
            objective=str(self.objectives[decision.place]) if self.objectives else "",
            replications=decision.replications,
            recompute_loss=float(np.mean(recompute_loss)),
        )


@dataclass(frozen=True, eq=False)
class _Law:
    """The replications of a job's workload, and the law of lengths that they are together.

    Attributes:
        draws: one per replication, equal for all rates and policies.
        request_s: seconds that the bound gives each request of each draw.
        stability: the predicted boundary of all draws together.
    """

    draws: tuple[Workload, ...]
    request_s: tuple[FloatArray, ...]
    stability: Stability


@dataclass(frozen=True)
class _Drawing:
    """What the workloads of a search are drawn from, and for."""

    source: Source
    output_scale: float
    hardware: Hardware
    config: EngineConfig
    requests: int
    seed: int


@lru_cache(maxsize=2)
def _law(drawing: _Drawing, replications: int) -> _Law:
    hardware, config = drawing.hardware, drawing.config.on(drawing.hardware)
    draws = _draws(drawing, replications, config.max_model_len)
    prompts, outputs = (
        np.concatenate([getattr(d, name) for d in draws]) for name in ("prompt_tokens", "output_tokens")
    )
    mix = RequestMix(np.ones(len(prompts)), prompts, outputs, prompts_computed=config.prompts_arrive_computed)
    limits = Limits.of(hardware, config.token_budget(int((prompts + outputs).max())), most_residents(draws[0], config))
    step_time = affine_step_time(mix, hardware, limits)
    request_s = bound_seconds(mix, step_time, limits)
    ends = np.cumsum([len(draw) for draw in draws])  # draws differ in length where requests were refused
    return _Law(draws, tuple(np.split(request_s, ends[:-1])), stability(mix.scaled(1.0), step_time, limits))


def _draws(drawing: _Drawing, replications: int, max_model_len: int | None) -> tuple[Workload, ...]:
    source, requests, seed = drawing.source, drawing.requests, drawing.seed

    def drawn(n: int, seed: int) -> Workload:
        return with_lengths(_draw(source, n, seed), output=drawing.output_scale).within(max_model_len)

    first = drawn(requests, seed)
    if first.has_sessions:
        raise InputError(
            f"{first.name}: turns wait for replies, so that they cannot stand in a queue, and a stable rate is where a "
            "standing queue drains; give requests without sessions"
        )
    if not np.isfinite(first.rate):
        raise InputError(f"{first.name}: all requests arrive at once, so they can come at no other rate; give arrivals")
    residents = plan_for(first, drawing.hardware, drawing.config).concurrency_cap
    enough = int(np.ceil(REQUESTS_PER_RESIDENT * residents))
    if isinstance(source, Workload) and len(first) < enough:
        raise InputError(
            f"{source.name}: {len(first):,} requests are too few for the {residents:.0f} residents that this machine "
            f"holds; give at least {enough:,}"
        )
    n = max(requests, int(np.ceil(enough * first.offered / len(first))))
    return tuple(drawn(n, seed + k) for k in range(replications))


def _draw(source: Source, requests: int, seed: int) -> Workload:
    return resample(source, seed) if isinstance(source, Workload) else generate(source, n=requests, seed=seed)


def _without_drift(trials: list[Trial]) -> float:
    """The rate at which nothing is beyond, by a straight line between the neighbouring trials."""
    for below, above in pairwise(trials):
        if below.beyond <= 0 < above.beyond:
            part = below.beyond / (below.beyond - above.beyond)
            return below.rate + part * (above.rate - below.rate)
    return float("nan")


def identity(source: Source) -> str:
    """What tells a workload from others, for a results file."""
    if isinstance(source, Workload):
        return source.digest
    return source.name if PRESETS.get(source.name) is source else generate(source, n=1000, seed=0).digest
