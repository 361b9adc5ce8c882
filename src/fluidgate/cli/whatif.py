"""`fluidgate whatif`: one knob against the outcome."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fluidgate.cli import names
from fluidgate.cli import options as o
from fluidgate.cli.overhead import load_with
from fluidgate.errors import InputError

if TYPE_CHECKING:
    from fluidgate.hardware import Hardware
    from fluidgate.runs.whatif import MachineSpec

EXAMPLE = "Example: `fluidgate whatif --preset azure-conv-2023 --rate 8 --vary seats=64,128,256 --slo p99:ttft:2000`"
KNOBS = (
    "rate, growth, output-length, prompt-length, gpu, tp, seats, budget, kv-dtype, watermark, memory, policy, replicas"
)

Vary = Annotated[
    str,
    typer.Option(
        "--vary",
        help=f"Knob, or `knob=value,value,…`: {KNOBS}. Without values it takes some around the present one.",
        autocompletion=names.completed(names.knobs),
    ),
]


@dataclass(frozen=True)
class WhatIfOptions:
    """What stays while the knob is turned, and what counts."""

    policy: Annotated[
        str,
        typer.Option("--policy", help="Policy, or `name:key=value,…`.", autocompletion=names.completed(names.policies)),
    ] = "fluid"
    policy_file: o.PolicyFile = None
    repeats: o.Repeats = 3
    goodput: o.Goodput = None
    objectives: o.Objectives = None
    price: Annotated[
        str | None,
        typer.Option("--price", help="Price of a GPU and hour: `2.5`, or by GPU `h100=2.5,l40s=0.9`."),
    ] = None


@dataclass(frozen=True)
class FileOptions:
    """Pictures to write."""

    html: Annotated[Path | None, typer.Option("--html", help="Write a page with figures to this file.")] = None
    figures: Annotated[Path | None, typer.Option("--figures", help="Write the figures to this folder, as SVG.")] = None


@o.grouped
def command(
    workload: o.WorkloadOptions,
    patience: o.PatienceOptions,
    hardware: o.HardwareOptions,
    engine: o.EngineOptions,
    fleet: o.FleetOptions,
    files: FileOptions,
    running: o.RunningOptions,
    output: o.OutputOptions,
    vary: Vary,
    options: WhatIfOptions = WhatIfOptions(),
) -> None:
    """What if: vary one knob, and print boundary, load, latencies, KV use and cost of every value."""
    from fluidgate.report import whatif_table, write_whatif_figures, write_whatif_page
    from fluidgate.runs.prices import parse_prices
    from fluidgate.runs.whatif import Setup, whatif

    written = output.files("whatif.json")
    o.try_outputs(*written, files.html, running.results, folders=[output.output_dir, files.figures])
    knob, values = _knob(vary)
    slo, objectives = o.promises(options.goodput, options.objectives)
    prices = parse_prices(options.price)
    if knob == "gpu" and prices.every is not None:
        raise InputError(
            f"--vary gpu with one --price {prices.every:g} for all: give each its own, --price h100=2.5,l40s=0.9"
        )
    setup = Setup(
        hardware=_machine(hardware, knob, values),
        config=engine.load(),
        policy=options.policy,
        fleet=fleet.load(workload.seed),
        spec=_spec(hardware),
    )
    draws = workload.draws(options.repeats, patience.load())
    with running.runner("simulating") as runner:
        result = whatif(
            draws,
            setup,
            knob,
            values,
            slo=slo,
            objectives=objectives,
            prices=prices,
            seed=workload.seed,
            policy_file=options.policy_file,
            runner=runner,
        )
    typed, out = o.command_line(), output.console()
    if output.as_json:
        o.write_json(result.to_dict(typed))
    else:
        out.print(whatif_table(result, None if output.output_format is o.Format.WIDE else out.width))
    for path in written:
        o.write_json(result.to_dict(typed), path)
    if files.html is not None:
        o.say(f"wrote {write_whatif_page(result, files.html, typed)}")
    if files.figures is not None:
        o.say(f"wrote {len(write_whatif_figures(result, files.figures))} figures to {files.figures}")


def _knob(text: str) -> tuple[str, list[str] | None]:
    from fluidgate.runs.whatif import split_values

    name, equals, values = text.partition("=")
    return name.strip(), split_values(name.strip(), values) if equals else None


def _machine(options: o.HardwareOptions, knob: str, values: list[str] | None) -> Hardware:
    """The machine, or where the model does not go on it, that of the first value of the knob on which it does."""
    from fluidgate.runs.whatif import workable_machine

    try:
        return load_with(True, options)
    except InputError:
        spec = _spec(options)
        instead = None if spec is None else workable_machine(knob, values, spec)
        if instead is None:
            raise
        return instead


def _spec(hardware: o.HardwareOptions) -> MachineSpec | None:
    """How the machine was asked for; None where a file states it."""
    from fluidgate.runs.whatif import MachineSpec

    if hardware.hardware_file is not None:
        return None
    return MachineSpec(hardware.named_model, hardware.data_sheet() or hardware.gpu, hardware.serving())
