"""`frontier`: the largest stable arrival rate of each policy, next to the fluid boundary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fluidgate.engine import EngineConfig
from fluidgate.errors import InputError, unknown
from fluidgate.hardware import Hardware
from fluidgate.jsonfile import plain
from fluidgate.metrics import Objective, Slo
from fluidgate.policies import policy_class
from fluidgate.runs.frontier.axes import Setting, settings_on
from fluidgate.runs.frontier.search import Search, Searches, Source, Trial
from fluidgate.runs.frontier.sequential import Rule
from fluidgate.runs.jobs import Runner
from fluidgate.runs.policy_runs import load_policies_once
from fluidgate.runs.result_shape import shape_of
from fluidgate.version import version
from fluidgate.workload import PRESETS, Synthetic, Workload

FRONTIER_POLICIES = ("greedy", "watermark", "concurrency-cap", "fluid")


@dataclass(frozen=True)
class StableRate:
    """The largest stable rate of one policy in one setting.

    Attributes:
        policy: its spec.
        setting: see `Setting`.
        boundary_rate: the rate that the fluid model predicts for the best policy, requests per second.
        limit, residents, eta: what is least at the boundary, n* and η (model.md §2).
        fluctuation_cost: share of the boundary that it costs to keep free one standard deviation of what n* residents
            hold, half the plan's watermark: what the fluid model leaves out.
        requests: per run.
        refused_share: of the requests that came, those that are too long for the model; rates are without them.
        rate: the estimate, requests per second: where no work is left, or no objective is exceeded; NaN if the interval
            is open.
        low, high: the interval: the largest rate found stable (0: none) and the smallest found unstable (infinite:
            none), requests per second. With objectives, stable means that all of them hold, and the boundary stands for
            the rates above it.
        breaks: the objective that is exceeded most at `high`; empty without objectives, or where none was found
            exceeded: all hold at the boundary if `low` has reached `high`, and else nothing is decided.
        runs: simulations that it took.
        recompute_loss: share of busy time that recomputation takes at `high`; NaN if `high` is infinite.
        trials: the rates that were tested, rising.
    """

    policy: str
    setting: Setting
    boundary_rate: float
    limit: str
    residents: float
    eta: float
    fluctuation_cost: float
    requests: int
    refused_share: float
    rate: float
    low: float
    high: float
    breaks: str
    runs: int
    recompute_loss: float
    trials: tuple[Trial, ...]

    @property
    def share(self) -> float:
        """The rate as a share of the predicted boundary."""
        return self.rate / self.boundary_rate


@dataclass(frozen=True)
class Frontier:
    """Stable rates in order of setting, then policy.

    Attributes:
        workload: its name.
        axis: see `settings_on`; None: one machine.
        config: the engine, as given: what is None is as a server sets it in each setting.
        rule: tolerance, error level and most replications.
        seed: of the first replication.
        rates: what was found.
        objectives: what had to hold; none: stability.
    """

    workload: str
    axis: str | None
    config: EngineConfig
    rule: Rule
    seed: int
    rates: tuple[StableRate, ...]
    objectives: tuple[str, ...] = ()

    @property
    def settings(self) -> tuple[Setting, ...]:
        """The settings, in order."""
        return tuple(dict.fromkeys(rate.setting for rate in self.rates))

    def at(self, setting: Setting) -> tuple[StableRate, ...]:
        """The policies in one setting."""
        return tuple(rate for rate in self.rates if rate.setting == setting)

    def to_dict(self, command: str | None = None) -> dict[str, Any]:
        """JSON-ready values; an estimate that is open and a bound that is infinite are None.

        Args:
            command: what was typed to make it.
        """
        return {"fluidgate": version(), "command": command, **plain(self, finite=True)}


def frontier(
    source: Workload | Synthetic | str,
    hardware: Hardware,
    policies: Sequence[str] = FRONTIER_POLICIES,
    *,
    axis: str | None = None,
    values: Sequence[str | float] | None = None,
    config: EngineConfig | None = None,
    requests: int = 4000,
    tolerance: float = 0.01,
    alpha: float = 0.05,
    replications: int = 16,
    seed: int = 0,
    policy_file: Path | None = None,
    objectives: Sequence[Objective] = (),
    slo: Slo | None = None,
    runner: Runner | None = None,
) -> Frontier:
    """Find the largest stable rate of each policy by simulation, or the largest at which objectives hold.

    At a rate, replications start with a standing queue, and a sequential test of whether it grows decides; bisection
    finds the rate where the answer changes. All policies and rates see the same requests. With probability of at least
    1 − `alpha` an interval contains the rate, see `runs.frontier.sequential`.

    Args:
        source: a preset's name or a synthetic workload, from which every replication draws again, or a recorded
            workload, from which they are block-bootstrapped. Its own rate does not matter.
        policies: names or specs; what a spec leaves out comes from the plan at the rate that is tested.
        axis, values: what to vary, see `settings_on`.
        requests: per run, at least; more where the machine holds many, and a recorded workload's own number.
        tolerance: width of the intervals, relative, where every rate is decided.
        alpha: error level of each interval.
        replications: most replications at a rate.
        policy_file: Python file that registers policies of your own, here and in workers.
        objectives, slo: what must hold in place of stability, up to the predicted boundary; runs then start empty.
        runner: where searches happen and are kept; the numbers are the same. None: one after the other, here.

    Raises:
        InputError: no policies, an unknown policy, axis or value, a tolerance or level out of range, or a workload that
            has no rate, is too short, or holds a request that can never fit.
        JobFailed: workers keep dying at the same search.
    """
    config, rule = config or EngineConfig(), Rule(tolerance, alpha, replications, up_to_boundary=bool(objectives))
    traffic = _source(source)
    load_policies_once(policy_file and policy_file.absolute())
    _refuse_policies(policies)
    if requests < 100:
        raise InputError(f"{requests} requests per run are too few to see a queue drift; use at least 100")
    settings = settings_on(axis, values, hardware)
    work = Searches(
        {traffic.name: traffic},
        config,
        rule,
        requests=requests,
        seed=seed,
        policy_file=policy_file,
        objectives=objectives,
        slo=slo,
    )
    pairs = [(setting, policy) for setting in settings for policy in policies]
    rows = (runner or Runner()).run(
        work,
        [Search(traffic.name, setting.output_scale, setting.hardware, policy) for setting, policy in pairs],
        header={"command": "frontier", **work.header()},
        shape=SEARCH_SHAPE,
    )
    rates = tuple(stable_rate(policy, setting, row) for (setting, policy), row in zip(pairs, rows, strict=True))
    return Frontier(traffic.name, axis, config, rule, seed, rates, tuple(map(str, objectives)))


SEARCH_SHAPE = shape_of(StableRate, policy=None, setting=None, trials=[shape_of(Trial)])
"""Of what a search gives."""


def stable_rate(policy: str, setting: Setting, row: dict[str, Any]) -> StableRate:
    """A search's result, as a `Runner` gives it."""
    trials = tuple(Trial(**trial) for trial in row["trials"])
    return StableRate(policy=policy, setting=setting, **{**row, "trials": trials})


def _source(source: Workload | Synthetic | str) -> Source:
    if not isinstance(source, str):
        return source
    if source not in PRESETS:
        raise unknown("preset", source, PRESETS)
    return PRESETS[source]


def _refuse_policies(policies: Sequence[str]) -> None:
    if not policies:
        raise InputError("frontier needs at least one policy")
    if len(set(policies)) < len(policies):
        raise InputError(f"a policy is named twice in {', '.join(policies)}")
    for spec in policies:
        policy_class(spec.partition(":")[0])
