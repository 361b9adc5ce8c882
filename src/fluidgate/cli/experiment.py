"""`fluidgate experiment`: the studies behind the documentation, each as one resumable command."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from fluidgate.bounds import MAX_REPEATS, MAX_REQUESTS
from fluidgate.cli import options as o
from fluidgate.errors import InputError
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

Figures = Annotated[
    Path | None, typer.Option("--figures", help="Draw the study's figures into this folder, as SVG and PDF.")
]

QUALITY_EXAMPLE = "Example: `fluidgate experiment plan-quality --jobs 2 --results plan-quality.jsonl`"


_KEPT = {
    name: o.RunningOptions(results=Path(name))
    for name in (
        *("gate.jsonl", "plan-quality.jsonl", "paper.jsonl", "accuracy.jsonl", "cadence.jsonl", "scaling.jsonl"),
        "deadlines.jsonl",
    )
}
"""Studies take long, so each keeps its runs."""


def _refuse_figures(figures: Path | None, parts: list[str] | None = None, drawn: tuple[str, ...] = ()) -> None:
    """Before any run: where none of the parts that were asked for is drawn, or nothing draws."""
    if figures is None:
        return
    if parts and not set(parts) & set(drawn):
        raise InputError(f"--figures draws part {' and '.join(drawn)}: add --part {drawn[0]}, or leave --figures out")
    from fluidgate.studies.figures import need_matplotlib

    need_matplotlib()


def _refuse_data(option: str, path: Path | None, parts: list[str] | None, part: str) -> None:
    """Before any run: where the part that reads the file is not among those that were asked for."""
    if path is not None and parts and part not in parts:
        raise InputError(f"{option} is for part {part}: add --part {part}, or leave {option} out")


def _typed(study: str, option: str, chosen: list[str] | None, *more: str) -> str:
    """The command that a page names: the study, what was chosen of it by a repeated option, and other options."""
    return " ".join([f"fluidgate experiment {study}", *(f"{option} {name}" for name in chosen or ()), *more])


def _write(
    page: Path, text: str, figures: Path | None = None, draw: Callable[[Path], list[Path]] | None = None
) -> None:
    """Write the page, draw into the folder of figures if one is given, and say which files were written."""
    write_text(page, text)
    written = [page, *(draw(figures) if figures is not None and draw is not None else [])]
    o.say(f"wrote {', '.join(str(path) for path in written)}")


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
    figures: Figures = None,
) -> None:
    """What the gate gains and costs: `fluid` against every baseline, by workload, load, knob and eviction cost."""
    from fluidgate.studies.gate import PARTS, Scale, gate_page, run_gate, write_curves

    _refuse_figures(figures, parts, ("curves",))
    _refuse_data("--mooncake", mooncake, parts, "loads")
    o.try_outputs(page, running.results, folders=[figures])
    with running.runner("simulating") as runner:
        result = run_gate(
            parts or list(PARTS),
            Scale(requests, seeds, tuning_seeds),
            mooncake=mooncake,
            runner=runner,
        )
    _write(page, gate_page(result), figures, partial(write_curves, result))


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
    _write(page, quality_page(qualities, command))


PAPER_EXAMPLE = "Example: `fluidgate experiment paper --part theory --seeds 2 --results paper.jsonl`"

PaperParts = Annotated[
    list[str] | None,
    typer.Option(
        "--part",
        help="theory, scaling, latency, stable-rate, equal-chunks, decode-server or mixing; may be repeated. "
        "If not given: all.",
    ),
]


@app.command("paper", epilog=PAPER_EXAMPLE)
@o.grouped
def paper(
    running: o.RunningOptions = _KEPT["paper.jsonl"],
    parts: PaperParts = None,
    requests: Annotated[int, typer.Option("--requests", help="Requests per run.", min=300)] = 5000,
    seeds: Seeds = 3,
    page: Page = Path("paper-results.md"),
    figures: Figures = None,
) -> None:
    """The studies of the papers that fluidgate builds on, run again, with each of their claims judged."""
    from fluidgate.studies.paper import PARTS, Scale, paper_page, run_paper
    from fluidgate.studies.paper.figures import write_paper_figures

    _refuse_figures(figures, parts, ("latency", "scaling"))
    o.try_outputs(page, running.results, folders=[figures])
    with running.runner("simulating") as runner:
        result = run_paper(
            parts or list(PARTS),
            Scale(requests, seeds),
            runner=runner,
        )
    _write(page, paper_page(result), figures, partial(write_paper_figures, result))


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

    _refuse_data("--measured", measured, parts, "open-loop")
    o.try_outputs(page, running.results)
    with running.runner("simulating") as runner:
        result = run_accuracy(parts, measured=measured, every=every, runner=runner)
    more = ["--measured FOLDER"] * (measured is not None) + [f"--every {every}"] * (every > 1)
    _write(page, accuracy_page(result, _typed("accuracy", "--part", parts, *more)))


CADENCE_EXAMPLE = "Example: `fluidgate experiment cadence --machine experts --jobs 2 --results cadence.jsonl`"

Machines = Annotated[
    list[str] | None,
    typer.Option("--machine", help="experts, dense or affine; may be repeated. If not given: all."),
]


@app.command("cadence", epilog=CADENCE_EXAMPLE)
@o.grouped
def cadence(
    running: o.RunningOptions = _KEPT["cadence.jsonl"],
    machines: Machines = None,
    requests: Requests = 4000,
    seeds: Seeds = 3,
    page: Page = Path("cadence-results.md"),
) -> None:
    """The planned `prefill_schedule_interval` against every other one, over the presets."""
    from fluidgate.studies.cadence import MACHINES, cadence_page, run_cadence

    o.try_outputs(page, running.results)
    with running.runner("simulating") as runner:
        rows = run_cadence(machines or list(MACHINES), requests=requests, seeds=seeds, runner=runner)
    command = _typed("cadence", "--machine", machines, f"--requests {requests}", f"--seeds {seeds}")
    _write(page, cadence_page(rows, command))


SCALING_EXAMPLE = "Example: `fluidgate experiment scaling --machine h100 --seeds 3 --results scaling.jsonl`"

ScaledMachines = Annotated[
    list[str] | None,
    typer.Option("--machine", help="h100 or a100; may be repeated. If not given: both."),
]


@app.command("scaling", epilog=SCALING_EXAMPLE)
@o.grouped
def scaling(
    running: o.RunningOptions = _KEPT["scaling.jsonl"],
    machines: ScaledMachines = None,
    seeds: Seeds = 5,
    page: Page = Path("scaling-results.md"),
    figures: Figures = None,
) -> None:
    """A fleet that grows and shrinks: scaled from the boundary, by queue, by KV use, and not at all."""
    from fluidgate.studies.scaling import MACHINES, run_scaling, scaling_page, write_figures

    _refuse_figures(figures)
    o.try_outputs(page, running.results, folders=[figures])
    with running.runner("simulating") as runner:
        result = run_scaling(machines or list(MACHINES), seeds=seeds, runner=runner)
    command = _typed("scaling", "--machine", machines, f"--seeds {seeds}")
    _write(page, scaling_page(result, command), figures, partial(write_figures, result))


DEADLINES_EXAMPLE = "Example: `fluidgate experiment deadlines --part changes --seeds 3 --results deadlines.jsonl`"

DeadlineParts = Annotated[
    list[str] | None,
    typer.Option("--part", help="cells, waits or changes; may be repeated. If not given: all."),
]


@app.command("deadlines", epilog=DEADLINES_EXAMPLE)
@o.grouped
def deadlines(
    running: o.RunningOptions = _KEPT["deadlines.jsonl"],
    parts: DeadlineParts = None,
    requests: Annotated[
        int, typer.Option("--requests", help="Requests measured per run, about.", min=100, max=MAX_REQUESTS)
    ] = 10_000,
    seeds: Seeds = 10,
    page: Page = Path("deadlines-results.md"),
    figures: Figures = None,
) -> None:
    """What completes before clients give up: `fluid` against stock, a queue cap, LIFO, CoDel and known lengths."""
    from fluidgate.studies.deadlines import PARTS, deadlines_page, run_deadlines, write_figures

    _refuse_figures(figures, parts, ("cells",))
    o.try_outputs(page, running.results, folders=[figures])
    with running.runner("simulating") as runner:
        result = run_deadlines(parts or list(PARTS), requests=requests, seeds=seeds, runner=runner)
    command = _typed("deadlines", "--part", parts, f"--requests {requests}", f"--seeds {seeds}")
    _write(page, deadlines_page(result, command), figures, partial(write_figures, result))
