"""`fluidgate frontier`: the largest stable arrival rate of each policy, next to the fluid boundary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fluidgate.bounds import MAX_REPEATS
from fluidgate.cli import options as o
from fluidgate.errors import InputError

if TYPE_CHECKING:
    from fluidgate.workload import Workload

EXAMPLE = "Example: `fluidgate frontier --preset azure-conv-2023 --axis memory --value 0.5 --value 1 --value 2`"

Policies = Annotated[list[str] | None, typer.Option("--policy", help="Policy or `name:key=value,…`; may be repeated.")]
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
) -> None:
    """Find the largest stable arrival rate of each policy by simulation, next to the fluid boundary."""
    from fluidgate.report import frontier_table
    from fluidgate.runs import FRONTIER_POLICIES, frontier

    written = output.files("frontier.json")
    o.try_outputs(*written, running.results, folders=[output.output_dir])
    source = _source(workload)
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
            runner=runner,
        )
    document = result.to_dict(o.command_line())
    if output.as_json:
        o.write_json(document)
    else:
        o.console().print(frontier_table(result))
    for path in written:
        o.write_json(document, path)


def _source(options: o.WorkloadOptions) -> Workload | str:
    """The preset's name, or the trace as it is."""
    if options.rate_scale != 1.0 or (options.rate is not None and options.trace is None):
        raise InputError("frontier finds the rate itself: leave --rate and --rate-scale out")
    return options.preset if options.trace is None else options.load()
