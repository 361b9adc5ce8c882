"""`fluidgate plan`: equilibrium, stability boundary and thresholds, without simulating."""

from __future__ import annotations

from fluidgate.cli import options as o

EXAMPLE = "Example: `fluidgate plan --preset azure-conv-2023 --rate 5 --model llama-2-7b --gpu a100-80gb`"


def command(
    trace: o.Trace = None,
    trace_format: o.TraceFormat = None,
    failed: o.Failed = "stop",
    preset: o.Preset = "azure-conv-2023",
    requests: o.Requests = None,
    rate: o.Rate = None,
    rate_scale: o.RateScale = 1.0,
    seed: o.Seed = 0,
    model: o.Model = "llama-2-7b",
    gpu: o.Gpu = "a100-80gb",
    tp: o.Tp = 1,
    variant: o.Variant = None,
    model_config: o.ModelConfig = None,
    hardware_file: o.HardwareFile = None,
    gpu_memory_utilization: o.MemoryFraction = 0.9,
    num_gpu_blocks: o.NumGpuBlocks = None,
    block_size: o.BlockSize = None,
    max_num_seqs: o.MaxNumSeqs = 256,
    max_num_batched_tokens: o.BatchedTokens = None,
    output_format: o.OutputFormat = o.Format.TABLE,
    output_dir: o.OutputDir = None,
) -> None:
    """Plan: what the GPU can sustain, what binds, when memory control matters, and what to set."""
    from fluidgate.experiments import plan_for
    from fluidgate.report import plan_table

    workload = o.WorkloadOptions(trace, trace_format, failed, preset, requests, rate, rate_scale, seed).load()
    hardware = o.HardwareOptions(
        model, gpu, tp, variant, model_config, hardware_file, gpu_memory_utilization, num_gpu_blocks, block_size
    ).load()
    config = o.engine_config(max_num_seqs=max_num_seqs, max_num_batched_tokens=max_num_batched_tokens)
    fluid_plan = plan_for(workload, hardware, config)
    if output_format is o.Format.JSON:
        o.write_json(fluid_plan.to_dict())
    else:
        o.console().print(plan_table(fluid_plan))
        o.console().print(*fluid_plan.verdict, sep="\n")
    if output_dir is not None:
        o.write_json(fluid_plan.to_dict(), o.made(output_dir) / "plan.json")
