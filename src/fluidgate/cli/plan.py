"""`fluidgate plan`: equilibrium, stability boundary and thresholds, without simulating."""

from __future__ import annotations

from fluidgate.cli import options as o

EXAMPLE = "Example: `fluidgate plan --preset azure-conv-2023 --rate 5 --model llama-2-7b --gpu a100-80gb`"


@o.grouped
def command(
    workload: o.WorkloadOptions,
    hardware: o.HardwareOptions,
    engine: o.EngineOptions,
    output_format: o.OutputFormat = o.Format.TABLE,
    output_dir: o.OutputDir = None,
) -> None:
    """Plan: what the GPU can sustain, what binds, when memory control matters, and what to set."""
    from fluidgate.experiments import plan_for
    from fluidgate.report import plan_table

    fluid_plan = plan_for(workload.load(), hardware.load(), engine.load())
    if output_format is o.Format.JSON:
        o.write_json(fluid_plan.to_dict())
    else:
        o.console().print(plan_table(fluid_plan))
        o.console().print(*fluid_plan.verdict, sep="\n")
    if output_dir is not None:
        o.write_json(fluid_plan.to_dict(), o.made(output_dir) / "plan.json")
