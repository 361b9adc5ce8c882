"""One policy on one workload, as a job: its numbers come from the job and from what all jobs of a comparison share."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from fluidgate.engine import EngineConfig, Fleet, FleetRecords, GateRecords, Record, RunRecords
from fluidgate.hardware import Hardware
from fluidgate.jsonfile import plain
from fluidgate.metrics import Objective, Slo, summarize, timeline
from fluidgate.policies import Greedy, load_policy_file, policy_class
from fluidgate.runs.simulation import decides_outside, simulate
from fluidgate.workload import Workload

MAX_TOKENS = 20_000_000
"""Output tokens of a repeat up to which batches are followed member by member: 16 bytes each, twice that at times."""


@dataclass(frozen=True)
class PolicyRun:
    """A job.

    Attributes:
        workload: digest of the workload, as drawn.
        rate: the rate it is scaled to, req/s; None: as it arrives.
        policy: registered name.
        parameters: the policy's parameters.
    """

    workload: str
    rate: float | None
    policy: str
    parameters: dict[str, Any]


class PolicyRuns:
    """What `PolicyRun`s share; called with one, gives the fields of its `Summary`.

    Args:
        policy_file: a Python file that registers policies; a worker loads it once.
        objectives: their values come with every summary.
    """

    def __init__(
        self,
        workloads: Sequence[Workload],
        hardware: Hardware,
        config: EngineConfig,
        slo: Slo | None,
        policy_file: Path | None,
        fleet: Fleet,
        objectives: Sequence[Objective] = (),
    ) -> None:
        self.workloads = {workload.digest: workload for workload in workloads}
        self.hardware, self.config, self.slo, self.fleet = hardware, config, slo, fleet
        self.policy_file = policy_file and policy_file.absolute()
        self.objectives = tuple(objectives)

    def __call__(self, job: PolicyRun) -> dict[str, Any]:
        return asdict(summarize(self.run(job, "requests"), self.slo, self.objectives))

    def run(self, job: PolicyRun, record: Record) -> RunRecords:
        """The run of a job; iterations are recorded of the first replica that was sent anything."""
        load_policies_once(self.policy_file)
        workload = self.workloads[job.workload]
        if job.rate is not None:
            workload = workload.scaled(job.rate / workload.rate)
        policy = policy_class(job.policy)(**job.parameters)
        hardware = replace(self.hardware, calibration=None)  # the plans of the policies have warned of its range
        if record == "requests" or (self.fleet.replicas == 1 and not decides_outside(policy, self.fleet)):
            return simulate(workload, hardware, policy, config=self.config, record=record, fleet=self.fleet)
        whole = simulate(workload, hardware, policy, config=self.config, fleet=self.fleet)
        assert isinstance(whole, FleetRecords)
        followed = next(part for part in whole.runs if part is not None)
        inside = Greedy() if isinstance(whole, GateRecords) else policy
        return simulate(followed.workload, hardware, inside, config=followed.config, record=record)

    def header(self) -> dict[str, Any]:
        """What the numbers depend on besides the jobs, for a results file."""
        first = next(iter(self.workloads.values()))
        several = self.fleet.replicas > 1 or self.fleet.outside is not None
        settings = {name: value for name, value in asdict(self.fleet).items() if value is not None}
        return ({"fleet": settings} if several else {}) | {
            "workload": {"name": first.name, "digest": first.digest},
            "hardware": plain(self.hardware),
            "engine": asdict(self.config),
            "slo": self.slo and asdict(self.slo),
            "objectives": [str(objective) for objective in self.objectives],
            "policy_file": self.policy_file and hashlib.sha256(self.policy_file.read_bytes()).hexdigest()[:12],
        }


@dataclass(frozen=True)
class TimelineRun(PolicyRun):
    """A job whose run is looked at over time, in these ranges of output tokens."""

    stage_edges: list[int]


class TimelineRuns:
    """What `TimelineRun`s share; called with one, gives the fields of its `Timeline`."""

    def __init__(self, runs: PolicyRuns) -> None:
        self.runs = runs

    def __call__(self, job: TimelineRun) -> dict[str, Any]:
        tokens = int(self.runs.workloads[job.workload].output_tokens.sum())
        record: Record = "decisions" if tokens <= MAX_TOKENS else "steps"
        return asdict(timeline(self.runs.run(job, record), job.stage_edges))


@cache
def load_policies_once(path: Path | None) -> None:
    """`load_policy_file`, once per process."""
    load_policy_file(path)
