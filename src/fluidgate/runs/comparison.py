"""`compare`: policies side by side on the same requests, near and past the stability boundary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from fluidgate.engine import EngineConfig, Fleet
from fluidgate.errors import InputError
from fluidgate.fluid import FluidPlan, stage_edges
from fluidgate.hardware import Hardware
from fluidgate.jsonfile import plain
from fluidgate.metrics import (
    METRICS,
    PATIENCE_METRICS,
    Interval,
    Judged,
    Objective,
    PairedDifference,
    Slo,
    Summary,
    Timeline,
    aggregate,
    judge_objectives,
    paired_difference,
)
from fluidgate.policies import make_policy
from fluidgate.runs.jobs import Runner
from fluidgate.runs.one_pool import one_pool, pool_of_run
from fluidgate.runs.policy_runs import PolicyRun, PolicyRuns, TimelineRun, TimelineRuns, load_policies_once
from fluidgate.runs.provenance import provenance_of
from fluidgate.runs.result_shape import shape_of
from fluidgate.runs.simulation import plan_for
from fluidgate.workload import Synthetic, Workload, generate, resample

DEFAULT_POLICIES = ("greedy", "watermark", "concurrency-cap", "rate-limited", "wait", "nested-wait", "fluid")


@dataclass(frozen=True, eq=False)
class Scenario:
    """One load: the repeats' workloads all arrive at about this rate.

    Attributes:
        load: arrival rate ÷ stability boundary, of all replicas together.
        plan: the fluid plan of one replica, made from the first repeat.
        workload: its name, in a comparison of several (`side_by_side`); else empty.
    """

    load: float
    plan: FluidPlan
    workload: str = ""


@dataclass(frozen=True, eq=False)
class Cell:
    """One policy at one load.

    Attributes:
        scenario: the load.
        policy: the spec it was made from.
        parameters: its parameters, as set by the plan or by hand.
        summaries: one per repeat.
        timeline: the first repeat over time, None unless asked for.
    """

    scenario: Scenario
    policy: str
    parameters: dict[str, Any]
    summaries: tuple[Summary, ...]
    timeline: Timeline | None = None

    @property
    def intervals(self) -> dict[str, Interval]:
        """Mean and 95% confidence interval of every metric over the repeats."""
        return aggregate(self.summaries)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Cells in order of load, then policy; all policies of a load saw the same requests in every repeat."""

    workload_name: str
    workload_digest: str
    requests: int
    hardware: Hardware
    config: EngineConfig
    slo: Slo | None
    seed: int
    repeats: int
    baseline: str
    cells: tuple[Cell, ...]
    fleet: Fleet = Fleet()  # noqa: RUF009 - it is frozen
    objectives: tuple[Objective, ...] = ()

    @property
    def scenarios(self) -> tuple[Scenario, ...]:
        """The loads, in order."""
        return tuple(dict.fromkeys(cell.scenario for cell in self.cells))

    @property
    def gives_up(self) -> bool:
        """Whether some client gives up in finite time."""
        return self.cells[0].summaries[0].gives_up

    def at(self, scenario: Scenario) -> tuple[Cell, ...]:
        """The policies at one load."""
        return tuple(cell for cell in self.cells if cell.scenario is scenario)

    def difference(self, cell: Cell, metric: str) -> PairedDifference:
        """Paired difference of a metric from the baseline policy at the same load, with its 95% interval."""
        base = next(c for c in self.at(cell.scenario) if c.policy == self.baseline)
        values, base_values = ([getattr(summary, metric) for summary in c.summaries] for c in (cell, base))
        return paired_difference(values, base_values)

    def judged(self, cell: Cell) -> tuple[Judged, ...]:
        """The objectives in a cell, over its repeats."""
        return judge_objectives(self.objectives, [summary.objectives for summary in cell.summaries])

    def provenance(self, command: str | None = None) -> dict[str, Any]:
        """What result files say of it: version, command, seed, hardware, the first repeat's workload, settings."""
        workload = {"name": self.workload_name, "digest": self.workload_digest, "requests": self.requests}
        settings = {
            "config": asdict(self.config),
            "slo": self.slo and asdict(self.slo),
            "objectives": [str(objective) for objective in self.objectives],
            "repeats": self.repeats,
            "baseline": self.baseline,
            "replicas": self.fleet.replicas,
            "router": self.fleet.router,
        }
        return provenance_of(workload, self.hardware, self.seed, command, settings)

    def to_dict(self, command: str | None = None) -> dict[str, Any]:
        """JSON-ready values: provenance, and per cell every metric's interval, difference and repeats."""
        return {
            **self.provenance(command),
            "scenarios": [
                {"load": s.load, "plan": s.plan.to_dict(), "cells": [self._cell_dict(c) for c in self.at(s)]}
                for s in self.scenarios
            ],
        }

    def _cell_dict(self, cell: Cell) -> dict[str, Any]:
        intervals = cell.intervals
        keys = [key for key in METRICS if self.gives_up or key not in PATIENCE_METRICS]
        return {
            "policy": cell.policy,
            "parameters": cell.parameters,
            "metrics": {
                key: _bounds(intervals[key]) | {"difference": _bounds(self.difference(cell, key))} for key in keys
            },
            "objectives": [judged.to_dict() for judged in self.judged(cell)],
            "repeats": [summary.to_dict() for summary in cell.summaries],
        }


