"""Figures of the studies, for a paper: SVG and PDF, drawn by matplotlib."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluidgate.errors import InputError
from fluidgate.output import make_folder, write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fluidgate",
    "pdf.fonttype": 42,
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "legend.handlelength": 1.8,
    "legend.columnspacing": 1.2,
    "lines.linewidth": 1.0,
    "lines.markersize": 3.5,
}
"""Text stays text, and the same numbers give the same bytes."""
UNDATED = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}

Inches = tuple[float, float]
ONE_COLUMN_IN: Inches = (3.3, 2.9)
TWO_COLUMNS_IN: Inches = (6.9, 2.9)
"""Width and height of a figure in a paper of two columns, inches."""

LOOKS: dict[str, tuple[str, str]] = {
    "fluid": ("C0", "o"),
    "watermark": ("C1", "s"),
    "past-future": ("C2", "^"),
    "interval": ("C3", "D"),
    "concurrency-cap": ("C4", "v"),
    "tuned vLLM": ("C5", "*"),
    "WAIT": ("C6", "s"),
    "vLLM V0": ("C7", "^"),
    "Sarathi": ("C8", "D"),
    "rate-limited": ("C9", "v"),
    "vLLM V1": ("black", "x"),
}
"""Colour and mark of who is drawn: the same in every figure."""


def look(who: str) -> dict[str, Any]:
    """The colour and the mark of who is drawn, as arguments of matplotlib's `plot`; marks are hollow, to see others."""
    colour, mark = LOOKS[who]
    return {"color": colour, "marker": mark, "markerfacecolor": "none"}


def need_matplotlib() -> None:
    """Before any run.

    Raises:
        InputError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise InputError("figures need matplotlib: pip install 'fluidgate[figures]'")


@contextmanager
def panels_of(
    titles: Sequence[str], x_label: str, y_label: str, size_in: Inches = TWO_COLUMNS_IN
) -> Iterator[tuple[Figure, list[Axes]]]:
    """An empty figure of panels side by side, each with a title, on one y axis; names of axes carry their units.

    Raises:
        InputError: matplotlib is not installed.
    """
    need_matplotlib()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size_in, layout="constrained")
        panels = list(figure.subplots(1, len(titles), sharey=True, squeeze=False)[0])
        for axes, title in zip(panels, titles, strict=True):
            axes.set(title=title, xlabel=x_label)
        panels[0].set_ylabel(y_label)
        yield figure, panels


@contextmanager
def figure_of(title: str, x_label: str, y_label: str, size_in: Inches = ONE_COLUMN_IN) -> Iterator[tuple[Figure, Axes]]:
    """An empty figure with a title and labelled axes; names of axes carry their units.

    Raises:
        InputError: matplotlib is not installed.
    """
    with panels_of([title], x_label, y_label, size_in) as (figure, (axes,)):
        yield figure, axes


def plain_log_y(axes: Axes) -> None:
    """A logarithmic y axis with plain numbers at 1, 3, 10, 30, …"""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def legend_below(figure: Figure, columns: int) -> None:
    """The names in the first panel, under the figure, where no curve is."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def save(figure: Figure, folder: str | os.PathLike[str], name: str) -> list[Path]:
    """Write `name.svg` and `name.pdf` into a folder, which is made if need be; call it within `figure_of`.

    Raises:
        InputError: the folder cannot be written to.
    """
    target, written = make_folder(folder), []
    for kind, metadata in UNDATED.items():
        drawn = io.BytesIO()
        figure.savefig(drawn, format=kind, metadata=metadata)
        written.append(target / f"{name}.{kind}")
        write_bytes(written[-1], drawn.getvalue())
    return written
