"""`fluidgate plan`: equilibrium, stability boundary and thresholds, without simulating; and the plan file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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

PolicyName = Annotated[
    str | None,
    typer.Option("--policy", help=f"Policy to save, or `name:key=value,…`; {DEFAULT_POLICY} if not given."),
]
Save = Annotated[
    Path | None, typer.Option("--save", help="Write the policy to this plan file, for `serve-args` and vLLM.")
]
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
    hardware: o.HardwareOptions,
    engine: o.EngineOptions,
    output: o.OutputOptions,
    policy: PolicyName = None,
    policy_file: o.PolicyFile = None,
    save: Save = None,
    class_map: ClassMap = None,
) -> None:
    """Plan: what the GPU can sustain, what binds, when memory control matters, and what to set."""
    from fluidgate.policies import load_policy_file
    from fluidgate.report import plan_table
    from fluidgate.runs import plan_for, provenance

    if policy is not None and save is None:
        raise InputError("--policy names the policy to save: add --save plan.json")
    if class_map and save is None:
        raise InputError("--class-map goes into a plan file: add --save plan.json")
    written = output.files("plan.json")
    o.try_outputs(*written, save, folders=[output.output_dir])
    load_policy_file(policy_file)
    settings = engine.load()
    traffic, machine = workload.load(), hardware.load()
    config = settings.on(machine)
    fluid_plan = plan_for(traffic, machine, config)
    saved = None
    if save is not None:
        saved = _plan_file(fluid_plan, policy or DEFAULT_POLICY, config, served(hardware, machine), class_map or ())
    if saved is not None and save is not None:
        saved.save(save)
        o.say(f"wrote {save}")
    if output.as_json:
        o.write_json(fluid_plan.to_dict())
    else:
        table = plan_table(fluid_plan)
        if saved is not None:
            table.add_row("policy saved", saved.policy_line())
        o.console().print(table)
        o.console().print(*fluid_plan.verdict, sep="\n")
    for path in written:
        about = provenance(traffic, machine, seed=workload.seed, command=o.command_line(), config=asdict(config))
        o.write_json(about | fluid_plan.to_dict(), path)


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
    profile = hardware.variant and find_profile(hardware.model, hardware.gpu, hardware.variant)
    return ServedModel(
        name=hardware.model,
        tensor_parallel_size=profile.tp if profile else hardware.tp,
        pipeline_parallel_size=hardware.pp,
        kv_cache_dtype=asked,
        # blocks that were given, not computed from a share of the memory, do not determine the share
        gpu_memory_utilization=None
        if hardware.num_gpu_blocks is not None or hardware.kv_cache_tokens is not None
        else hardware.gpu_memory_utilization,
    )