def compare(
    source: Workload | Sequence[Workload] | Synthetic | str,
    hardware: Hardware,
    policies: Sequence[str] = DEFAULT_POLICIES,
    *,
    loads: Sequence[float] | None = None,
    requests: int = 4000,
    config: EngineConfig | None = None,
    slo: Slo | None = None,
    objectives: Sequence[Objective] = (),
    repeats: int = 3,
    seed: int = 0,
    policy_file: Path | None = None,
    runner: Runner | None = None,
    timelines: bool = False,
    fleet: Fleet | None = None,
) -> Comparison:
    """Compare policies on the same requests.

    Args:
        source: a workload, whose further repeats are block-bootstrapped from it; a synthetic workload or preset
            name, from which every repeat draws `requests` new requests; or the repeats themselves.
        policies: names or specs; the first is the baseline of the differences.
        loads: arrival rates as multiples of the stability boundary; None takes the workload as it arrives.
        slo: what a request must meet to count as good.
        objectives: bounds on statistics of all requests; of goodputs, by `slo`.
        repeats: paired repeats, where `source` does not list them; 95% intervals need at least two.
        policy_file: Python file that registers policies of your own, here and in workers.
        runner: where runs happen and are kept; the numbers are the same. None: one after the other, here.
        timelines: run the first repeat of every cell once more, for its `timeline`; batches are not followed in
            repeats of very many tokens (`MAX_TOKENS`). A results file does not keep these. Of several replicas
            they show the first.
        fleet: how many engines serve the requests, and the router in front of them; None: one engine.

    Raises:
        InputError: nothing to compare, an unknown policy, a request that can never fit.
        JobFailed: workers keep dying at the same run.

    Warns:
        KvPoolWarning: the hardware has several KV groups that the engine does not model; the runs count one pool.
    """
    if not policies:
        raise InputError("compare needs at least one policy")
    if len(set(policies)) < len(policies):
        raise InputError(f"a policy is named twice in {', '.join(policies)}")
    load_policies_once(policy_file and policy_file.absolute())
    config, fleet, runner = (config or EngineConfig()).on(hardware), fleet or Fleet(), runner or Runner()
    draws = [draw.within(config.max_model_len) for draw in repeated(source, repeats, seed=seed, requests=requests)]
    if not draws:
        raise InputError("compare needs at least one repeat")
    hardware = pool_of_run(draws[0], hardware, config)
    work = PolicyRuns(draws, hardware, config, slo, policy_file, fleet, objectives)
    settings = [
        (scenario, spec, rate, make_policy(spec, scenario.plan))
        for scenario, rate in _scenarios(draws, loads, one_pool(draws[0], hardware), config, fleet.replicas)
        for spec in policies
    ]
    jobs = [PolicyRun(d.digest, rate, policy.name, asdict(policy)) for _, _, rate, policy in settings for d in draws]
    header = {"command": "compare", "seed": seed, **work.header()}
    summaries = iter([Summary(**row) for row in runner.run(work, jobs, header=header, shape=shape_of(Summary))])
    watched: list[Timeline | None] = [None] * len(settings)
    if timelines:
        edges = [stage_edges(scenario.plan) for scenario, *_ in settings]
        first = [
            TimelineRun(**vars(job), stage_edges=ranges) for job, ranges in zip(jobs[:: len(draws)], edges, strict=True)
        ]
        watched = [Timeline(**row) for row in runner.without_results().run(TimelineRuns(work), first)]
    cells = tuple(
        Cell(scenario, spec, asdict(policy), tuple(islice(summaries, len(draws))), over_time)
        for (scenario, spec, _, policy), over_time in zip(settings, watched, strict=True)
    )
    return Comparison(
        workload_name=draws[0].name,
        workload_digest=draws[0].digest,
        requests=draws[0].offered,
        hardware=hardware,
        config=config,
        slo=slo,
        seed=seed,
        repeats=len(draws),
        baseline=policies[0],
        cells=cells,
        fleet=fleet,
        objectives=tuple(objectives),
    )


def repeated(
    source: Workload | Sequence[Workload] | Synthetic | str, repeats: int, *, seed: int = 0, requests: int = 4000
) -> list[Workload]:
    """The workloads of paired repeats; see `compare`. A recorded workload is itself the first of them."""
    if isinstance(source, Workload):
        return [source] + [resample(source, seed + k) for k in range(1, repeats)]
    if isinstance(source, Synthetic | str):
        return [generate(source, n=requests, seed=seed + k) for k in range(repeats)]
    return list(source)


def _scenarios(
    draws: Sequence[Workload],
    loads: Sequence[float] | None,
    hardware: Hardware,
    config: EngineConfig,
    replicas: int,
) -> list[tuple[Scenario, float | None]]:
    """Every load, with the rate that all draws are scaled to; None where they run as they arrive."""
    as_given = plan_for(draws[0], hardware, config, replicas)
    if loads is None:
        return [(Scenario(as_given.stability.load, as_given), None)]
    if draws[0].concurrency is not None:
        raise InputError(
            f"{draws[0].name}: with at most {draws[0].concurrency:,} requests in flight the load is what they make it; "
            "leave loads out (a rate can be set), or the concurrency"
        )
    scenarios: list[tuple[Scenario, float | None]] = []
    for load in loads:
        if not load > 0:
            raise InputError(f"load {load} must be a multiple of the stability boundary, above 0")
        if not all(draw.duration_s > 0 for draw in draws):
            raise InputError(f"{draws[0].name}: all requests arrive at once, so no load can be set; leave loads out")
        rate = load * replicas * as_given.stability.boundary_rate
        plan = plan_for(draws[0].scaled(rate / draws[0].rate), hardware, config, replicas)
        scenarios.append((Scenario(load, plan), rate))
    return scenarios


def _bounds(interval: Interval) -> dict[str, float | None]:
    return dict(plain({"mean": interval.mean, "low": interval.low, "high": interval.high}, finite=True))
