"""One run from plain values: plan if need be, make the policy, run the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from fluidgate.engine import EngineConfig, Fleet, Record, RunRecords, run, run_behind_gate, run_fleet
from fluidgate.errors import InputError
from fluidgate.fluid import FluidPlan, plan
from fluidgate.hardware import Hardware
from fluidgate.policies import Fluid, Policy, make_policy
from fluidgate.runs.one_pool import one_pool, pool_of_run
from fluidgate.workload import Patience, Timings, Workload


def plan_for(
    workload: Workload, hardware: Hardware, config: EngineConfig, replicas: int = 1, patience: Patience | None = None
) -> FluidPlan:
    """The fluid plan under an engine's token budget and seats; each of several replicas gets its share of the rate.

    Requests that all arrive at once have no rate: they are planned for at the stability boundary. So is a closed loop
    whose requests arrive faster, since more are not sent; its requests in flight limit the residents. Those that are
    too long for the model are left out, and the plan says how many.
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
            max_num_seqs=most_residents(workload, config, replicas),
            max_model_len=config.max_model_len,
            prompts_computed=config.prompts_arrive_computed,
            shared_by=replicas,
            patience=patience,
        )

    rate = workload.rate / replicas
    if workload.concurrency is None and np.isfinite(rate):
        return at(rate)
    return at(min(rate, at(1.0).stability.boundary_rate))


def most_residents(workload: Workload, config: EngineConfig, replicas: int = 1) -> int:
    """Seats of an engine, or its share of the requests that are in flight at most."""
    if workload.concurrency is None:
        return config.seats
    return min(config.seats, -(-workload.concurrency // replicas))


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
        return plan_for(workload, one_pool(workload, hardware), config, replicas)

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
        fleet: how many engines, and the router or the gates in front of them; None: one engine.

    Raises:
        InputError: an unknown policy, a request that can never fit, or settings that cannot work.
        Stalled: the policy holds requests forever.

    Warns:
        CalibrationWarning: the run has steps beyond those that the hardware was calibrated on.
        KvPoolWarning: the hardware has several KV groups that the engine does not model; the run counts one pool.
    """
    config, fleet = (config or EngineConfig()).on(hardware), fleet or Fleet()
    workload = workload.within(config.max_model_len)
    hardware = pool_of_run(workload, hardware, config)
    policy = policy_for(policy, workload, hardware, config, fleet.replicas, fluid_plan)
    behind_gate = decides_outside(policy, fleet)
    if record != "requests" and (fleet.replicas > 1 or behind_gate):
        raise InputError(
            f"iterations are recorded of one engine, and there are {fleet.replicas} replicas"
            f"{' behind a gate' if behind_gate else ''}; use one, and no gate outside"
        )
    if behind_gate and fleet.outside is not None and isinstance(policy, Fluid):
        outside = replace(fleet.outside, replicas=fleet.replicas)
        return run_behind_gate(workload, hardware, policy, outside, config, progress=progress)
    if fleet.replicas > 1:
        _refuse_without_labels(workload, fleet)
        return run_fleet(workload, hardware, policy, fleet, config, compile=compile, progress=progress)
    return run(workload, hardware, policy, config, record=record, compile=compile, progress=progress)


def decides_outside(policy: Policy, fleet: Fleet) -> bool:
    """Whether a policy decides before the engines rather than in them."""
    return fleet.outside is not None and type(policy) is Fluid


def _refuse_without_labels(workload: Workload, fleet: Fleet) -> None:
    labels = int(workload.class_id.max()) + 1
    if fleet.router == "by-class" and labels < fleet.replicas:
        raise InputError(
            f"router by-class sends each label to one replica, and {workload.name} has {labels} for {fleet.replicas} "
            "replicas: some would get nothing; label the requests, or use another router"
        )


def timings_of(records: RunRecords) -> Timings:
    """When the requests of a simulated run were served, as a client would have seen it."""
    return Timings(
        records.arrival_s,
        records.first_token_s,
        records.last_token_s,
        records.workload.output_tokens,
        first_scheduled_s=records.first_scheduled_s,
    )
