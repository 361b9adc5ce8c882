"""`fluidgate simulate`: one policy on one workload."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fluidgate.cli import options as o

if TYPE_CHECKING:
    from fluidgate.engine import RunRecords

EXAMPLE = "Example: `fluidgate simulate --preset lmsys --rate 60 --policy wait --goodput ttft:2000 --goodput tpot:50`"

PolicyName = Annotated[
    str, typer.Option("--policy", help="Policy, or `name:key=value,…` to set parameters by hand.")
]


def command(
    policy: PolicyName = "greedy",
    policy_file: o.PolicyFile = None,
    trace: o.Trace = None,
    trace_format: o.TraceFormat = None,
    failed: o.Failed = "stop",
    preset: o.Preset = "azure-conv-2023",
    requests: o.Requests = None,
    rate: o.Rate = None,
    rate_scale: o.RateScale = 1.0,
    seed: o.Seed = 0,
    repeats: o.Repeats = 1,
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
    output_format: o.OutputFormat = o.Format.TABLE,
    output_dir: o.OutputDir = None,
) -> None:
    """Simulate one policy; prints every metric, with 95% intervals where there are repeats."""
    from fluidgate.experiments import plan_for, simulate
    from fluidgate.metrics import parse_goodput, summarize
    from fluidgate.policies import make_policy
    from fluidgate.report import summary_table

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
    slo = parse_goodput(goodput) if goodput else None
    chosen = make_policy(policy, plan_for(draws[0], hardware, config))
    summaries = []
    with o.progress_bar(f"simulating {policy}") as progress:
        for k, draw in enumerate(draws):
            records = simulate(draw, hardware, chosen, config=config, progress=progress)
            summaries.append(summarize(records, slo))
            if k == 0:
                first = records
    if output_format is o.Format.JSON:
        o.write_json([summary.to_dict() for summary in summaries])
    else:
        o.console().print(summary_table(summaries, title=f"{policy} on {draws[0].name}, {hardware.name}"))
    if output_dir is not None:
        folder = o.made(output_dir)
        o.write_json([summary.to_dict() for summary in summaries], folder / "summary.json")
        _write_requests(first, folder / "requests.csv")


def _write_requests(records: RunRecords, path: Path) -> None:
    """One row per request of the first repeat."""
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
    import pyarrow as pa
    from pyarrow import csv

    csv.write_csv(pa.table(columns), path)
    o.say(f"wrote {path}")
