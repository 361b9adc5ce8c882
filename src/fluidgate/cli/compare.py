"""`fluidgate compare`: policies side by side on the same requests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fluidgate.cli import options as o

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
Parquet = Annotated[Path | None, typer.Option("--parquet", help="Write the same rows to this Parquet file.")]


@o.grouped
def command(
    workload: o.WorkloadOptions,
    hardware: o.HardwareOptions,
    engine: o.EngineOptions,
    policies: Policies = None,
    policy_file: o.PolicyFile = None,
    loads: Loads = None,
    repeats: o.Repeats = 3,
    goodput: o.Goodput = None,
    html: Html = None,
    csv: Csv = None,
    parquet: Parquet = None,
    jobs: o.Jobs = 1,
    ray: o.Ray = None,
    results: o.Results = None,
    output_format: o.OutputFormat = o.Format.TABLE,
    output_dir: o.OutputDir = None,
) -> None:
    """Compare policies: the plan, a table per load with 95% intervals, and files if asked for."""
    from fluidgate.experiments import DEFAULT_POLICIES, compare, write_csv, write_parquet
    from fluidgate.metrics import parse_goodput
    from fluidgate.report import comparison_table, plan_table, write_report

    draws = workload.draws(repeats)
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
        )
    typed = o.command_line()
    if output_format is o.Format.JSON:
        o.write_json(result.to_dict(typed))
    else:
        out = o.console()
        out.print(plan_table(result.scenarios[0].plan))
        for scenario in result.scenarios:
            out.print(f"[bold]At load {scenario.load:.2f}[/bold]", *scenario.plan.verdict, sep="\n  ")
        out.print(comparison_table(result))
    if output_dir is not None:
        o.write_json(result.to_dict(typed), o.made(output_dir) / "comparison.json")
        html = html or output_dir / "report.html"
    for path, write in ((csv, write_csv), (parquet, write_parquet), (html, write_report)):
        if path is not None:
            o.say(f"wrote {write(result, path, typed)}")
