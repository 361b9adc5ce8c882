"""`fluidgate calibrate vidur`: a hardware file from the profile files of Vidur."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fluidgate.cli import calibrate as c
from fluidgate.cli import options as o
from fluidgate.errors import InputError

EXAMPLE = (
    "Example: `fluidgate calibrate vidur mlp.csv attention.csv --model llama-2-7b --gpu a100-80gb --out hardware.json`"
)

Mlp = Annotated[Path, typer.Argument(metavar="MLP.CSV", help="Vidur's profile of linear operations.")]
Attention = Annotated[Path, typer.Argument(metavar="ATTENTION.CSV", help="Vidur's profile of attention.")]
AllReduce = Annotated[
    Path | None,
    typer.Option("--all-reduce", help="Vidur's profile of the link between GPUs; with --tp."),
]


@o.grouped
def command(
    mlp: Mlp,
    attention: Attention,
    out: c.Out,
    sheet: c.SheetOptions,
    memory: c.MemoryOptions,
    all_reduce: AllReduce = None,
    plot: c.Plot = None,
    output_format: o.OutputFormat = o.Format.TABLE,
) -> None:
    """Take step times from the operators that Vidur has measured, as a grid: the steps that Vidur simulates.

    Needs --gpu, and --model or --model-config: the files do not name them.
    """
    from fluidgate.calibration import calibrate_vidur
    from fluidgate.hardware import Serving, find_gpu, write_hardware
    from fluidgate.report import queried_figure

    o.try_outputs(out, plot)
    memory.refuse_given_twice()
    shape = sheet.shape()
    if shape is None or sheet.gpu is None:
        raise InputError("Vidur's files do not name GPU and model: add --gpu, and --model or --model-config")
    queried = calibrate_vidur(mlp, attention, shape, find_gpu(sheet.gpu), Serving(**asdict(memory)), all_reduce)
    write_hardware(queried.hardware, out)
    o.say(f"wrote {out}: {queried.hardware.source}")
    if plot is not None:
        c.write_picture(queried_figure(queried), plot)
    c.show_grid(queried, output_format)
