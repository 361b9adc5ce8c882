"""A what-if in pictures: bars by value for every part of the outcome, as SVG files or on a page of their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from math import isfinite, nan
from pathlib import Path

from fluidgate.metrics import METRICS, Interval
from fluidgate.output import make_folder, write_text
from fluidgate.report.charts import Bar, Limit, bars, scale_top
from fluidgate.report.html import Html, document, head, join, row, table, tag
from fluidgate.report.svg import standalone
from fluidgate.report.whatif_table import row_label, whatif_notes, whatif_title
from fluidgate.report.words import measured, or_dash, tenths, whole_percent
from fluidgate.runs.whatif import Point, WhatIf
from fluidgate.words import number

_OTHERS, _NOW = 1, 2
"""Colours of bars."""

_NUMBERS: dict[str, tuple[str, Callable[[float], str]]] = {
    **{
        key: (METRICS[key].label, partial(measured, key))
        for key in ("p99_ttft_ms", "p95_tpot_ms", "p99_longest_silence_s")
    },
    "kv_mean": ("KV use, mean", tenths),
    "kv_peak": ("KV use, peak", tenths),
    "preemptions_per_request": ("Preemptions per request", number),
    "output_throughput": ("Output throughput, tok/s", number),
    "goodput_share": (METRICS["goodput_share"].label, tenths),
    "cost": ("Cost of a million output tokens", number),
}
"""The outcome by name: what it is called, and how it is written."""


def whatif_drawings(result: WhatIf) -> dict[str, Html]:
    """Figures by the name of their file; what no value has is left out."""
    drawings = {"boundary": _boundary(result), "load": _load(result), "kv": _kv(result)}
    for key, (title, text) in _shown(result).items():
        if not key.startswith("kv"):
            drawings[key.replace("_", "-")] = _bars(result, title, partial(_outcome, key), text)
    return drawings


def write_whatif_figures(result: WhatIf, folder: str | os.PathLike[str]) -> list[Path]:
    """Write every figure as `whatif-NAME.svg`, in the light colours; creates the folder if needed.

    Raises:
        InputError: the folder cannot be written to.
    """
    target, written = make_folder(folder), []
    for name, drawing in whatif_drawings(result).items():
        written.append(target / f"whatif-{result.knob}-{name}.svg")
        write_text(written[-1], standalone(drawing))
    return written


def write_whatif_page(result: WhatIf, path: str | os.PathLike[str], command: str | None = None) -> Path:
    """Write one self-contained page: the figures, all numbers, and where they come from.

    Raises:
        InputError: the file cannot be written.
    """
    figures = [tag("figure", drawing) for drawing in whatif_drawings(result).values()]
    notes = [tag("p", note) for note in whatif_notes(result)]
    origin = [tag("p", tag("code", command))] if command else []
    sections = [
        tag("div", *figures, class_="panels"),
        *notes,
        tag("section", tag("h2", "All numbers"), _table(result)),
        *([tag("section", tag("h2", "How it was made"), *origin)] if origin else []),
    ]
    target = Path(path)
    write_text(target, document(whatif_title(result), sections, scripted=False))
    return target


def _bars(
    result: WhatIf,
    title: str,
    read: Callable[[Point], Interval],
    text: Callable[[float], str],
    limits: Sequence[Limit] = (),
    marks: Callable[[Point], float] | None = None,
) -> Html:
    """A bar for every value, that of the present one in a colour of its own."""
    rows = [
        Bar(
            row_label(point),
            _NOW if point.value.is_current else _OTHERS,
            read(point),
            or_dash(read(point).mean, text),
            None if marks is None else marks(point),
        )
        for point in result.points
    ]
    top = max(scale_top([bar.value for bar in rows]), *(1.05 * limit.at for limit in limits), 0.0)
    alt = f"{title}: {'; '.join(f'{bar.label} {bar.text}' for bar in rows)}."
    return bars(title, alt, rows, top, limits)


def _boundary(result: WhatIf) -> Html:
    """The boundary, with the rate that arrives where that is one for all values."""
    rates = {number(point.arrival_rate) for point in result.points if point.plan is not None}
    arriving = next(point.arrival_rate for point in result.points if point.plan is not None)
    limits = (Limit(arriving, f"arriving, {number(arriving)} req/s", dashed=True),) if len(rates) == 1 else ()
    return _bars(result, "Stability boundary, req/s", lambda point: _exactly(point.boundary_rate), number, limits)


def _load(result: WhatIf) -> Html:
    def load(point: Point) -> Interval:
        return _exactly(nan if point.plan is None else point.plan.stability.load)

    return _bars(result, "Load", load, whole_percent, (Limit(1.0, "boundary"),))


def _kv(result: WhatIf) -> Html:
    def peak(point: Point) -> float:
        return _outcome("kv_peak", point).mean

    title = "KV use, mean (tick: peak)"
    return _bars(result, title, partial(_outcome, "kv_mean"), whole_percent, (Limit(1.0, "capacity"),), peak)


def _exactly(value: float) -> Interval:
    return Interval(value, nan, nan, 1)


def _outcome(key: str, point: Point) -> Interval:
    return point.outcome.get(key, _exactly(nan))


def _table(result: WhatIf) -> Html:
    """Every number of every value, with intervals."""
    heads = [head(result.knob), *(head(row_label(point)) for point in result.points)]
    plans = [
        row("Stability boundary, req/s", *(_cell(or_dash(point.boundary_rate, number)) for point in result.points)),
        row("Load", *(_cell(whole_percent(p.plan.stability.load) if p.plan else "–") for p in result.points)),
        row("Binding", *(_cell(p.plan.stability.binding if p.plan else "–") for p in result.points)),
    ]
    means = [
        row(name, *(_cell(_with_ends(_outcome(key, point), text)) for point in result.points))
        for key, (name, text) in _shown(result).items()
    ]
    return table("Means over the repeats, with 95% intervals", heads, [*plans, *means])


def _shown(result: WhatIf) -> dict[str, tuple[str, Callable[[float], str]]]:
    """The numbers that some value has."""
    return {
        key: named
        for key, named in _NUMBERS.items()
        if any(isfinite(_outcome(key, point).mean) for point in result.points)
    }


def _with_ends(value: Interval, text: Callable[[float], str]) -> Html:
    if not (isfinite(value.low) and isfinite(value.high)):
        return join([or_dash(value.mean, text)])
    return join([text(value.mean), tag("small", f"{text(value.low)} … {text(value.high)}")])


def _cell(text: str) -> Html:
    return tag("td", text)
