"""`fluidgate calibrate aiconfigurator`: a hardware file from measured operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fluidgate.cli import calibrate as c
from fluidgate.cli import options as o

if TYPE_CHECKING:
    from fluidgate.calibration import QueriedHardware, ServerLimits

EXAMPLE = "Example: `fluidgate calibrate aiconfigurator qwen3-30b-a3b --gpu h100-80gb --out hardware.json`"

Model = Annotated[str, typer.Argument(help="Model that aiconfigurator knows, or a folder with a config.json.")]
GpuName = Annotated[str, typer.Option("--gpu", help="GPU that aiconfigurator has measured.")]
Engine = Annotated[str, typer.Option("--engine", help="vllm, sglang or trtllm.")]
ExpertParallel = Annotated[
    bool, typer.Option("--expert-parallel", help="Place whole experts on each GPU, instead of slices of all.")
]


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
    engine: Engine = "vllm",
    expert_parallel: ExpertParallel = False,
    plot: c.Plot = None,
    output_format: o.OutputFormat = o.Format.TABLE,
) -> None:
    """Take step times from aiconfigurator's measured operators, as a grid; mixtures of experts and many GPUs too.

    Needs `pip install 'fluidgate[hardware]'`, no GPU and no network.
    """
    from fluidgate.calibration import query_aiconfigurator
    from fluidgate.hardware import write_hardware
    from fluidgate.report import grid_figure, grid_table

    o.try_outputs(out, plot)
    queried = query_aiconfigurator(
        model,
        gpu,
        engine=engine,
        tp=memory.tp,
        expert_parallel=expert_parallel,
        limits=reach.limits(memory.gpu_memory_utilization),
        num_gpu_blocks=memory.num_gpu_blocks,
        block_size=memory.block_size,
    )
    write_hardware(queried.hardware, out)
    o.say(f"wrote {out}: {queried.hardware.source}")
    if plot is not None:
        c.write_picture(grid_figure(queried), plot)
    if output_format is o.Format.JSON:
        o.write_json(_plain(queried))
    else:
        o.console().print(grid_table(queried))


def _plain(queried: QueriedHardware) -> dict[str, Any]:
    kinds, error = queried.points.kind, queried.interpolation_error
    return {
        "name": queried.hardware.name,
        "source": queried.hardware.source,
        "num_gpu_blocks": queried.hardware.num_gpu_blocks,
        "block_size": queried.hardware.block_size,
        "interpolation_error": {
            kind: {"mean": float(error[kinds == kind].mean()), "max": float(error[kinds == kind].max())}
            for kind in dict.fromkeys(kinds.tolist())
        },
        "four_terms_error": queried.hardware.relative_error,
    }
