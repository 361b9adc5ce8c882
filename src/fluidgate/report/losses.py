"""The figure of busy time (fluid bound, recomputation, under-use) and its legend."""

from __future__ import annotations

from math import isfinite

from fluidgate.report.html import Html, tag
from fluidgate.report.svg import svg
from fluidgate.report.words import load_title, short
from fluidgate.runs import Cell, Comparison, Scenario
from fluidgate.words import percent

PARTS = (
    ("fluid_efficiency", "fluid bound", "bound"),
    ("recompute_loss", "recomputation", "again"),
    ("underuse_loss", "under-use", "under"),
)
LEFT, WIDTH, HEAD, PITCH = 112.0, 340.0, 26.0, 24.0


def busy_time(comparison: Comparison, scenario: Scenario) -> Html:
    """One bar per policy at a load: its busy time, split; the three parts add up to 100%."""
    cells = comparison.at(scenario)
    rows = [row for k, cell in enumerate(cells) for row in _row(cell, k)]
    alt = f"Busy time at load {percent(scenario.load)}: {'; '.join(map(_words, cells))}."
    title = tag("text", load_title(scenario), x=0, y=14, font_weight=600)
    return svg(WIDTH, HEAD + PITCH * len(cells) + 4, alt, [title, *rows])


def _row(cell: Cell, place: int) -> list[Html]:
    y, x, span = HEAD + PITCH * place, LEFT, WIDTH - LEFT
    parts = [tag("text", short(cell.policy, 17), x=LEFT - 7, y=y + 15, text_anchor="end")]
    shares = _shares(cell)
    if not all(isfinite(share) for share in shares.values()):
        return [*parts, tag("text", "cannot be told: requests are unfinished", x=LEFT, y=y + 15, class_="soft")]
    for key, name, style in PARTS:
        width = span * shares[key]
        said = tag("title", f"{cell.policy}: {name} {percent(round(shares[key], 3))}")
        parts.append(tag("rect", said, x=x, y=y + 3, width=width, height=17, class_=style))
        if width > 34:
            parts.append(
                tag("text", f"{shares[key]:.0%}", x=x + width / 2, y=y + 15, text_anchor="middle", class_=f"on-{style}")
            )
        x += width
    return [tag("g", *parts, data_policy=str(place))]


def parts_legend() -> Html:
    """The three parts and their colours."""
    items = []
    for _, name, style in PARTS:
        box = tag("rect", x=1, y=1, width=14, height=14, rx=2, class_=style)
        items.append(tag("li", tag("svg", box, viewBox="0 0 16 16", aria_hidden="true"), name))
    return tag("ul", *items, class_="legend")


def _shares(cell: Cell) -> dict[str, float]:
    intervals = cell.intervals
    return {key: intervals[key].mean for key, _, _ in PARTS}


def _words(cell: Cell) -> str:
    return f"{cell.policy} " + ", ".join(f"{name} {percent(round(_shares(cell)[key], 3))}" for key, name, _ in PARTS)
