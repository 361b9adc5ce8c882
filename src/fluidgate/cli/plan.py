"""`fluidgate plan`: equilibrium, stability boundary and thresholds, without simulating; and the plan file."""

from __future__ import annotations

from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fluidgate.cli import names
from fluidgate.cli import options as o
from fluidgate.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fluidgate.engine import EngineConfig
    from fluidgate.fluid import FluidPlan
    from fluidgate.hardware import Hardware
    from fluidgate.serving.plan_sections import ServedModel
    from fluidgate.serving.planfile import PlanFile

EXAMPLE = "Example: `fluidgate plan --preset azure-conv-2023 --rate 5 --model llama-2-7b --gpu a100-80gb`"

DEFAULT_POLICY = "fluid"
FEW_REQUESTS = 100
"""Of fewer lengths not even the mean is known to within 10% or so, as lengths spread."""

PolicyName = Annotated[
    str | None,
    typer.Option(
        "--policy",
        help=f"Policy to save, or `name:key=value,…`; {DEFAULT_POLICY} if not given.",
        autocompletion=names.completed(names.policies),
    ),
]
Save = Annotated[
    Path | None, typer.Option("--save", help="Write the policy to this plan file, for `serve-args` and vLLM.")
]
All = Annotated[bool, typer.Option("--all", help="Print every number, and what the papers' algorithms can guarantee.")]
ClassMap = Annotated[
    list[str] | None,
    typer.Option(
        "--class-map",
        metavar="KIND:KEY=CLASS",
        help="With --save: the class of requests that do not name one, `adapter:NAME=CLASS` or "
        "`priority:NUMBER=CLASS`; may be given several times.",
    ),
]


@o.grouped
def command(
    workload: o.WorkloadOptions,
    patience: o.PatienceOptions,
    hardware: o.HardwareOptions,
    engine: o.EngineOptions,
    output: o.OutputOptions,
    policy: PolicyName = None,
    policy_file: o.PolicyFile = None,
    save: Save = None,
    class_map: ClassMap = None,
    all_numbers: All = False,
) -> None:
    """Plan: what the GPU can sustain, what binds, when memory control matters, and what to set."""
    from fluidgate.policies import load_policy_file
    from fluidgate.report import plan_table
    from fluidgate.runs import plan_for, provenance

    if save is None:
        _refuse_unsaved(policy, policy_file, class_map)
    written = output.files("plan.json")
    o.try_outputs(*written, save, folders=[output.output_dir])
    load_policy_file(policy_file)
    settings = engine.load()
    traffic, machine = workload.load(), hardware.load()
    _warn_of_few(len(traffic), workload.rate)
    config = settings.on(machine)
    fluid_plan = plan_for(traffic, machine, config, patience=patience.given())
    saved = None
    if save is not None:
        saved = _plan_file(fluid_plan, policy or DEFAULT_POLICY, config, served(hardware, machine), class_map or ())
        saved.save(save)
        o.say(f"wrote {save}")
    if output.as_json:
        o.write_json(fluid_plan.to_dict() | ({} if saved is None else {"policy_saved": saved.policy_line()}))
    else:
        out, table = output.console(), plan_table(fluid_plan, all_numbers=all_numbers)
        if saved is not None:
            table.add_row("policy saved", saved.policy_line())
        out.print(table)
        out.print(*fluid_plan.verdict, *(fluid_plan.thresholds_verdict if all_numbers else ()), sep="\n")
    for path in written:
        about = provenance(traffic, machine, seed=workload.seed, command=o.command_line(), config=asdict(config))
        o.write_json(about | fluid_plan.to_dict(), path)


def _refuse_unsaved(policy: str | None, policy_file: Path | None, class_map: list[str] | None) -> None:
    """Refuse what goes into a plan file where none is written."""
    if policy is not None:
        raise InputError("--policy names the policy to save: add --save plan.json")
    if policy_file is not None:
        raise InputError("--policy-file holds a policy to save: add --save plan.json, or leave --policy-file out")
    if class_map:
        raise InputError("--class-map goes into a plan file: add --save plan.json")


def _warn_of_few(requests: int, rate: float | None) -> None:
    """Say where the law of the lengths is hardly known; refuse a rate that nothing arrives at."""
    if requests == 1 and rate is not None and isfinite(rate):
        raise InputError("one request has no arrival rate: raise --requests, or leave --rate out")
    if requests < FEW_REQUESTS:
        o.say(f"{requests:,} request{'s' * (requests > 1)} tell little of the traffic: plan for {FEW_REQUESTS} or more")


def _plan_file(
    fluid_plan: FluidPlan, policy: str, config: EngineConfig, model: ServedModel, class_map: Sequence[str]
) -> PlanFile:
    from fluidgate.policies import make_policy
    from fluidgate.serving.planfile import PlanFile

    return PlanFile.of(fluid_plan, make_policy(policy, fluid_plan), config, model, class_map)


def served(hardware: o.HardwareOptions, machine: Hardware) -> ServedModel:
    """What the options say about the model; a hardware file says nothing but the dtype of its KV cache."""
    from fluidgate.hardware import find_profile
    from fluidgate.hardware.kv_law import ASKED
    from fluidgate.serving.plan_sections import ServedModel

    dtype = machine.law.dtype
    asked = dtype.name if dtype.source == ASKED else None
    if hardware.hardware_file is not None:
        return ServedModel(kv_cache_dtype=asked)
    name = hardware.named_model
    profile = find_profile(name, hardware.gpu, hardware.variant) if name and hardware.variant else None
    return ServedModel(
        name=name,
        tensor_parallel_size=profile.tp if profile else hardware.tp,
        pipeline_parallel_size=hardware.pp,
        kv_cache_dtype=asked,
        # blocks that were given, not computed from a share of the memory, do not determine the share
        gpu_memory_utilization=None
        if hardware.num_gpu_blocks is not None or hardware.kv_cache_tokens is not None
        else hardware.gpu_memory_utilization,
    )
