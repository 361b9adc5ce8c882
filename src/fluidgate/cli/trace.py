"""`fluidgate trace info|convert|generate`: look at traces, change their format, make new ones."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fluidgate.cli import options as o
from fluidgate.errors import InputError

if TYPE_CHECKING:
    from fluidgate.workload import Workload

app = typer.Typer(help="Look at traces, convert them, generate them.", no_args_is_help=True)

Source = Annotated[Path, typer.Argument(help="Trace or log; `-`: standard input.")]
Target = Annotated[Path, typer.Argument(help="File to write; `.jsonl` is Mooncake, `.csv` is Vidur, `.gz` compresses.")]
Start = Annotated[float, typer.Option("--start", help="Keep requests from this second on.")]
End = Annotated[float | None, typer.Option("--end", help="Keep requests before this second.")]
Duration = Annotated[float | None, typer.Option("--duration", help="Seconds of traffic, instead of --requests.")]


@app.command("info", epilog="Example: `fluidgate trace info log.csv --columns time=ts,prompt=n_in,output=n_out`")
@o.grouped
def info(
    path: Source,
    reading: o.TraceOptions,
    output_format: o.OutputFormat = o.Format.TABLE,
) -> None:
    """Describe a trace or log: what was taken for what, rate, burstiness, lengths, shared prefixes, classes."""
    from fluidgate.report import facts_table
    from fluidgate.workload import info as facts_of

    workload, note = reading.read(path)
    o.say(note)
    facts = facts_of(workload)
    if output_format is o.Format.JSON:
        o.write_json({"name": workload.name, "note": note, **facts})
    else:
        o.console(output_format).print(facts_table(facts, title=workload.name))


@app.command("convert", epilog="Example: `fluidgate trace convert azure.csv mooncake.jsonl --start 600 --end 1200`")
@o.grouped
def convert(
    source: Source,
    target: Target,
    reading: o.TraceOptions,
    rate_scale: o.RateScale = 1.0,
    start: Start = 0.0,
    end: End = None,
) -> None:
    """Convert a trace to another format, sliced and scaled if asked."""
    write = _writer(target)
    workload = _read(source, reading)
    if start > 0 or end is not None:
        workload = workload.between(start, float("inf") if end is None else end)
    write(workload if rate_scale == 1.0 else workload.scaled(rate_scale))


@app.command(epilog="Example: `fluidgate trace generate day.jsonl --preset lmsys --rate 50 --duration 600 --seed 7`")
def generate(
    target: Target,
    preset: o.Preset = None,
    requests: o.Requests = None,
    duration: Duration = None,
    rate: o.Rate = None,
    burstiness: o.Burstiness = None,
    turns: o.TurnCount = None,
    think_time: o.ThinkTime = 10.0,
    growth: o.Growth = 100.0,
    seed: o.Seed = 0,
) -> None:
    """Draw a trace from a built-in workload; with --turns its requests go on as sessions."""
    from fluidgate.workload import generate as draw

    if requests is not None and duration is not None:
        raise InputError("give --requests or --duration, not both")
    n = None if duration is not None else requests or 4000
    write = _writer(target)
    options = o.WorkloadOptions(
        preset=preset, rate=rate, burstiness=burstiness, turns=turns, think_time=think_time, growth=growth
    )
    write(draw(options.synthetic(), n=n, duration_s=duration, rate=None if rate == inf else rate, seed=seed))


def _read(path: Path, reading: o.TraceOptions) -> Workload:
    workload, note = reading.read(path)
    o.say(note)
    return workload


def _writer(path: Path) -> Callable[[Workload], None]:
    """A function that writes a workload to the path, which is checked first."""
    from fluidgate.workload import write_mooncake, write_vidur

    suffix = Path(path.name.removesuffix(".gz")).suffix
    if suffix not in (".jsonl", ".csv"):
        raise InputError(f"{path}: name it .jsonl (Mooncake) or .csv (Vidur), with .gz appended to compress")
    o.try_outputs(path)

    def write(workload: Workload) -> None:
        if workload.concurrency is not None:
            o.say(f"a trace cannot say that {workload.concurrency} are in flight at most: give --concurrency to use it")
        if suffix == ".csv" and len(workload.prefix_ids):
            o.say("the Vidur format has no place for prefix ids: they are left out; use .jsonl to keep them")
        (write_mooncake if suffix == ".jsonl" else write_vidur)(workload, path)
        o.say(f"wrote {len(workload):,} requests to {path}")

    return write
