"""`fluidgate demo`: where admission control does nothing, and where it does, on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fluidgate.bounds import MAX_REPEATS, MAX_REQUESTS
from fluidgate.cli import options as o
from fluidgate.cli.answers import print_answers

EXAMPLE = "Example: `fluidgate demo --html report.html`"

STORIES = (("azure-conv-2023", 0.5), ("r1-reasoning", 1.0))
"""Short outputs at half the boundary, where nothing is to be gained, and long outputs at the boundary."""
MACHINE = ("llama-3.1-8b", "l40s")
POLICIES = ("greedy", "fluid")


def command(
    html: Annotated[Path, typer.Option("--html", help="Where to write the report.")] = Path("report.html"),
    requests: Annotated[int, typer.Option(help="Requests of each repeat.", min=1, max=MAX_REQUESTS)] = 2000,
    repeats: Annotated[int, typer.Option(help="Paired repeats for confidence intervals.", min=1, max=MAX_REPEATS)] = 5,
) -> None:
    """Demo: two workloads, one where admission control does nothing and one where it does; under a minute."""
    from fluidgate.cli.deployments import deployments
    from fluidgate.cli.plan import served
    from fluidgate.report import comparison_table, write_report
    from fluidgate.runs import compare, side_by_side

    o.try_outputs(html)
    model, gpu = MACHINE
    options = o.HardwareOptions(model=model, gpu=gpu)
    machine = options.load()
    result = side_by_side(
        [
            compare(preset, machine, POLICIES, loads=[load], requests=requests, repeats=repeats, timelines=True)
            for preset, load in STORIES
        ]
    )
    out = o.console()
    out.print(
        f"A chat workload at half of what the GPU can sustain, and a reasoning workload at all of it: stock vLLM's "
        f"rule ({POLICIES[0]}) beside {POLICIES[1]}.\n"
    )
    out.print(comparison_table(result, out.width))
    out.print()
    print_answers(out, result, reasons=True)
    o.say(f"wrote {write_report(result, html, o.command_line(), deployments(result, served(options, machine)))}")
