"""One candidate put to the test: replications of the demand on it, until its objectives are decided."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fluidgate.engine import EngineConfig, Fleet
from fluidgate.fluid import FluidPlan
from fluidgate.hardware import Hardware
from fluidgate.metrics import summarize
from fluidgate.policies import make_policy
from fluidgate.runs.frontier import FIRST_LOOK, check_test, looks_up_to, until_decided
from fluidgate.runs.one_pool import one_pool, pool_of_run
from fluidgate.runs.policy_runs import load_policies_once
from fluidgate.runs.result_shape import shape_of
from fluidgate.runs.simulation import plan_for, simulate
from fluidgate.runs.size.candidates import Flags
from fluidgate.runs.size.demand import Demand
from fluidgate.workload import Workload

FIGURES = (
    "p99_ttft_ms",
    "p95_tpot_ms",
    "mean_e2el_ms",
    "goodput_share",
    "kv_mean",
    "preemptions",
    "offered",
    "output_throughput",
)
"""Numbers of a `Summary` that answers and scaling rules take from runs, as means over them."""


@dataclass(frozen=True)
class Certainty:
    """How sure a decision is; a `Looks` of the sequential test.

    Attributes:
        alpha: the probability that it is wrong is at most this.
        replications: most runs.
        first_look: fewest runs.

    Raises:
        InputError: numbers with which nothing can be tested.
    """

    alpha: float
    replications: int
    first_look: int = FIRST_LOOK

    def __post_init__(self) -> None:
        check_test(self.alpha, self.replications, self.first_look)

    @property
    def looks(self) -> tuple[int, ...]:
        """Runs after which it looks."""
        return tuple(look for look in looks_up_to(self.replications) if look >= self.first_look)

    @property
    def level(self) -> float:
        """Of each one-sided test, by Bonferroni's inequality over the looks."""
        return self.alpha / len(self.looks)


@dataclass(frozen=True)
class Outcome:
    """What the runs of a candidate say.

    Attributes:
        holds: whether every objective does; None: undecided.
        objective: the one that fails for certain, or else is nearest to failing.
        excesses: of each objective in order, how far it is beyond its bound (`Objective.excess`): mean over runs.
        values: of each objective in order, in the unit of its bound: mean over runs.
        runs: how many.
        figures: means over runs, see `FIGURES`; empty of short runs, from which nobody takes one.
    """

    holds: bool | None
    objective: str
    excesses: tuple[float, ...]
    values: tuple[float, ...]
    runs: int
    figures: dict[str, float]

    @property
    def excess(self) -> float:
        """The largest."""
        return max(self.excesses)

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Outcome:
        """As a `Runner` gives it."""
        return cls(**{**row, "excesses": tuple(row["excesses"]), "values": tuple(row["values"])})


OUTCOME_SHAPE = shape_of(Outcome, excesses=[float], values=[float], figures=dict.fromkeys(FIGURES, float))
"""Of what a trial gives."""


@dataclass(frozen=True)
class Trial:
    """A candidate: so many replicas of a machine, set in one way, and what is changed of the demand.

    Attributes:
        growth: factor on the rate.
        short: runs with fewer requests.
        first_seed: of its runs.
        replications, first_look: most and fewest runs.
    """

    hardware: Hardware
    flags: Flags
    replicas: int
    growth: float = 1.0
    short: bool = False
    first_seed: int = 0
    replications: int = 16
    first_look: int = FIRST_LOOK


