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
        help="long-outputs, cells, curves, eviction-costs, priors or loads; may be repeated. If not given: all.",
    ),
]
Requests = Annotated[int, typer.Option("--requests", help="Requests per run, or more.", min=100, max=MAX_REQUESTS)]
Seeds = Annotated[int, typer.Option("--seeds", help="Paired seeds.", min=2, max=MAX_REPEATS)]
TuningSeeds = Annotated[
    int,
    typer.Option("--tuning-seeds", help="Seeds for tuning the baseline.", min=1, max=MAX_REPEATS),
]
Mooncake = Annotated[Path | None, typer.Option("--mooncake", help="Mooncake's conversation trace (JSON lines).")]
Page = Annotated[Path, typer.Option("--page", help="Write the tables to this Markdown file.")]

QUALITY_EXAMPLE = "Example: `fluidgate experiment plan-quality --jobs 2 --results plan-quality.jsonl`"


_KEPT = {
    name: o.RunningOptions(results=Path(name))
    for name in ("gate.jsonl", "plan-quality.jsonl", "paper.jsonl", "accuracy.jsonl")
}
"""Studies take long, so each keeps its runs."""


@app.command("gate", epilog=GATE_EXAMPLE)
@o.grouped
def gate(
    running: o.RunningOptions = _KEPT["gate.jsonl"],
    parts: Parts = None,
    requests: Requests = 2000,
    seeds: Seeds = 10,
    tuning_seeds: TuningSeeds = 2,
    mooncake: Mooncake = None,
    page: Page = Path("gate-results.md"),
) -> None:
    """What the gate gains and costs: `fluid` against every baseline, by workload, load, knob and eviction cost."""
    from fluidgate.studies.gate import PARTS, Scale, gate_page, run_gate

    o.try_outputs(page, running.results)
    with running.runner("simulating") as runner:
        result = run_gate(
            parts or list(PARTS),
            Scale(requests, seeds, tuning_seeds),
            mooncake=mooncake,
            runner=runner,
        )
    write_text(page, gate_page(result))
    o.say(f"wrote {page}")


@app.command("plan-quality", epilog=QUALITY_EXAMPLE)
@o.grouped
def plan_quality_command(
    running: o.RunningOptions = _KEPT["plan-quality.jsonl"],
    requests: Requests = 4000,
    tolerance: Annotated[float, typer.Option("--tolerance", help="Relative width of the intervals.")] = 0.01,
    page: Page = Path("plan-quality-results.md"),
) -> None:
    """How far the predicted boundary is from the simulated frontier, over pairs of workload and machine."""
    from fluidgate.runs.frontier.sequential import Rule
    from fluidgate.studies.plan_quality.page import quality_page
    from fluidgate.studies.plan_quality.study import plan_quality

    o.try_outputs(page, running.results)
    with running.runner("searching") as runner:
        qualities = plan_quality(
            requests=requests,
            rule=Rule(tolerance),
            runner=runner,
        )
    command = f"fluidgate experiment plan-quality --requests {requests} --tolerance {tolerance:g}"
    write_text(page, quality_page(qualities, command))
    o.say(f"wrote {page}")


PAPER_EXAMPLE = "Example: `fluidgate experiment paper --part theory --seeds 2 --results paper.jsonl`"

PaperParts = Annotated[
    list[str] | None,
    typer.Option("--part", help="theory, latency, stable-rate or equal-chunks; may be repeated. If not given: all."),
]


@app.command("paper", epilog=PAPER_EXAMPLE)
@o.grouped
def paper(
    running: o.RunningOptions = _KEPT["paper.jsonl"],
    parts: PaperParts = None,
    requests: Annotated[int, typer.Option("--requests", help="Requests per run.", min=300)] = 5000,
    seeds: Seeds = 3,
    page: Page = Path("paper-results.md"),
    figures: Annotated[Path | None, typer.Option("--figures", help="Folder for SVG files of the latencies.")] = None,
) -> None:
    """The studies of the papers that fluidgate builds on, run again, with each of their claims judged."""
    from fluidgate.studies.paper import PARTS, Scale, paper_page, run_paper
    from fluidgate.studies.paper.figures import write_paper_figures

    o.try_outputs(page, running.results, folders=[figures])
    with running.runner("simulating") as runner:
        result = run_paper(
            parts or list(PARTS),
            Scale(requests, seeds),
            runner=runner,
        )
    write_text(page, paper_page(result))
    written = [page, *(write_paper_figures(result, figures) if figures is not None else [])]
    o.say(f"wrote {', '.join(str(path) for path in written)}")


ACCURACY_EXAMPLE = "Example: `fluidgate experiment accuracy --part development --jobs 2 --results accuracy.jsonl`"

AccuracyParts = Annotated[
    list[str] | None,
    typer.Option("--part", help="open-loop, development or judges; may be repeated. If not given: all that has data."),
]
Measured = Annotated[Path | None, typer.Option("--measured", help="Folder of the measured runs, for open-loop.")]


@app.command("accuracy", epilog=ACCURACY_EXAMPLE)
@o.grouped
def accuracy(
    running: o.RunningOptions = _KEPT["accuracy.jsonl"],
    parts: AccuracyParts = None,
    measured: Measured = None,
    every: Annotated[int, typer.Option("--every", help="Take one closed loop in so many.", min=1)] = 1,
    page: Page = Path("accuracy-results.md"),
) -> None:
    """How far predictions are from measured servers, by the source of their step times."""
    from fluidgate.studies.accuracy import accuracy_page, run_accuracy

    o.try_outputs(page, running.results)
    with running.runner("simulating") as runner:
        result = run_accuracy(parts, measured=measured, every=every, runner=runner)
    command = ["fluidgate experiment accuracy", *(f"--part {part}" for part in parts or ())]
    command += ["--measured FOLDER"] * (measured is not None) + [f"--every {every}"] * (every > 1)
    write_text(page, accuracy_page(result, " ".join(command)))
    o.say(f"wrote {page}")
