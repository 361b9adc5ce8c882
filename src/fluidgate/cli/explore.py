"""`fluidgate explore`: a local page with sliders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from fluidgate.cli import names
from fluidgate.cli import options as o

EXAMPLE = "Example: `fluidgate explore --preset azure-conv-2023 --rate 20 --model llama-3.1-8b --gpu h100`"
PORT = 8765


@dataclass(frozen=True)
class StartOptions:
    """Where the page's controls stand at first; the names are those of the options elsewhere."""

    preset: Annotated[
        str, typer.Option("--preset", help="Workload.", autocompletion=names.completed(names.presets))
    ] = o.DEFAULT_PRESET
    rate: Annotated[float, typer.Option("--rate", help="Arrival rate in requests per second.")] = 20.0
    model: Annotated[str, typer.Option("--model", help="Model.", autocompletion=names.completed(names.models))] = (
        "llama-3.1-8b"
    )
    gpu: Annotated[str, typer.Option("--gpu", help="GPU.", autocompletion=names.completed(names.gpus))] = "h100-80gb"
    tp: Annotated[int, typer.Option("--tp", help="Tensor-parallel GPUs.", min=1)] = 1
    policy: Annotated[
        str,
        typer.Option("--policy", help="Policy, or `name:key=value,…`.", autocompletion=names.completed(names.policies)),
    ] = "fluid"
    price: Annotated[float, typer.Option("--price", help="Price of a GPU and hour.")] = 0.0


@o.grouped
def command(
    start: StartOptions,
    port: Annotated[
        int, typer.Option("--port", help="Port on 127.0.0.1; 0: any that is free.", min=0, max=65535)
    ] = PORT,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
) -> None:
    """Explore: a page on this machine whose sliders move rate, lengths, GPU, TP, seats, policy; needs [explore]."""
    from fluidgate.explore.app import serve
    from fluidgate.explore.settings import Settings

    serve(Settings(**vars(start)), port, open_browser=open_browser, say=o.say)
