"""One run from plain values: plan if need be, make the policy, run the engine."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fluidgate.engine import EngineConfig, Record, RunRecords, run
from fluidgate.fluid import FluidPlan, plan
from fluidgate.hardware import Hardware
from fluidgate.policies import Policy, make_policy
from fluidgate.workload import Workload


def plan_for(workload: Workload, hardware: Hardware, config: EngineConfig) -> FluidPlan:
    """The fluid plan under an engine's token budget and seats.

    Requests that all arrive at once have no rate: they are planned for at the stability boundary.
    """
    longest = int((workload.prompt_tokens + workload.output_tokens).max())

    def at(rate: float) -> FluidPlan:
        return plan(
            workload,
            hardware,
            rate=rate,
            max_num_batched_tokens=config.token_budget(longest),
            max_num_seqs=config.seats,
        )

    return at(workload.rate) if np.isfinite(workload.rate) else at(at(1.0).stability.boundary_rate)


def simulate(
    workload: Workload,
    hardware: Hardware,
    policy: str | Policy = "greedy",
    *,
    config: EngineConfig | None = None,
    fluid_plan: FluidPlan | None = None,
    record: Record = "requests",
    compile: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> RunRecords:
    """Run `workload` on `hardware` under `policy`.

    Args:
        policy: a `Policy`, a registered name, or a spec such as `concurrency-cap:cap=25`; what a spec leaves out
            comes from the plan.
        fluid_plan: the plan that sets the policy; made from `workload` if None.
        record, compile, progress: as in `engine.run`.

    Raises:
        InputError: an unknown policy, a request that can never fit, or settings that cannot work.
        Stalled: the policy holds for ever.
    """
    config = config or EngineConfig()
    if not isinstance(policy, Policy):
        policy = make_policy(policy, fluid_plan or plan_for(workload, hardware, config))
    return run(workload, hardware, policy, config, record=record, compile=compile, progress=progress)
