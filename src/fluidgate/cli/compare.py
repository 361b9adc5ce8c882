"""`fluidgate compare`: policies side by side on the same requests."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fluidgate.cli import names
from fluidgate.cli import options as o
from fluidgate.cli.answers import answers, print_answers
from fluidgate.cli.overhead import Overhead, load_with
from fluidgate.errors import InputError

if TYPE_CHECKING:
    from fluidgate.runs import Comparison, Frontier
    from fluidgate.workload import Workload

EXAMPLE = "Example: `fluidgate compare --preset azure-conv-2023 --load 0.9 --load 1.1 --html report.html`"

PARQUET = ".parquet", ".pq"


@dataclass(frozen=True)
class ComparisonOptions:
    """What to compare."""

    policies: Annotated[
        list[str] | None,
        typer.Option(
            "--policy",
            help="Policy or `name:key=value,…`; may be repeated, the first is the baseline.",
            autocompletion=names.completed(names.policies),
        ),
    ] = None
    policy_file: o.PolicyFile = None
    loads: Annotated[
        list[float] | None,
        typer.Option("--load", help="Arrival rate ÷ stability boundary; may be repeated. Else the workload's rate."),
    ] = None
    repeats: o.Repeats = 3
    goodput: o.Goodput = None
    objectives: o.Objectives = None
    overhead: Overhead = True
    stable_rates: Annotated[
        bool,
        typer.Option("--frontier", help="With --html: find and show each policy's largest stable rate; takes longer."),
    ] = False


@dataclass(frozen=True)
class FileOptions:
    """Files to write."""

    html: Annotated[Path | None, typer.Option("--html", help="Write an HTML report to this file.")] = None
    csv: Annotated[
        Path | None, typer.Option("--csv", help="Write one row per load, policy and repeat to this CSV file.")
    ] = None
    parquet: Annotated[Path | None, typer.Option("--parquet", help="Write the same rows to this Parquet file.")] = None
    figures: Annotated[
        Path | None, typer.Option("--figures", help="Write the report's figures to this folder, as SVG.")
    ] = None


@o.grouped
def command(
    workload: o.WorkloadOptions,
    patience: o.PatienceOptions,
    hardware: o.HardwareOptions,
    engine: o.EngineOptions,
    fleet: o.FleetOptions,
    comparing: ComparisonOptions,
    files: FileOptions,
    running: o.RunningOptions,
    output: o.OutputOptions,
) -> None:
    """Compare policies: the plan, a table per load with 95% intervals, and files if asked for."""
    from fluidgate.runs import DEFAULT_POLICIES, compare

    if output.output_dir is not None:
        files = replace(files, html=files.html or output.output_dir / "report.html")
    written = output.files("comparison.json")
    paths = (*written, files.html, files.csv, files.parquet, running.results)
    o.try_outputs(*paths, folders=[output.output_dir, files.figures])
    if files.parquet is not None and files.parquet.suffix not in PARQUET:
        raise InputError(f"--parquet {files.parquet}: readers know these files by their names; end it in {PARQUET[0]}")
    if comparing.stable_rates and (files.html is None or fleet.replicas > 1):
        raise InputError("--frontier adds stable rates of one engine to the report: give --html, leave --replicas out")
    if comparing.loads:
        workload.refuse_rate("--load sets the arrival rate")
    slo, objectives = o.promises(comparing.goodput, comparing.objectives)
    draws = workload.draws(comparing.repeats, patience.load(), at_any_rate=bool(comparing.loads))
    with running.runner("simulating") as runner:
        result = compare(
            draws,
            load_with(comparing.overhead, hardware),
            comparing.policies or DEFAULT_POLICIES,
            loads=comparing.loads,
            config=engine.load(),
            slo=slo,
            objectives=objectives,
            seed=workload.seed,
            policy_file=comparing.policy_file,
            runner=runner,
            timelines=bool(files.html or files.figures),
            fleet=fleet.load(workload.seed),
        )
    document = result.to_dict(o.command_line()) | {"answers": answers(result)}
    if output.as_json:
        o.write_json(document)
    else:
        _print(result, output)
    for path in written:
        o.write_json(document, path)
    rates = (
        _stable_rates(draws[0], workload, patience, hardware, engine, comparing, running)
        if comparing.stable_rates
        else None
    )
    _write_files(result, hardware, files, rates)


def _print(result: Comparison, output: o.OutputOptions) -> None:
    from rich.text import Text

    from fluidgate.report import comparison_table, contradictions, plan_table

    out, fleet = output.console(), result.fleet
    if fleet.replicas > 1:
        outside = "" if fleet.outside is None else ", fluid behind a gate"
        out.print(f"The plan of each of {fleet.replicas} replicas behind {fleet.router}{outside}:")
    out.print(plan_table(result.scenarios[0].plan))
    for scenario in result.scenarios:
        out.print(f"At load {scenario.load:.2f}", style="bold")
        for sentence in contradictions(result, scenario):
            out.print(Text(sentence, style="red"))
        out.print(*scenario.plan.verdict, sep="\n")
    out.print(comparison_table(result, None if output.output_format is o.Format.WIDE else out.width))
    out.print()
    print_answers(out, result)


def _stable_rates(
    trace: Workload,
    workload: o.WorkloadOptions,
    patience: o.PatienceOptions,
    hardware: o.HardwareOptions,
    engine: o.EngineOptions,
    comparing: ComparisonOptions,
    running: o.RunningOptions,
) -> Frontier:
    from fluidgate.runs import DEFAULT_POLICIES, frontier

    with running.runner("searching") as runner:
        return frontier(
            patience.of_preset(workload.synthetic()) if workload.trace is None else trace,
            hardware.load(),
            comparing.policies or DEFAULT_POLICIES,
            config=engine.load(),
            requests=workload.requests or 4000,
            seed=workload.seed,
            policy_file=comparing.policy_file,
            runner=runner.without_results(),
        )


def _write_files(result: Comparison, hardware: o.HardwareOptions, files: FileOptions, rates: Frontier | None) -> None:
    from fluidgate.cli.deployments import deployments
    from fluidgate.cli.plan import served
    from fluidgate.report import write_figures, write_report
    from fluidgate.runs import write_csv, write_parquet

    typed = o.command_line()
    if files.csv is not None:
        o.say(f"wrote {write_csv(result, files.csv, typed)}")
    if files.parquet is not None:
        o.say(f"wrote {write_parquet(result, files.parquet, typed)}")
    if files.html is not None:
        serving = deployments(result, served(hardware, result.hardware))
        o.say(f"wrote {write_report(result, files.html, typed, serving, rates)}")
    if files.figures is not None:
        o.say(f"wrote {len(write_figures(result, files.figures))} figures to {files.figures}")
