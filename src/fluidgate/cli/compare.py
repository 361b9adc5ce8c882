"""`fluidgate compare`: policies side by side on the same requests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fluidgate.cli import options as o
from fluidgate.errors import InputError

if TYPE_CHECKING:
    from fluidgate.runs import Comparison, Frontier

EXAMPLE = "Example: `fluidgate compare --preset azure-conv-2023 --load 0.9 --load 1.1 --html report.html`"

Policies = Annotated[
    list[str] | None,
    typer.Option("--policy", help="Policy or `name:key=value,…`; may be repeated, the first is the baseline."),
]
Loads = Annotated[
    list[float] | None,
    typer.Option("--load", help="Arrival rate ÷ stability boundary; may be repeated. Without: as it arrives."),
]
Html = Annotated[Path | None, typer.Option("--html", help="Write an HTML report to this file.")]
Csv = Annotated[Path | None, typer.Option("--csv", help="Write one row per load, policy and repeat to this CSV file.")]
Figures = Annotated[Path | None, typer.Option("--figures", help="Write the report's figures to this folder, as SVG.")]
StableRates = Annotated[
    bool, typer.Option("--frontier", help="With --html: find and show each policy's largest stable rate; takes longer.")
]
Parquet = Annotated[Path | None, typer.Option("--parquet", help="Write the same rows to this Parquet file.")]


@o.grouped
def command(
    workload: o.WorkloadOptions,
    hardware: o.HardwareOptions,
    engine: o.EngineOptions,
    fleet: o.FleetOptions,
    policies: Policies = None,
    policy_file: o.PolicyFile = None,
    loads: Loads = None,
    repeats: o.Repeats = 3,
    goodput: o.Goodput = None,
    html: Html = None,
    csv: Csv = None,
    parquet: Parquet = None,
    figures: Figures = None,
    stable_rates: StableRates = False,
    jobs: o.Jobs = 1,
    ray: o.Ray = None,
    results: o.Results = None,
    output_format: o.OutputFormat = o.Format.TABLE,
    output_dir: o.OutputDir = None,
) -> None:
    """Compare policies: the plan, a table per load with 95% intervals, and files if asked for."""
    from fluidgate.metrics import parse_goodput
    from fluidgate.report import comparison_table, plan_table
    from fluidgate.runs import DEFAULT_POLICIES, compare, frontier

    if output_dir is not None:
        html = html or output_dir / "report.html"
    written = o.within(output_dir, "comparison.json")
    o.try_outputs(*written, html, csv, parquet, results, folders=[output_dir, figures])
    draws = workload.draws(repeats)
    if stable_rates and (html is None or fleet.replicas > 1):
        raise InputError("--frontier adds stable rates of one engine to the report: give --html, leave --replicas out")
    with o.progress_bar("simulating") as progress:
        result = compare(
            draws,
            hardware.load(),
            policies or DEFAULT_POLICIES,
            loads=loads,
            config=engine.load(),
            slo=parse_goodput(goodput) if goodput else None,
            seed=workload.seed,
            policy_file=policy_file,
            workers=jobs,
            ray_address=ray,
            results=results,
            progress=progress,
            timelines=bool(html or figures),
            fleet=fleet.load(workload.seed),
        )
    if output_format is o.Format.JSON:
        o.write_json(result.to_dict(o.command_line()))
    else:
        out = o.console()
        if fleet.replicas > 1:
            out.print(f"The plan of each of {fleet.replicas} replicas behind {fleet.router}:")
        out.print(plan_table(result.scenarios[0].plan))
        for scenario in result.scenarios:
            out.print(f"At load {scenario.load:.2f}", style="bold")
            out.print(*(f"  {sentence}" for sentence in scenario.plan.verdict), sep="\n")
        out.print(comparison_table(result))
    for path in written:
        o.write_json(result.to_dict(o.command_line()), path)
    found = None
    if stable_rates:
        with o.progress_bar("searching") as progress:
            found = frontier(
                workload.preset if workload.trace is None else draws[0],
                hardware.load(),
                policies or DEFAULT_POLICIES,
                config=engine.load(),
                requests=workload.requests or 4000,
                seed=workload.seed,
                policy_file=policy_file,
                workers=jobs,
                ray_address=ray,
                progress=progress,
            )
    _write_files(result, hardware, html, csv, parquet, figures, found)


def _write_files(
    result: Comparison,
    hardware: o.HardwareOptions,
    html: Path | None,
    csv: Path | None,
    parquet: Path | None,
    figures: Path | None,
    found: Frontier | None,
) -> None:
    from fluidgate.cli.deployments import deployments
    from fluidgate.cli.plan import served
    from fluidgate.report import write_figures, write_report
    from fluidgate.runs import write_csv, write_parquet

    typed = o.command_line()
    if csv is not None:
        o.say(f"wrote {write_csv(result, csv, typed)}")
    if parquet is not None:
        o.say(f"wrote {write_parquet(result, parquet, typed)}")
    if html is not None:
        o.say(f"wrote {write_report(result, html, typed, deployments(result, served(hardware)), found)}")
    if figures is not None:
        o.say(f"wrote {len(write_figures(result, figures))} figures to {figures}")
