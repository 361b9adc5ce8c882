"""`fluidgate frontier`: the largest stable arrival rate of each policy, next to the fluid boundary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fluidgate.bounds import MAX_REPEATS
from fluidgate.cli import names
from fluidgate.cli import options as o
from fluidgate.cli.groups import changed
from fluidgate.errors import InputError
from fluidgate.words import listed

if TYPE_CHECKING:
    from fluidgate.workload import Synthetic, Workload

EXAMPLE = "Example: `fluidgate frontier --preset azure-conv-2023 --axis memory --value 0.5 --value 1 --value 2`"

MODEL_GPU, GOODPUT = "model-gpu", "goodput"

Policies = Annotated[
    list[str] | None,
    typer.Option(
        "--policy",
        help="Policy or `name:key=value,…`; may be repeated.",
        autocompletion=names.completed(names.policies),
    ),
]
AxisName = Annotated[str | None, typer.Option("--axis", help="What to vary: memory, output-length or model-gpu.")]
Values = Annotated[
    list[str] | None,
    typer.Option(
        "--value",
        help="Value of the axis, may be repeated: a factor on KV blocks or output lengths, or `model/gpu[/tp]`.",
    ),
]
Tolerance = Annotated[float, typer.Option("--tolerance", help="Relative width of the intervals.")]
Alpha = Annotated[float, typer.Option("--alpha", help="Largest probability that an interval misses the true rate.")]
Replications = Annotated[int, typer.Option("--replications", help="Largest number of runs per rate.", max=MAX_REPEATS)]


@o.grouped
def command(
    workload: o.WorkloadOptions,
    patience: o.PatienceOptions,
    hardware: o.HardwareOptions,
    engine: o.EngineOptions,
    running: o.RunningOptions,
    output: o.OutputOptions,
    policies: Policies = None,
    policy_file: o.PolicyFile = None,
    axis: AxisName = None,
    values: Values = None,
    tolerance: Tolerance = 0.01,
    alpha: Alpha = 0.05,
    replications: Replications = 16,
    goodput: o.Goodput = None,
    objectives: o.Objectives = None,
) -> None:
    """Find the largest arrival rate of each policy that is stable, or at which objectives hold, by simulation."""
    from fluidgate.report import frontier_table
    from fluidgate.runs import FRONTIER_POLICIES, frontier

    written = output.files("frontier.json")
    o.try_outputs(*written, running.results, folders=[output.output_dir])
    _refuse_unused(hardware, axis, goodput, objectives)
    source = _source(workload, patience)
    slo, promised = o.promises(goodput, objectives)
    with running.runner("searching") as runner:
        result = frontier(
            source,
            hardware.load(),
            policies or FRONTIER_POLICIES,
            axis=axis,
            values=values,
            config=engine.load(),
            requests=workload.requests or 4000,
            tolerance=tolerance,
            alpha=alpha,
            replications=replications,
            seed=workload.seed,
            policy_file=policy_file,
            objectives=promised,
            slo=slo,
            runner=runner,
        )
    document = result.to_dict(o.command_line())
    if output.as_json:
        o.write_json(document)
    else:
        output.console().print(frontier_table(result))
    for path in written:
        o.write_json(document, path)


def _source(options: o.WorkloadOptions, patience: o.PatienceOptions) -> Workload | Synthetic:
    """The preset, or the trace as it is."""
    options.refuse_rate("frontier finds the rate itself")
    if options.trace is None:
        return patience.of_preset(options.synthetic())
    return options.load(patience.load(), at_any_rate=True)


def _refuse_unused(
    hardware: o.HardwareOptions, axis: str | None, goodput: list[str] | None, objectives: list[str] | None
) -> None:
    """Refuse options that would change nothing."""
    machine = list(changed(hardware).values())
    if axis == MODEL_GPU and machine:
        raise InputError(f"the values of axis {axis} name the machines: leave {listed(machine)} out")
    if goodput and not any(item.startswith(f"{GOODPUT}:") for item in objectives or ()):
        raise InputError("--goodput says what a good request is: add --slo goodput:SHARE, or leave --goodput out")
