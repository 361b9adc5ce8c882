"""`whatif`: one knob against the outcome, on the same requests for every value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fluidgate.errors import InputError
from fluidgate.fluid import FluidPlan
from fluidgate.jsonfile import plain
from fluidgate.metrics import Interval, Judged, Objective, Slo, Summary, aggregate, judge_objectives, mean_interval
from fluidgate.policies import Policy, make_policy
from fluidgate.runs.jobs import Runner
from fluidgate.runs.one_pool import one_pool, pool_of_run
from fluidgate.runs.policy_runs import load_policies_once
from fluidgate.runs.prices import Prices
from fluidgate.runs.provenance import provenance
from fluidgate.runs.simulation import plan_for
from fluidgate.runs.whatif.knobs import Value, values_of
from fluidgate.runs.whatif.setup import Setup
from fluidgate.runs.whatif.value_runs import SHAPE, ValueRun, ValueRuns, summary_of
from fluidgate.workload import Workload

KEYS = (
    "p99_ttft_ms",
    "p95_tpot_ms",
    "p99_longest_silence_s",
    "kv_mean",
    "kv_peak",
    "output_throughput",
    "goodput_share",
)
"""Numbers of a `Summary` that are an outcome; `preemptions_per_request` and `cost` are made of others."""


@dataclass(frozen=True, eq=False)
class Point:
    """One value and its outcome.

    Attributes:
        value: of the knob.
        plan: of one replica; None where the value cannot be had.
        summaries: one per repeat; empty where it cannot run.
        why_not: why it cannot be had or run; empty where it can.
        outcome: mean and 95% interval by name, see `KEYS`; empty where it cannot run.
    """

    value: Value
    plan: FluidPlan | None
    summaries: tuple[Summary, ...]
    why_not: str
    outcome: dict[str, Interval]

    @property
    def boundary_rate(self) -> float:
        """The largest sustainable rate of all replicas together, requests per second; NaN where there is none."""
        if self.plan is None or self.value.setup is None:
            return float("nan")
        return self.plan.stability.boundary_rate * self.value.setup.fleet.replicas

    @property
    def arrival_rate(self) -> float:
        """Of the requests that the model takes, at all replicas together, requests per second; NaN if unknown."""
        return float("nan") if self.plan is None else self.plan.stability.load * self.boundary_rate

    @property
    def overloaded(self) -> bool:
        """Whether more arrives than any policy can serve."""
        return self.plan is not None and self.plan.stability.load > 1.0

    @property
    def is_estimate(self) -> bool:
        """Whether its step time was never measured."""
        return self.value.setup is not None and self.value.setup.hardware.source.startswith("ESTIMATE")


@dataclass(frozen=True, eq=False)
class WhatIf:
    """The outcome of every value; all saw the same requests.

    Attributes:
        knob: its name.
        setup: in which nothing is varied.
        draws: the repeats as they were drawn.
        points: in the order of the values.
    """

    knob: str
    setup: Setup
    draws: tuple[Workload, ...]
    points: tuple[Point, ...]
    slo: Slo | None
    objectives: tuple[Objective, ...]
    prices: Prices
    seed: int

    def judged(self, point: Point) -> tuple[Judged, ...]:
        """The objectives at a value, over its repeats; none where it cannot run."""
        if not point.summaries:
            return ()
        return judge_objectives(self.objectives, [summary.objectives for summary in point.summaries])

    def to_dict(self, command: str | None = None) -> dict[str, Any]:
        """JSON-ready values: provenance, and the plan and outcome of every value."""
        settings = {
            "knob": self.knob,
            "setup": plain(replace(self.setup, spec=None), finite=True),
            "slo": self.slo and asdict(self.slo),
            "objectives": [str(objective) for objective in self.objectives],
            "prices": plain(self.prices),
            "repeats": len(self.draws),
        }
        return {
            **provenance(self.draws[0], self.setup.hardware, seed=self.seed, command=command, **settings),
            "points": [self._point_dict(point) for point in self.points],
        }

    def _point_dict(self, point: Point) -> dict[str, Any]:
        stable = point.plan and point.plan.stability
        setup = point.value.setup
        return {
            "value": point.value.label,
            "current": point.value.is_current,
            "why_not": point.why_not or None,
            "hardware": setup and {"name": setup.hardware.name, "source": setup.hardware.source},
            "boundary_rate": plain(point.boundary_rate, finite=True),
            "load": stable and stable.load,
            "binding": stable and stable.binding,
            "outcome": {
                name: plain({"mean": bounds.mean, "low": bounds.low, "high": bounds.high}, finite=True)
                for name, bounds in point.outcome.items()
            },
            "objectives": [judged.to_dict() for judged in self.judged(point)],
            "repeats": [summary.to_dict() for summary in point.summaries],
        }


def whatif(
    draws: Sequence[Workload],
    setup: Setup,
    knob: str,
    values: Sequence[str] | None = None,
    *,
    slo: Slo | None = None,
    objectives: Sequence[Objective] = (),
    prices: Prices | None = None,
    seed: int = 0,
    policy_file: Path | None = None,
    runner: Runner | None = None,
) -> WhatIf:
    """Vary one knob of a setup.

    Args:
        draws: the requests of paired repeats, as `repeated` gives them; every value sees the same.
        setup: what stays.
        knob, values: a key of `KNOBS`, and the texts of its values; None takes defaults around the setup's own.
        slo: what a request must meet to count as good.
        objectives: bounds on statistics of all requests; of goodputs, by `slo`.
        prices: of GPUs, for the cost of output tokens.
        seed: with which the requests were drawn, for the record.
        policy_file: Python file that registers policies of your own, here and in workers.
        runner: where runs happen and are kept; the numbers are the same. None: one after the other, here.

    Raises:
        InputError: an unknown knob, a value that it cannot take, or none that can be had.
        JobFailed: workers keep dying at the same run.

    Warns:
        CalibrationWarning, KvPoolWarning: as `plan_for` and `simulate` do.
    """
    if not draws:
        raise InputError("a what-if needs at least one repeat")
    load_policies_once(policy_file and policy_file.absolute())
    rate = setup.requests(draws[0]).rate
    planned = [_planned(value, draws[0]) for value in values_of(knob, values, setup, rate)]
    if all(plan is None for _, plan, _, _ in planned):
        raise InputError(f"no value of {knob} can be had: {planned[0][3]}")
    work = ValueRuns(draws, slo, objectives, policy_file)
    jobs = [_jobs(value.setup, draws, policy) for value, _, policy, _ in planned if value.setup and policy]
    flat = [job for of_value in jobs for job in of_value]
    rows = iter((runner or Runner()).run(work, flat, header={**work.header(), "seed": seed}, shape=SHAPE))
    points = []
    for value, plan, policy, why_not in planned:
        runs = [next(rows) for _ in draws] if value.setup and policy else []
        why_not = why_not or next((row["why_not"] for row in runs if row["why_not"]), "")
        summaries = () if why_not else tuple(filter(None, map(summary_of, runs)))
        outcome = _outcome(value, summaries, prices or Prices())
        points.append(Point(value, plan, summaries, why_not, outcome))
    return WhatIf(knob, setup, tuple(draws), tuple(points), slo, tuple(objectives), prices or Prices(), seed)


def _planned(value: Value, draw: Workload) -> tuple[Value, FluidPlan | None, Policy | None, str]:
    """A value with its plan and policy, or with the reason why it has none."""
    setup = value.setup
    if setup is None:
        return value, None, None, value.why_not
    try:
        requests = setup.requests(draw)
        config = setup.config.on(setup.hardware)
        plan = plan_for(requests, one_pool(requests, setup.hardware), config, setup.fleet.replicas)
        policy = make_policy(setup.policy, plan)
        pool = pool_of_run(requests.within(config.max_model_len), setup.hardware, config)
    except InputError as reason:
        return value, None, None, str(reason)
    return replace(value, setup=replace(setup, hardware=pool, config=config)), plan, policy, ""


def _jobs(setup: Setup, draws: Sequence[Workload], policy: Policy) -> list[ValueRun]:
    return [ValueRun(draw.digest, replace(setup, spec=None), policy.name, asdict(policy)) for draw in draws]


def _outcome(value: Value, summaries: Sequence[Summary], prices: Prices) -> dict[str, Interval]:
    if not summaries or value.setup is None:
        return {}
    means = aggregate(summaries)
    setup = value.setup
    evicted = [summary.preemptions / max(1, summary.offered - summary.refused) for summary in summaries]
    costs = [setup.million_tokens_cost(prices, summary.output_throughput) for summary in summaries]
    own = {"preemptions_per_request": mean_interval(evicted), "cost": mean_interval(costs)}
    return {key: means[key] for key in KEYS} | own
