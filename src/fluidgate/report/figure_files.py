"""`write_figures`: the page's figures as SVG files that stand alone."""

from __future__ import annotations

import os
import re
from pathlib import Path

from fluidgate.output import make_folder, write_text
from fluidgate.report.figures import all_figures
from fluidgate.report.html import Html, asset
from fluidgate.runs import Comparison

STYLE = asset("chart.css")
LIGHT = dict(re.findall(r"--([\w-]+): (#\w+);", asset("page.css").partition("@media")[0]))
"""The page's light colours, by name."""

FONT = "svg { background: #fff; font-family: system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif; }"


def write_figures(comparison: Comparison, folder: str | os.PathLike[str]) -> list[Path]:
    """Write every figure of the report as `NAME.svg`, in the light colours; the folder is made if need be.

    Raises:
        InputError: the folder cannot be written to.
    """
    target = make_folder(folder)
    written: list[Path] = []
    for figure in all_figures(comparison):
        path = _free(target / f"{figure.name}.svg", written)
        write_text(path, standalone(figure.drawing))
        written.append(path)
    return written


def standalone(drawing: Html) -> str:
    """The drawing with its namespace, its size and its style; colours by value, which every reader of SVG knows."""
    width, height = re.search(r'viewBox="0 0 (\S+) (\S+)"', drawing).groups()  # type: ignore[union-attr]
    bare = re.sub(r' data-hover="[^"]*"', "", drawing)
    opened = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
    styled = bare.replace("<svg", opened, 1).replace(">", f"><style>{FONT}\n{STYLE}</style>", 1)
    return re.sub(r"var\(--([\w-]+)\)", lambda name: LIGHT[name[1]], styled) + "\n"


def _free(path: Path, taken: list[Path]) -> Path:
    """The path, or one with a number where two policies' names give the same."""
    number, free = 2, path
    while free in taken:
        free, number = path.with_stem(f"{path.stem}-{number}"), number + 1
    return free
