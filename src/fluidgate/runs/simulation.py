"""One run from plain values: plan if need be, make the policy, run the engine."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fluidgate.engine import EngineConfig, Fleet, Record, RunRecords, run, run_fleet
from fluidgate.errors import InputError
from fluidgate.fluid import FluidPlan, plan
from fluidgate.hardware import Hardware
from fluidgate.policies import Policy, make_policy
from fluidgate.runs.one_pool import one_pool
from fluidgate.workload import Timings, Workload


def plan_for(workload: Workload, hardware: Hardware, config: EngineConfig, replicas: int = 1) -> FluidPlan:
    """The fluid plan under an engine's token budget and seats; each of several replicas gets its share of the rate.

    Requests that all arrive at once have no rate: they are planned for at the stability boundary. Those that are too
    long for the model are left out, and the plan says how many.
    """
    config = config.on(hardware)
    workload = workload.within(config.max_model_len)
    longest = int((workload.prompt_tokens + workload.output_tokens).max())

    def at(rate: float) -> FluidPlan:
        return plan(
            workload,
            hardware,
            rate=rate,
            max_num_batched_tokens=config.token_budget(longest),
            max_num_seqs=config.seats,
            max_model_len=config.max_model_len,
        )

    return at(workload.rate / replicas) if np.isfinite(workload.rate) else at(at(1.0).stability.boundary_rate)


def policy_for(
    spec: str | Policy,
    workload: Workload,
    hardware: Hardware,
    config: EngineConfig,
    replicas: int = 1,
    fluid_plan: FluidPlan | None = None,
) -> Policy:
    """The policy of a spec. A plan is made only to set it, or to warn of a calibration's range.

    Raises:
        InputError: an unknown policy or parameter.
    """

    def planned() -> FluidPlan:
        return plan_for(workload, hardware, config, replicas)

    if fluid_plan is None and hardware.calibration is not None:
        fluid_plan = planned()
    return make_policy(spec, fluid_plan or planned)


def simulate(
    workload: Workload,
    hardware: Hardware,
    policy: str | Policy = "fluid",
    *,
    config: EngineConfig | None = None,
    fluid_plan: FluidPlan | None = None,
    record: Record = "requests",
    compile: bool = True,
    progress: Callable[[int, int], None] | None = None,
    fleet: Fleet | None = None,
) -> RunRecords:
    """Run `workload` on `hardware` under `policy`; on several replicas the records are `FleetRecords`.

    Args:
        policy: a `Policy`, a registered name, or a spec such as `concurrency-cap:cap=25`; what a spec leaves out
            comes from the plan. `fluid` if not given, as everywhere.
        fluid_plan: the plan that sets the policy; made from `workload` if None and needed.
        record, compile, progress: as in `engine.run`; per-iteration records are of one engine only.
        fleet: how many engines, and the router in front of them; None: one engine.

    Raises:
        InputError: an unknown policy, a request that can never fit, or settings that cannot work.
        Stalled: the policy holds requests forever.

    Warns:
        CalibrationWarning: the run has steps beyond those that the hardware was calibrated on.
        KvPoolWarning: the hardware has several KV groups, which the run counts as one pool.
    """
    config, fleet = (config or EngineConfig()).on(hardware), fleet or Fleet()
    workload = workload.within(config.max_model_len)
    hardware = one_pool(workload, hardware)
    policy = policy_for(policy, workload, hardware, config, fleet.replicas, fluid_plan)
    if fleet.replicas > 1:
        if record != "requests":
            raise InputError(f"iterations are recorded of one engine, and there are {fleet.replicas} replicas; use one")
        return run_fleet(workload, hardware, policy, fleet, config, compile=compile, progress=progress)
    return run(workload, hardware, policy, config, record=record, compile=compile, progress=progress)


def timings_of(records: RunRecords) -> Timings:
    """When the requests of a simulated run were served, as a client would have seen it."""
    return Timings(
        records.arrival_s,
        records.first_token_s,
        records.last_token_s,
        records.workload.output_tokens,
        first_scheduled_s=records.first_scheduled_s,
    )