class Replications:
    """The runs of a trial, made when a test asks for them and kept for a later look.

    Raises:
        InputError: a policy or a setting that cannot work, or a request that can never fit.
    """

    def __init__(self, trial: Trial, demand: Demand, config: EngineConfig, alpha: float) -> None:
        self.trial, self.demand, self.certainty = trial, demand, Certainty(alpha, trial.replications, trial.first_look)
        self._engine = trial.flags.engine(config)
        self._fleet = Fleet(trial.replicas, trial.flags.router, demand.seed)
        machine = pool_of_run(draw(demand, demand.seed, short=True), trial.hardware, self._engine)
        plan = partial(planned, demand, trial.hardware, self._engine, trial.replicas)
        self._policy = make_policy(trial.flags.policy, plan)
        self._hardware = replace(machine, calibration=None)  # planning has warned of its range
        self._runs: list[_Run] = []

    def __len__(self) -> int:
        return len(self._runs)

    def outcome(self, most: int | None = None) -> Outcome:
        """Decide with at most so many runs; None: as many as the trial allows."""
        looks = tuple(look for look in self.certainty.looks if most is None or look <= most)
        decision = until_decided(self._excesses(), _Partly(looks, self.certainty.level))
        runs = self._runs[: decision.replications]
        means = _means(run.excesses for run in runs)
        place = decision.place if decision.stable is False else means.index(max(means))
        return Outcome(
            holds=decision.stable,
            objective=str(self.demand.objectives[place]),
            excesses=tuple(means),
            values=tuple(_means(run.values for run in runs)),
            runs=len(runs),
            figures={} if self.trial.short else dict(zip(FIGURES, _means(run.figures for run in runs), strict=True)),
        )

    def _excesses(self) -> Iterator[Sequence[float]]:
        for k in range(self.trial.replications):
            if k == len(self._runs):
                self._runs.append(self._run(self.trial.first_seed + k))
            yield self._runs[k].excesses

    def _run(self, seed: int) -> _Run:
        requests, demand = draw(self.demand, seed, short=self.trial.short), self.demand
        requests = requests if self.trial.growth == 1.0 else requests.scaled(self.trial.growth)
        records = simulate(requests, self._hardware, self._policy, config=self._engine, fleet=self._fleet)
        summary = None if self.trial.short else summarize(records, demand.slo)  # takes a quarter of a short run's time
        return _Run(
            excesses=[objective.excess(records, demand.slo) for objective in demand.objectives],
            values=[objective.value(records, demand.slo) for objective in demand.objectives],
            figures=[float(getattr(summary, name)) for name in FIGURES] if summary else [],
        )


class _Run(NamedTuple):
    """One run: by objective, and by figure."""

    excesses: list[float]
    values: list[float]
    figures: list[float]


def _means(rows: Iterable[Sequence[float]]) -> list[float]:
    """Of each column."""
    means: list[float] = np.mean(list(rows), axis=0).tolist()
    return means


class _Partly(NamedTuple):
    """The first looks of a test, at the level of the whole."""

    looks: tuple[int, ...]
    level: float


class Trials:
    """What trials share; called with one, gives the fields of its `Outcome`.

    Args:
        policy_file: a Python file that registers policies; a worker loads it once.
    """

    def __init__(self, demand: Demand, config: EngineConfig, alpha: float, policy_file: Path | None = None) -> None:
        self.demand, self.config, self.alpha = demand, config, alpha
        self.policy_file = policy_file and policy_file.absolute()

    def __call__(self, job: Trial) -> dict[str, Any]:
        load_policies_once(self.policy_file)
        return asdict(Replications(job, self.demand, self.config, self.alpha).outcome())


@lru_cache(maxsize=80)
def draw(demand: Demand, seed: int, *, short: bool) -> Workload:
    """`Demand.draw`, kept: all candidates see the same requests."""
    return demand.draw(seed, short=short)


@lru_cache(maxsize=64)
def planned(demand: Demand, hardware: Hardware, config: EngineConfig, replicas: int) -> FluidPlan:
    """The plan of one replica at its share of the demand."""
    drawn = draw(demand, demand.seed, short=True)
    like = drawn.scaled(demand.rate / drawn.rate)  # where bursts are slow, a draw's own rate is another
    return plan_for(like, one_pool(like, hardware), config, replicas)
