"""Pieces of the studies' Markdown pages."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def section(title: str, *parts: str) -> str:
    """A chapter of the page."""
    return "\n\n".join([f"## {title}", *parts])


def table(head: Iterable[str], rows: Iterable[Iterable[str]], *, numbers: bool = True) -> str:
    """A table; all columns but the first hold numbers unless said otherwise."""
    lines = [list(head), *(list(row) for row in rows)]
    ruled = [lines[0], ["---"] + ["---:" if numbers else "---"] * (len(lines[0]) - 1), *lines[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in ruled)


def number(value: float) -> str:
    """Three digits; a dash where a request of the window never finished."""
    if not np.isfinite(value):
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
