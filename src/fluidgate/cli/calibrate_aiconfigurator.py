"""`fluidgate calibrate aiconfigurator`: a hardware file from measured operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from fluidgate.cli import calibrate as c
from fluidgate.cli import options as o
from fluidgate.errors import InputError

if TYPE_CHECKING:
    from fluidgate.calibration import ServerLimits, Spread

EXAMPLE = "Example: `fluidgate calibrate aiconfigurator qwen3-30b-a3b --gpu h100-80gb --out hardware.json`"

Model = Annotated[str, typer.Argument(help="Model that aiconfigurator knows, or a folder with a config.json.")]
GpuName = Annotated[str, typer.Option("--gpu", help="GPU that aiconfigurator has measured.")]
Engine = Annotated[str, typer.Option("--engine", help="vllm, sglang or trtllm.")]
EngineVersion = Annotated[
    str | None, typer.Option("--engine-version", help="Of the engine, as measured; the newest if not given.")
]


@dataclass(frozen=True)
class SpreadOptions:
    """How the model lies on its GPUs."""

    attention_dp: Annotated[
        int, typer.Option("--attention-dp", help="Replicas of attention, over which the experts are spread.", min=1)
    ] = 1
    expert_parallel: Annotated[
        bool, typer.Option("--expert-parallel", help="Place whole experts on each GPU, instead of slices of all.")
    ] = False
    precision: Annotated[
        str, typer.Option("--precision", help="Of matrices: bfloat16, fp8, fp8_block …; `auto`: the checkpoint's.")
    ] = "auto"
    link_gbps: Annotated[
        float | None, typer.Option("--link-gbps", help="What an all-reduce gets of the GPUs' link, GB/s per direction.")
    ] = None

    def spread(self, memory: c.MemoryOptions) -> Spread:
        """With the memory's part."""
        from fluidgate.calibration import Spread

        return Spread(
            tp=memory.tp,
            attention_dp=self.attention_dp,
            expert_parallel=self.expert_parallel,
            precision=self.precision,
            kv_cache_dtype=memory.kv_cache_dtype,
            block_size=memory.block_size,
            link_gb_per_s=self.link_gbps,
        )


@dataclass(frozen=True)
class ReachOptions:
    """The server's limits, which the grid covers."""

    max_num_seqs: Annotated[int, typer.Option("--max-num-seqs", help="Requests at once.")] = 1024
    max_num_batched_tokens: Annotated[int, typer.Option("--max-num-batched-tokens", help="Tokens in a step.")] = 8192
    max_model_len: Annotated[int, typer.Option("--max-model-len", help="Tokens of one request.")] = 131072

    def limits(self, gpu_memory_utilization: float) -> ServerLimits:
        """With the share of the GPU's memory."""
        from fluidgate.calibration import ServerLimits

        return ServerLimits(self.max_num_seqs, self.max_num_batched_tokens, self.max_model_len, gpu_memory_utilization)


@o.grouped
def command(
    model: Model,
    gpu: GpuName,
    out: c.Out,
    memory: c.MemoryOptions,
    reach: ReachOptions,
    spread: SpreadOptions,
    engine: Engine = "vllm",
    engine_version: EngineVersion = None,
    plot: c.Plot = None,
    output_format: o.OutputFormat = o.Format.TABLE,
) -> None:
    """Take step times from aiconfigurator's measured operators, as a grid; mixtures of experts and many GPUs too.

    Needs `pip install 'fluidgate[hardware]'`, no GPU and no network.
    """
    from fluidgate.calibration import query_aiconfigurator
    from fluidgate.hardware import write_hardware
    from fluidgate.report import queried_figure

    if memory.pp > 1:
        raise InputError("--pp: aiconfigurator's steps are of one stage; leave it out")
    memory.refuse_given_twice()
    o.try_outputs(out, plot)
    queried = query_aiconfigurator(
        model,
        gpu,
        engine=engine,
        engine_version=engine_version,
        spread=spread.spread(memory),
        limits=reach.limits(memory.gpu_memory_utilization),
        num_gpu_blocks=memory.num_gpu_blocks,
    )
    write_hardware(queried.hardware, out)
    o.say(f"wrote {out}: {queried.hardware.source}")
    if plot is not None:
        c.write_picture(queried_figure(queried), plot)
    c.show_grid(queried, output_format)
