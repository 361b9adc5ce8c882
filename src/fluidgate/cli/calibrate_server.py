"""`fluidgate calibrate server`: a hardware file from a running vLLM server under a load that this command makes."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fluidgate.bounds import MAX_COUNT
from fluidgate.cli import calibrate
from fluidgate.cli import options as o
from fluidgate.errors import InputError

if TYPE_CHECKING:
    from fluidgate.calibration.server.running_server import RunningServer
    from fluidgate.calibration.server.sweep import Sweep
    from fluidgate.hardware import Hardware

EXAMPLE = "Example: `fluidgate calibrate server http://localhost:8000 --out hardware.json`"

Url = Annotated[str, typer.Argument(metavar="URL", help="Address of a vLLM server without other load.")]
Yes = Annotated[bool, typer.Option("--yes", help="Start the load without asking.")]
StepsOut = Annotated[Path | None, typer.Option("--steps-out", help="Keep the steps in this CSV file.")]
Log = Annotated[
    Path | None,
    typer.Option("--log", help="The server's log, if it runs with --enable-logging-iteration-details."),
]

KvCacheTokens = Annotated[
    int | None,
    typer.Option("--kv-cache-tokens", help="KV cache in tokens, as the server logs its size, if its page is wrong."),
]


@dataclass(frozen=True)
class LoadOptions:
    """The load to put on the server."""

    time_s: Annotated[float, typer.Option("--time-s", help="Seconds under load, over all phases, at most.")] = 300.0
    max_concurrency: Annotated[
        int | None,
        typer.Option(
            "--max-concurrency", help="Largest number of requests at a time; 64, or fewer if the KV cache is small."
        ),
    ] = None
    max_num_batched_tokens: Annotated[
        int | None,
        typer.Option("--max-num-batched-tokens", help="The server's token budget, where it is below 2,048.", min=16),
    ] = None
    bench_command: Annotated[str, typer.Option("--bench-command", help="Command that starts the load generator.")] = (
        "vllm bench serve"
    )
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", help="Tokenizer for the load generator, if not with the model.")
    ] = None

    def lay_out(self, server: RunningServer) -> Sweep:
        """The sweep for a server."""
        from fluidgate.calibration.server.sweep import lay_out_sweep

        return lay_out_sweep(
            server,
            time_s=self.time_s,
            bench_command=self.bench_command,
            concurrency=self.max_concurrency,
            token_budget=self.max_num_batched_tokens,
            tokenizer=self.tokenizer,
        )


@o.grouped
def command(
    url: Url,
    out: calibrate.Out,
    load: LoadOptions,
    sheet: calibrate.SheetOptions,
    yes: Yes = False,
    api_key: o.ApiKey = None,
    log: Log = None,
    kv_cache_tokens: KvCacheTokens = None,
    steps_out: StepsOut = None,
    plot: calibrate.Plot = None,
    name: calibrate.Name = None,
    output_format: o.OutputFormat = o.Format.TABLE,
) -> None:
    """Fit the step time to a running vLLM server: load it with `vllm bench serve` by phases, and read its counters.

    It shows the load first and asks before it starts any. With --gpu, and --model or --model-config, what the
    measurement does not determine comes from the data sheet.
    """
    from fluidgate.calibration.server.fit import fit
    from fluidgate.calibration.server.iteration_log import IterationLog
    from fluidgate.calibration.server.live_load import measure
    from fluidgate.calibration.server.running_server import look_at
    from fluidgate.calibration.steps_file import write_steps
    from fluidgate.hardware import ServerDefaults, write_hardware

    o.try_outputs(out, steps_out, plot)
    target = look_at(url, api_key=api_key, kv_cache_tokens=kv_cache_tokens)
    if api_key is not None:  # the benchmark finds it there, and its command line does not show it
        os.environ[o.API_KEY_VARIABLE] = api_key
    estimate = _estimate(sheet, target)
    lines = None if log is None else IterationLog(log, target.kv_tokens, target.block_size)
    if lines is not None:
        lines.size()
    sweep = load.lay_out(target)
    _announce(sweep)
    _agree(yes)
    for ending in (signal.SIGTERM, signal.SIGHUP):  # end the benchmark too, as Ctrl-C does
        signal.signal(ending, signal.default_int_handler)
    with o.progress_bar("seconds of load") as progress:
        measured = measure(sweep, log=lines, progress=progress)
    report = fit(sweep, measured, log=lines, sheet=None if estimate is None else estimate.step_time)
    if steps_out is not None:
        write_steps(report.points, steps_out)
        o.say(f"wrote {steps_out}")
    source = f"measured on a running server, {target.model}, in {len(sweep.phases)} phases of load"
    if target.several_kv_groups:
        source += "; its KV in several groups counted as one pool"
    machine = report.hardware(name or out.stem, target.num_gpu_blocks, target.block_size, source)
    server = ServerDefaults() if estimate is None else estimate.server
    longest = min(target.max_model_len, MAX_COUNT)
    machine = replace(machine, server=replace(server, max_model_len=longest))
    write_hardware(machine, out)
    o.say(f"wrote {out}")
    if plot is not None:
        calibrate.draw(report, plot)
    calibrate.show(report, machine, output_format)


def _estimate(sheet: calibrate.SheetOptions, target: RunningServer) -> Hardware | None:
    memory = calibrate.MemoryOptions(num_gpu_blocks=target.num_gpu_blocks, block_size=target.block_size)
    return sheet.load(memory)


def _announce(sweep: Sweep) -> None:
    """The load, and how it would be made, on stderr."""
    from fluidgate.calibration.server.live_load import START_WITHIN_S

    where = f"{sweep.server.url}, {sweep.server.model}, {sweep.server.kv_tokens:,} tokens of KV cache"
    o.say(f"{where}: {len(sweep.phases)} phases, {sweep.time_s:g} s of load at most")
    o.say(f"each start of the benchmark takes up to {START_WITHIN_S:.0f} s more; a phase that is too short is repeated")
    if sweep.server.several_kv_groups:
        o.say("its layers keep their KV in several groups: the hardware file counts one pool of that size")
    for phase in sweep.phases:
        size = f"{phase.prompt_tokens:,} prompt and about {phase.output_tokens} output tokens"
        o.say(f"{phase.name}: {phase.concurrency} requests at a time of {size}\n  {shlex.join(sweep.command(phase))}")


def _agree(yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise InputError("no load was started: add --yes to start it without being asked")
    if not typer.confirm("Start this load?", err=True):
        raise InputError("no load was started")
