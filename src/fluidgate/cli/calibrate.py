"""`fluidgate calibrate steps|config`: a hardware file from measured steps, or from a config and a data sheet."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fluidgate.bounds import MAX_BLOCK_SIZE, MAX_GPUS
from fluidgate.cli import names
from fluidgate.cli import options as o
from fluidgate.cli.groups import changed
from fluidgate.errors import InputError
from fluidgate.output import write_text
from fluidgate.words import listed

if TYPE_CHECKING:
    from fluidgate.calibration import CalibrationReport, QueriedHardware
    from fluidgate.hardware import Hardware, ModelShape
    from fluidgate.report.html import Html

app = typer.Typer(no_args_is_help=True, help="Make a hardware file: how long a step takes, and how much KV fits.")

STEPS_EXAMPLE = "Example: `fluidgate calibrate steps steps.csv --num-gpu-blocks 2588 --out hardware.json`"
CONFIG_EXAMPLE = "Example: `fluidgate calibrate config llama/config.json --gpu rtx-4090 --out hardware.json`"

Steps = Annotated[Path, typer.Argument(help="CSV with columns tokens, kv_tokens, ms and, if known, attention_pairs.")]
Config = Annotated[Path, typer.Argument(help="Hugging Face config.json of the model, or its folder.")]
Out = Annotated[Path, typer.Option("--out", help="Write the hardware file here.")]
Name = Annotated[str | None, typer.Option("--name", help="Name of the hardware; the file's name if not given.")]
Plot = Annotated[Path | None, typer.Option("--plot", help="Draw measured against fitted steps in this SVG file.")]


@dataclass(frozen=True)
class MemoryOptions:
    """How large the KV cache is, given or computed."""

    num_gpu_blocks: Annotated[int | None, typer.Option("--num-gpu-blocks", help="KV blocks, as the server logs.")] = (
        None
    )
    block_size: Annotated[int, typer.Option("--block-size", help="Tokens per KV block.", min=1, max=MAX_BLOCK_SIZE)] = (
        16
    )
    tp: Annotated[int, typer.Option("--tp", help="Tensor-parallel GPUs.", min=1, max=MAX_GPUS)] = 1
    pp: Annotated[int, typer.Option("--pp", help="Stages of the pipeline.", min=1, max=MAX_GPUS)] = 1
    kv_cache_dtype: Annotated[
        str, typer.Option("--kv-cache-dtype", help="Dtype of the KV cache, as in vLLM: auto, bfloat16, fp8 …")
    ] = "auto"
    gpu_memory_utilization: Annotated[
        float, typer.Option("--gpu-memory-utilization", help="Share of GPU memory to use; the default is vLLM's own.")
    ] = 0.92

    def refuse_given_twice(self) -> None:
        """Refuse a share of the memory beside the blocks that it would be turned into."""
        if self.num_gpu_blocks is not None and "gpu_memory_utilization" in changed(self):
            raise InputError("--num-gpu-blocks states the KV cache: leave --gpu-memory-utilization out")

    def refuse_unused(self) -> None:
        """Refuse what only sizes the cache of a model that is named."""
        unused = ("tp", "pp", "kv_cache_dtype", "gpu_memory_utilization")
        given = [flag for name, flag in changed(self).items() if name in unused]
        if given:
            them = "them" if len(given) > 1 else "it"
            raise InputError(f"{listed(given)} without a model: add --gpu and --model, or leave {them} out")


@dataclass(frozen=True)
class SheetOptions:
    """The model and the GPU that measured steps come from."""

    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="Model, for what the steps do not determine.",
            autocompletion=names.completed(names.models),
        ),
    ] = None
    model_config: Annotated[Path | None, typer.Option("--model-config", help="The model's config.json.")] = None
    gpu: Annotated[
        str | None,
        typer.Option("--gpu", help="GPU, for its data sheet.", autocompletion=names.completed(names.gpus)),
    ] = None

    def load(self, memory: MemoryOptions) -> Hardware | None:
        """The estimate from the data sheet; None if no GPU was named."""
        from fluidgate.hardware import Serving, estimate_hardware, find_gpu

        if self.gpu is None and self.model is None and self.model_config is None:
            memory.refuse_unused()
            return None
        memory.refuse_given_twice()
        shape = self.shape()
        if self.gpu is None:
            raise InputError("the model alone has no data sheet: add --gpu")
        if shape is None:
            raise InputError("the GPU alone does not determine a step time: add --model or --model-config")
        return estimate_hardware(shape, find_gpu(self.gpu), Serving(**asdict(memory)))

    def shape(self) -> ModelShape | None:
        """The model; None if none was named."""
        from fluidgate.hardware import find_model, read_model_config

        if self.model is not None and self.model_config is not None:
            raise InputError("--model and --model-config both name the model: give one")
        if self.model_config is not None:
            return read_model_config(self.model_config)
        return None if self.model is None else find_model(self.model)


@app.command("steps", epilog=STEPS_EXAMPLE)
@o.grouped
def steps(
    path: Steps,
    out: Out,
    sheet: SheetOptions,
    memory: MemoryOptions,
    name: Name = None,
    plot: Plot = None,
    output_format: o.OutputFormat = o.Format.TABLE,
) -> None:
    """Fit the step time to measured steps, robustly and with error bars; list what the steps do not determine.

    With --gpu, and --model or --model-config, what the steps do not determine comes from the data sheet, and the number
    of KV blocks too unless it is given.
    """
    from fluidgate.calibration import calibrate_steps, read_steps
    from fluidgate.hardware import write_hardware

    o.try_outputs(out, plot)
    estimate = sheet.load(memory)
    blocks = memory.num_gpu_blocks if estimate is None else estimate.num_gpu_blocks
    if blocks is None:
        raise InputError(
            "steps do not show how large the KV cache is: add --num-gpu-blocks as the server logs it, or --gpu and "
            "--model"
        )
    file = read_steps(path)
    if file.unused:
        o.say(f"columns not used: {', '.join(file.unused)}")
    report = calibrate_steps(
        file.points,
        has_pairs=file.has_pairs,
        has_sequences=file.has_sequences,
        sheet=None if estimate is None else estimate.step_time,
    )
    block_size = memory.block_size if estimate is None else estimate.block_size
    machine = report.hardware(name or path.stem, blocks, block_size, source=f"calibrated on {path.name}")
    if estimate is not None:
        machine = replace(machine, kv_law=estimate.kv_law, server=estimate.server)
    write_hardware(machine, out)
    o.say(f"wrote {out}")
    if plot is not None:
        draw(report, plot)
    show(report, machine, output_format)


@app.command("config", epilog=CONFIG_EXAMPLE)
@o.grouped
def config(
    path: Config,
    gpu: Annotated[
        str, typer.Option("--gpu", help="GPU, for its data sheet.", autocompletion=names.completed(names.gpus))
    ],
    out: Out,
    memory: MemoryOptions,
) -> None:
    """Estimate a model without measurements: step time and KV blocks from its config.json and a data sheet."""
    from fluidgate.hardware import write_hardware

    machine = SheetOptions(model_config=path, gpu=gpu).load(memory)
    assert machine is not None
    write_hardware(machine, out)
    o.say(f"wrote {out}: {machine.source}")


def draw(report: CalibrationReport, path: Path) -> None:
    """Draw measured against fitted steps into a file."""
    from fluidgate.report import calibration_figure

    write_picture(calibration_figure(report), path)


def write_picture(figure: Html, path: Path) -> None:
    """Write a self-contained SVG file."""
    from fluidgate.report import standalone

    write_text(path, standalone(figure))
    o.say(f"wrote {path}")


def show(report: CalibrationReport, machine: Hardware, output_format: o.Format) -> None:
    """Print a calibration."""
    from fluidgate.report import calibration_table

    if output_format is o.Format.JSON:
        o.write_json({"name": machine.name, **report.to_dict()})
        return
    out = o.console(output_format)
    out.print(calibration_table(report, title=machine.name))
    for remark in report.remarks:
        out.print(f"{remark}.")


def show_grid(queried: QueriedHardware, output_format: o.Format) -> None:
    """Print a grid."""
    from fluidgate.report import queried_table

    if output_format is o.Format.JSON:
        o.write_json(_plain_grid(queried))
    else:
        o.console(output_format).print(queried_table(queried))


def _plain_grid(queried: QueriedHardware) -> dict[str, Any]:
    kinds, error, grid = queried.points.kind, queried.interpolation_error, queried.hardware.grid
    assert grid is not None
    return {
        "name": queried.hardware.name,
        "source": queried.hardware.source,
        "num_gpu_blocks": queried.hardware.num_gpu_blocks,
        "block_size": queried.hardware.block_size,
        "kv_cache": queried.hardware.law.title,
        "interpolation_error": {
            kind: {"mean": float(error[kinds == kind].mean()), "max": float(error[kinds == kind].max())}
            for kind in dict.fromkeys(kinds.tolist())
        },
        "reach": {
            "requests": grid.max_decodes,
            "tokens_per_step": grid.max_tokens,
            "context_tokens": grid.max_context,
        },
        "four_terms_error": queried.hardware.relative_error,
    }
