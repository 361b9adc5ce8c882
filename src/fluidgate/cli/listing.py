"""`fluidgate list`: the names that options take."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from fluidgate.cli import names
from fluidgate.cli import options as o

if TYPE_CHECKING:
    from rich.table import Table

EXAMPLE = "Example: `fluidgate list gpus`"


class Kind(StrEnum):
    """What to list."""

    MODELS = "models"
    GPUS = "gpus"
    POLICIES = "policies"
    PRESETS = "presets"
    FORMATS = "formats"


_NAMES = {
    Kind.MODELS: names.models,
    Kind.GPUS: names.gpus,
    Kind.POLICIES: names.policies,
    Kind.PRESETS: names.presets,
    Kind.FORMATS: names.formats,
}


def command(
    kind: Annotated[Kind, typer.Argument(metavar="models|gpus|policies|presets|formats", help="What to list.")],
    output_format: o.OutputFormat = o.Format.TABLE,
) -> None:
    """List the models, GPUs, policies, presets or trace formats that are built in, each with what it is."""
    found = _NAMES[kind]()
    if output_format is o.Format.JSON:
        o.write_json(found)
    else:
        o.console(output_format).print(_table(found))


def _table(found: names.Names) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, show_header=False, show_edge=False, pad_edge=False)
    table.add_column("name", style="bold", no_wrap=True)
    table.add_column("what", overflow="fold")
    for name, what in found.items():
        table.add_row(Text(name), Text(what))
    return table
