"""`fluidgate simulate` and `fluidgate emulate`: one policy on one workload, in our engine or in vLLM's scheduler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fluidgate.cli import names
from fluidgate.cli import options as o
from fluidgate.cli.overhead import Overhead, load_with

if TYPE_CHECKING:
    from fluidgate.engine import Fleet, RunRecords
    from fluidgate.metrics import Judged, Summary
    from fluidgate.workload import Workload

SIMULATE_EXAMPLE = "Example: `fluidgate simulate --preset lmsys --rate 60 --policy wait --goodput ttft:2000 tpot:50`"
EMULATE_EXAMPLE = "Example: `fluidgate emulate --preset lmsys --rate 60 --requests 200 --policy watermark`"

PolicyName = Annotated[
    str,
    typer.Option(
        "--policy",
        help="Policy, or `name:key=value,…` to set parameters by hand.",
        autocompletion=names.completed(names.policies),
    ),
]

Perfetto = Annotated[
    Path | None,
    typer.Option("--perfetto", help="Write the first repeat to this trace file, for ui.perfetto.dev."),
]


@dataclass(frozen=True)
class RunOptions:
    """What to run, and what to write of it."""

    policy: PolicyName = "fluid"
    policy_file: o.PolicyFile = None
    repeats: o.Repeats = 1
    goodput: o.Goodput = None
    objectives: o.Objectives = None
    perfetto: Perfetto = None
    overhead: Overhead = True


@o.grouped
def simulate_command(
    workload: o.WorkloadOptions,
    patience: o.PatienceOptions,
    hardware: o.HardwareOptions,
    engine: o.EngineOptions,
    fleet: o.FleetOptions,
    options: RunOptions,
    output: o.OutputOptions,
) -> None:
    """Simulate one policy; prints every metric, with 95% intervals where there are repeats."""
    from fluidgate.runs import simulate

    several = fleet.load(workload.seed)
    _run(partial(simulate, fleet=several), workload, patience, hardware, engine, several, options, output)


@o.grouped
def emulate_command(
    workload: o.WorkloadOptions,
    patience: o.PatienceOptions,
    hardware: o.HardwareOptions,
    engine: o.EngineOptions,
    options: RunOptions,
    output: o.OutputOptions,
) -> None:
    """Run one policy in vLLM's own scheduler, on virtual time; prints what `simulate` prints."""
    from fluidgate.engine import Fleet
    from fluidgate.serving import emulate

    _run(emulate, workload, patience, hardware, engine, Fleet(), options, output)


def _run(
    runner: Callable[..., RunRecords],
    workload: o.WorkloadOptions,
    patience: o.PatienceOptions,
    hardware_options: o.HardwareOptions,
    engine: o.EngineOptions,
    fleet: Fleet,
    options: RunOptions,
    output: o.OutputOptions,
) -> None:
    from fluidgate.metrics import judge_objectives, summarize
    from fluidgate.policies import load_policy_file
    from fluidgate.report import outside_engine, write_perfetto
    from fluidgate.runs import policy_for, provenance

    written = output.files("summary.json", "requests.csv")
    o.try_outputs(*written, options.perfetto, folders=[output.output_dir])
    load_policy_file(options.policy_file)
    settings = engine.load()
    waiting = patience.load()
    draws, hardware = workload.draws(options.repeats, waiting), load_with(options.overhead, hardware_options)
    config = settings.on(hardware)
    slo, objectives = o.promises(options.goodput, options.objectives)
    chosen = policy_for(options.policy, draws[0], hardware, config, fleet.replicas)
    runs: list[RunRecords] = []
    with o.progress_bar(f"running {options.policy}") as progress:
        for draw in draws:
            record = "decisions" if options.perfetto and not runs else "requests"
            runs.append(runner(draw, hardware, chosen, config=config, record=record, progress=progress))
    summaries = [summarize(records, slo, objectives) for records in runs]
    judged = judge_objectives(objectives, [summary.objectives for summary in summaries])
    numbers = [
        summary.to_dict() | _met(judge_objectives(objectives, [summary.objectives])) | _fleet_facts(records)
        for summary, records in zip(summaries, runs, strict=True)
    ]
    if output.as_json:
        o.write_json(numbers)
    else:
        title = f"{options.policy} on {draws[0].name}, {hardware.name}{outside_engine(hardware)}"
        _print(title, summaries, judged, runs, output)
    about = provenance(
        draws[0], hardware, seed=workload.seed, command=o.command_line(), config=asdict(config), policy=options.policy
    )
    if written:
        summary, requests = written
        o.write_json(about | {"repeats": numbers} | _met(judged), summary)
        _write_requests(runs[0], requests, about)
    if options.perfetto is not None:
        o.say(f"wrote {write_perfetto(runs[0], options.perfetto, about)}")


