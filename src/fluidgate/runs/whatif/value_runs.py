"""One run with one value of a knob, as a job."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fluidgate.errors import InputError, Stalled
from fluidgate.metrics import Objective, Slo, Summary, summarize
from fluidgate.policies import policy_class
from fluidgate.runs.policy_runs import load_policies_once
from fluidgate.runs.simulation import simulate
from fluidgate.runs.whatif.setup import Setup
from fluidgate.workload import Workload

SHAPE = {"why_not": str, "summary": dict | None}


@dataclass(frozen=True)
class ValueRun:
    """A job.

    Attributes:
        workload: digest of what was drawn.
        setup: with the value; its hardware as a run keeps its blocks (`pool_of_run`).
        policy: registered name.
        parameters: the policy's parameters.
    """

    workload: str
    setup: Setup
    policy: str
    parameters: dict[str, Any]


class ValueRuns:
    """What `ValueRun`s share; called with one, gives the fields of its `Summary`, or why it cannot run."""

    def __init__(
        self, draws: Sequence[Workload], slo: Slo | None, objectives: Sequence[Objective], policy_file: Path | None
    ) -> None:
        self.draws = {draw.digest: draw for draw in draws}
        self.slo, self.objectives = slo, tuple(objectives)
        self.policy_file = policy_file and policy_file.absolute()

    def __call__(self, job: ValueRun) -> dict[str, Any]:
        load_policies_once(self.policy_file)
        setup = job.setup
        policy = policy_class(job.policy)(**job.parameters)
        hardware = replace(setup.hardware, calibration=None)  # the plan has warned of its range
        requests = setup.requests(self.draws[job.workload])
        try:
            records = simulate(requests, hardware, policy, config=setup.config, fleet=setup.fleet)
        except (InputError, Stalled) as reason:
            return {"why_not": str(reason), "summary": None}
        return {"why_not": "", "summary": asdict(summarize(records, self.slo, self.objectives))}

    def header(self) -> dict[str, Any]:
        """What the numbers depend on besides the jobs, for a results file."""
        return {
            "command": "whatif",
            "workloads": list(self.draws),
            "slo": self.slo and asdict(self.slo),
            "objectives": [str(objective) for objective in self.objectives],
            "policy_file": self.policy_file and hashlib.sha256(self.policy_file.read_bytes()).hexdigest()[:12],
        }


def summary_of(row: dict[str, Any]) -> Summary | None:
    """As a `Runner` gives it."""
    return None if row["summary"] is None else Summary(**row["summary"])
