"""`fluidgate calibrate requests`: a hardware file from the results of a load generator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fluidgate.cli import calibrate as c
from fluidgate.cli import options as o
from fluidgate.cli.groups import changed
from fluidgate.errors import InputError
from fluidgate.words import listed

if TYPE_CHECKING:
    from fluidgate.calibration.requests.report import RequestsReport
    from fluidgate.workload import MeasuredRun

EXAMPLE = (
    "Example: `fluidgate calibrate requests slow.json fast.json --model llama-3.1-8b --gpu rtx-4090 --metrics page.txt "
    "--out hardware.json`"
)

Results = Annotated[
    list[Path],
    typer.Argument(
        metavar="RESULT…",
        help="Results of vllm bench serve, SGLang's bench_serving, guidellm or aiperf, of one server.",
    ),
]
Metrics = Annotated[
    Path | None,
    typer.Option("--metrics", help="The server's page of metrics, saved: it states the KV blocks and their size."),
]


@o.grouped
def command(
    results: Results,
    out: c.Out,
    hardware: o.HardwareOptions,
    engine: o.EngineOptions,
    metrics: Metrics = None,
    trace_format: o.TraceFormat = None,
    failed: o.Failed = "stop",
    concurrency: o.Concurrency = None,
    name: c.Name = None,
    output_format: o.OutputFormat = o.Format.TABLE,
) -> None:
    """Fit the step time to the latencies of measured loads, with the estimate as a prior.

    Each load is simulated with its own requests, sent when the client sent them, or as replies come where it kept so
    many in flight. Says how sure each coefficient is,
    which one the loads do not determine and which further load would, what HTTP and the tokeniser add, and the errors
    on each load, and on loads that the fit has not seen.
    """
    from fluidgate.hardware import write_hardware
    from fluidgate.runs import calibrate_requests
    from fluidgate.workload import read_results

    o.try_outputs(out)
    runs = [run for path in results for run in read_results(path, trace_format, failed=failed)]
    for run in runs:
        o.say(run.note)
    if concurrency is not None:
        runs = [_closed(run, concurrency) for run in runs]
    estimate = _with_page(hardware, metrics).load()
    with o.progress_bar("fits") as progress:
        report = calibrate_requests(runs, estimate, engine.load(), progress=progress)
    source = f"fitted to {', '.join(run.name for run in runs)}; prior: {estimate.source or estimate.name}"
    machine = report.hardware(name or out.stem, source)
    write_hardware(machine, out)
    o.say(f"wrote {out}")
    _show(report, machine.name, output_format)


def _closed(run: MeasuredRun, concurrency: int) -> MeasuredRun:
    """The run with so many requests in flight, which its file does not say."""
    if run.max_concurrency not in (None, concurrency):
        raise InputError(f"{run.name} was made with {run.max_concurrency} requests in flight: leave --concurrency out")
    workload = replace(run.workload, concurrency=concurrency)
    return replace(run, workload=workload, max_concurrency=concurrency)


def _with_page(hardware: o.HardwareOptions, page: Path | None) -> o.HardwareOptions:
    """The options with the KV cache that the server's page states."""
    from fluidgate.vllm_metrics import kv_size, read_page

    if page is None:
        return hardware
    of_the_cache = ("num_gpu_blocks", "kv_cache_tokens", "block_size", "gpu_memory_utilization")
    twice = [flag for name, flag in changed(hardware).items() if name in of_the_cache]
    if twice:
        raise InputError(f"--metrics states the KV cache: leave {listed(twice)} out")
    size = kv_size(read_page(page))
    if size is None:
        raise InputError(
            f"{page}: does not state the size of the KV cache; give --num-gpu-blocks and --block-size instead"
        )
    return replace(hardware, num_gpu_blocks=size.num_gpu_blocks, block_size=size.block_size)


def _show(report: RequestsReport, title: str, output_format: o.Format) -> None:
    from fluidgate.report import loads_table, requests_table

    if output_format is o.Format.JSON:
        o.write_json(report.to_dict())
        return
    console = o.console(output_format)
    console.print(requests_table(report, title))
    console.print(loads_table(report))
    for what in dict.fromkeys(load.held_out for load in report.loads if load.held_out):
        console.print(f"Held out: {what}.")
    for remark in report.remarks:
        console.print(f"{remark}.")
