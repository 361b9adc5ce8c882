"""`fluidgate compare`: policies side by side on the same requests."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fluidgate.cli import options as o

EXAMPLE = "Example: `fluidgate compare --preset azure-conv-2023 --load 0.9 --load 1.1 --report report.html`"

Policies = Annotated[
    list[str] | None,
    typer.Option("--policy", help="Policy or `name:key=value,…`; may be repeated, the first is the baseline."),
]
Loads = Annotated[
    list[float] | None,
    typer.Option("--load", help="Arrival rate ÷ stability boundary; may be repeated. Without: as it arrives."),
]
Report = Annotated[Path | None, typer.Option("--report", help="Write an HTML report to this file.")]


def command(
    policies: Policies = None,
    policy_file: o.PolicyFile = None,
    loads: Loads = None,
    trace: o.Trace = None,
    trace_format: o.TraceFormat = None,
    failed: o.Failed = "stop",
    preset: o.Preset = "azure-conv-2023",
    requests: o.Requests = None,
    rate: o.Rate = None,
    rate_scale: o.RateScale = 1.0,
    seed: o.Seed = 0,
    repeats: o.Repeats = 3,
    model: o.Model = "llama-2-7b",
    gpu: o.Gpu = "a100-80gb",
    tp: o.Tp = 1,
    variant: o.Variant = None,
    model_config: o.ModelConfig = None,
    hardware_file: o.HardwareFile = None,
    gpu_memory_utilization: o.MemoryFraction = 0.9,
    num_gpu_blocks: o.NumGpuBlocks = None,
    block_size: o.BlockSize = None,
    mode: o.Mode = "vllm",
    max_num_seqs: o.MaxNumSeqs = 256,
    max_num_active_seqs: o.MaxNumActiveSeqs = None,
    max_num_batched_tokens: o.BatchedTokens = None,
    watermark: o.Watermark = None,
    enable_prefix_caching: o.PrefixCaching = True,
    scheduler_reserve_full_isl: o.ReserveFullIsl = True,
    long_prefill_token_threshold: o.LongPrefill = 0,
    preemption: o.Preemption = "recompute",
    goodput: o.Goodput = None,
    report: Report = None,
    output_format: o.OutputFormat = o.Format.TABLE,
    output_dir: o.OutputDir = None,
) -> None:
    """Compare policies: the plan, a table per load with 95% intervals, and a report if asked for."""
    from fluidgate.experiments import DEFAULT_POLICIES, compare
    from fluidgate.metrics import parse_goodput
    from fluidgate.report import comparison_table, plan_table, write_report

    o.load_policies(policy_file)
    draws = o.WorkloadOptions(trace, trace_format, failed, preset, requests, rate, rate_scale, seed).draws(repeats)
    hardware = o.HardwareOptions(
        model, gpu, tp, variant, model_config, hardware_file, gpu_memory_utilization, num_gpu_blocks, block_size
    ).load()
    config = o.engine_config(
        mode=mode,
        max_num_seqs=max_num_seqs,
        max_num_active_seqs=max_num_active_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        watermark=watermark,
        enable_prefix_caching=enable_prefix_caching,
        scheduler_reserve_full_isl=scheduler_reserve_full_isl,
        long_prefill_token_threshold=long_prefill_token_threshold,
        preemption=preemption,
    )
    with o.progress_bar("simulating") as progress:
        result = compare(
            draws,
            hardware,
            policies or DEFAULT_POLICIES,
            loads=loads,
            config=config,
            slo=parse_goodput(goodput) if goodput else None,
            seed=seed,
            progress=progress,
        )
    if output_format is o.Format.JSON:
        o.write_json(result.to_dict())
    else:
        out = o.console()
        out.print(plan_table(result.scenarios[0].plan))
        for scenario in result.scenarios:
            out.print(f"[bold]At load {scenario.load:.2f}[/bold]", *scenario.plan.verdict, sep="\n  ")
        out.print(comparison_table(result))
    if output_dir is not None:
        o.write_json(result.to_dict(), o.made(output_dir) / "comparison.json")
        report = report or output_dir / "report.html"
    if report is not None:
        o.say(f"wrote {write_report(result, report, command=' '.join(['fluidgate', *sys.argv[1:]]))}")
