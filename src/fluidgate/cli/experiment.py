"""`fluidgate experiment`: the studies behind the documentation, each as one resumable command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fluidgate.bounds import MAX_REPEATS, MAX_REQUESTS
from fluidgate.cli import options as o
from fluidgate.output import write_text

app = typer.Typer(no_args_is_help=True, help="Run the studies behind the documentation.")

GATE_EXAMPLE = "Example: `fluidgate experiment gate --part cells --seeds 3 --jobs 2 --results gate.jsonl`"

Parts = Annotated[
    list[str] | None,
    typer.Option(
        "--part",
        help="long-outputs, cells, curves, eviction-costs, priors or loads; may be repeated. Without: all.",
    ),
]
Requests = Annotated[int, typer.Option("--requests", help="Requests per run, at least.", min=100, max=MAX_REQUESTS)]
Seeds = Annotated[int, typer.Option("--seeds", help="Paired seeds.", min=2, max=MAX_REPEATS)]
TuningSeeds = Annotated[
    int,
    typer.Option("--tuning-seeds", help="Seeds that the tuned baseline is tuned on.", min=1, max=MAX_REPEATS),
]
Mooncake = Annotated[Path | None, typer.Option("--mooncake", help="Mooncake's conversation trace (JSON lines).")]
Page = Annotated[Path, typer.Option("--page", help="Write the tables to this Markdown file.")]

QUALITY_EXAMPLE = "Example: `fluidgate experiment plan-quality --jobs 2 --results plan-quality.jsonl`"


@app.command("gate", epilog=GATE_EXAMPLE)
def gate(
    parts: Parts = None,
    requests: Requests = 2000,
    seeds: Seeds = 10,
    tuning_seeds: TuningSeeds = 2,
    mooncake: Mooncake = None,
    page: Page = Path("gate-results.md"),
    jobs: o.Jobs = 1,
    ray: o.Ray = None,
    results: o.Results = Path("gate.jsonl"),
) -> None:
    """What the gate is worth: `fluid` against every baseline, over workloads, loads, knobs and eviction costs."""
    from fluidgate.studies.gate import PARTS, Scale, gate_page, run_gate

    o.try_outputs(page, results)
    with o.progress_bar("simulating") as progress:
        result = run_gate(
            parts or list(PARTS),
            Scale(requests, seeds, tuning_seeds),
            mooncake=mooncake,
            results=results,
            workers=jobs,
            ray_address=ray,
            progress=progress,
        )
    write_text(page, gate_page(result))
    o.say(f"wrote {page}")


@app.command("plan-quality", epilog=QUALITY_EXAMPLE)
def plan_quality_command(
    requests: Requests = 4000,
    tolerance: Annotated[float, typer.Option("--tolerance", help="Relative width of the intervals.")] = 0.01,
    page: Page = Path("plan-quality-results.md"),
    jobs: o.Jobs = 1,
    ray: o.Ray = None,
    results: o.Results = Path("plan-quality.jsonl"),
) -> None:
    """How far the predicted boundary is from the simulated frontier, over pairs of workload and machine."""
    from fluidgate.runs.frontier.sequential import Rule
    from fluidgate.studies.plan_quality.page import quality_page
    from fluidgate.studies.plan_quality.study import plan_quality

    o.try_outputs(page, results)
    with o.progress_bar("searching") as progress:
        found = plan_quality(
            requests=requests,
            rule=Rule(tolerance),
            results=results,
            workers=jobs,
            ray_address=ray,
            progress=progress,
        )
    command = f"fluidgate experiment plan-quality --requests {requests} --tolerance {tolerance:g}"
    write_text(page, quality_page(found, command))
    o.say(f"wrote {page}")


PAPER_EXAMPLE = "Example: `fluidgate experiment paper --part theory --seeds 2 --results paper.jsonl`"

PaperParts = Annotated[
    list[str] | None,
    typer.Option("--part", help="theory, latency, stable-rate or equal-chunks; may be repeated. Without: all."),
]


@app.command("paper", epilog=PAPER_EXAMPLE)
def paper(
    parts: PaperParts = None,
    requests: Annotated[int, typer.Option("--requests", help="Requests per run.", min=300)] = 5000,
    seeds: Seeds = 3,
    page: Page = Path("paper-results.md"),
    figures: Annotated[Path | None, typer.Option("--figures", help="Folder for SVG files of the latencies.")] = None,
    jobs: o.Jobs = 1,
    ray: o.Ray = None,
    results: o.Results = Path("paper.jsonl"),
) -> None:
    """The studies of the papers that fluidgate builds on, run again, with each of their claims judged."""
    from fluidgate.studies.paper import PARTS, Scale, paper_page, run_paper
    from fluidgate.studies.paper.figures import write_paper_figures

    o.try_outputs(page, results, folders=[figures])
    with o.progress_bar("simulating") as progress:
        result = run_paper(
            parts or list(PARTS),
            Scale(requests, seeds),
            results=results,
            workers=jobs,
            ray_address=ray,
            progress=progress,
        )
    write_text(page, paper_page(result))
    written = [page, *(write_paper_figures(result, figures) if figures is not None else [])]
    o.say(f"wrote {', '.join(str(path) for path in written)}")