def _met(judged: Sequence[Judged]) -> dict[str, Any]:
    """Which objectives are met, as JSON has it; nothing where there are none."""
    return {"objectives": [entry.to_dict() for entry in judged]} if judged else {}


def _fleet_facts(records: RunRecords) -> dict[str, Any]:
    """What a fleet's JSON adds to the summary; nothing for one engine."""
    from fluidgate.engine import FleetRecords, GateRecords

    if not isinstance(records, FleetRecords):
        return {}
    facts = {"replicas": records.replicas, "router": records.router, "imbalance": records.imbalance}
    return facts | {"lost": int(records.lost.sum())} if isinstance(records, GateRecords) else facts


def _print(
    title: str,
    summaries: Sequence[Summary],
    judged: Sequence[Judged],
    runs: Sequence[RunRecords],
    output: o.OutputOptions,
) -> None:
    from fluidgate.report import summary_table

    out = output.console()
    out.print(summary_table(summaries, title=title))
    for entry in judged:
        out.print(entry.words)
    for facts in map(_fleet_facts, runs):
        if facts:
            out.print(
                f"{facts['replicas']} replicas behind {facts['router']}: the busiest got {facts['imbalance']:.3f} "
                "times the mean number of tokens"
            )


def _write_requests(records: RunRecords, path: Path, about: dict[str, Any]) -> None:
    """One row per request of the first repeat, in order of arrival; those that were refused have no times."""
    from fluidgate.engine import FleetRecords
    from fluidgate.runs import write_table

    columns: dict[str, Any] = {
        "arrival_s": records.arrival_s,
        "prompt_tokens": records.workload.prompt_tokens,
        "output_tokens": records.workload.output_tokens,
        "first_scheduled_s": records.first_scheduled_s,
        "first_token_s": records.first_token_s,
        "last_token_s": records.last_token_s,
        "finished": records.finished,
        "generated_tokens": records.generated_tokens,
        "longest_gap_s": records.longest_gap_s,
        "held_s": records.held_s,
        "preemptions": records.preemptions,
        "recomputed_tokens": records.recomputed_tokens,
        "cached_tokens": records.cached_tokens,
    }
    if records.workload.gives_up:
        columns |= _given_up(records)
    if isinstance(records, FleetRecords):
        columns["replica"] = records.replica
    columns = _with_refused(columns, records.workload.refused)
    write_table(path, about, list(columns), zip(*(column.tolist() for column in columns.values()), strict=True))
    o.say(f"wrote {path}")


def _given_up(records: RunRecords) -> dict[str, Any]:
    """The columns of clients that give up."""
    load = records.workload
    return {
        "timeout_s": load.timeout_s,
        "ttft_timeout_s": load.ttft_timeout_s,
        "aborted": records.aborted,
        "shed": records.shed,
        "no_first_token": records.no_first_token,
        "gave_up_s": records.gave_up_s,
        "left_s": records.left_s,
        "spent_tokens": records.spent_tokens,
        "spent_s": records.spent_s,
    }


def _with_refused(columns: dict[str, Any], refused: Workload | None) -> dict[str, Any]:
    """The columns with a row for each refused request, and one that tells them."""
    import numpy as np

    columns = columns | {"refused": np.zeros(len(columns["arrival_s"]), bool)}
    if refused is None:
        return columns
    known = {name: getattr(refused, name) for name in ("arrival_s", "prompt_tokens", "output_tokens")}
    known["refused"] = np.ones(len(refused), bool)
    nothing = {"f": np.nan, "i": 0, "b": False}

    def whole(name: str, column: Any) -> Any:
        return np.concatenate(
            (column, known.get(name, np.full(len(refused), nothing[column.dtype.kind], column.dtype)))
        )

    order = np.argsort(whole("arrival_s", columns["arrival_s"]), kind="stable")
    return {name: whole(name, column)[order] for name, column in columns.items()}
