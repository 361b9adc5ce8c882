"""`fluidgate simulate` and `fluidgate emulate`: one policy on one workload, in our engine or in vLLM's scheduler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fluidgate.cli import options as o

if TYPE_CHECKING:
    from fluidgate.engine import RunRecords

SIMULATE_EXAMPLE = "Example: `fluidgate simulate --preset lmsys --rate 60 --policy wait --goodput ttft:2000 tpot:50`"
EMULATE_EXAMPLE = "Example: `fluidgate emulate --preset lmsys --rate 60 --requests 200 --policy watermark`"

PolicyName = Annotated[str, typer.Option("--policy", help="Policy, or `name:key=value,…` to set parameters by hand.")]

Perfetto = Annotated[
    Path | None,
    typer.Option("--perfetto", help="Write the first repeat to this trace file, for ui.perfetto.dev."),
]


def _one_policy(runner: Callable[[], Callable[..., RunRecords]], says: str) -> Callable[..., None]:
    """A command that runs one policy with what `runner` loads, and says `says` in its help."""

    def command(
        workload: o.WorkloadOptions,
        hardware: o.HardwareOptions,
        engine: o.EngineOptions,
        policy: PolicyName = "greedy",
        policy_file: o.PolicyFile = None,
        repeats: o.Repeats = 1,
        goodput: o.Goodput = None,
        output_format: o.OutputFormat = o.Format.TABLE,
        output_dir: o.OutputDir = None,
        perfetto: Perfetto = None,
    ) -> None:
        from fluidgate.policies import load_policy_file

        load_policy_file(policy_file)
        _run(runner(), workload, hardware, engine, policy, repeats, goodput, output_format, output_dir, perfetto)

    command.__doc__ = says
    return o.grouped(command)


def _simulator() -> Callable[..., RunRecords]:
    from fluidgate.experiments import simulate

    return simulate


def _emulator() -> Callable[..., RunRecords]:
    from fluidgate.serving import emulate

    return emulate


simulate_command = _one_policy(
    _simulator, "Simulate one policy; prints every metric, with 95% intervals where there are repeats."
)
emulate_command = _one_policy(
    _emulator, "Run one policy in vLLM's own scheduler, on virtual time; prints what `simulate` prints."
)


def _run(
    runner: Callable[..., RunRecords],
    workload: o.WorkloadOptions,
    hardware_options: o.HardwareOptions,
    engine: o.EngineOptions,
    policy: str,
    repeats: int,
    goodput: list[str] | None,
    output_format: o.Format,
    output_dir: Path | None,
    perfetto: Path | None,
) -> None:
    from fluidgate.experiments import plan_for, provenance
    from fluidgate.metrics import parse_goodput, summarize
    from fluidgate.policies import make_policy
    from fluidgate.report import summary_table, write_perfetto

    draws, hardware, config = workload.draws(repeats), hardware_options.load(), engine.load()
    slo = parse_goodput(goodput) if goodput else None
    chosen = make_policy(policy, plan_for(draws[0], hardware, config))
    runs: list[RunRecords] = []
    with o.progress_bar(f"running {policy}") as progress:
        for draw in draws:
            record = "decisions" if perfetto and not runs else "requests"
            runs.append(runner(draw, hardware, chosen, config=config, record=record, progress=progress))
    summaries = [summarize(records, slo) for records in runs]
    if output_format is o.Format.JSON:
        o.write_json([summary.to_dict() for summary in summaries])
    else:
        o.console().print(summary_table(summaries, title=f"{policy} on {draws[0].name}, {hardware.name}"))
    about = provenance(
        draws[0], hardware, seed=workload.seed, command=o.command_line(), config=asdict(config), policy=policy
    )
    if output_dir is not None:
        folder = o.made(output_dir)
        o.write_json(about | {"repeats": [summary.to_dict() for summary in summaries]}, folder / "summary.json")
        _write_requests(runs[0], folder / "requests.csv", about)
    if perfetto is not None:
        o.say(f"wrote {write_perfetto(runs[0], perfetto, about)}")


def _write_requests(records: RunRecords, path: Path, about: dict[str, Any]) -> None:
    """One row per request of the first repeat."""
    from fluidgate.experiments import write_table

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
    write_table(path, about, list(columns), zip(*(column.tolist() for column in columns.values()), strict=True))
    o.say(f"wrote {path}")
