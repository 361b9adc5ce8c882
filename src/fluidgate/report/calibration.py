"""A calibration as a table, and as a figure: its step times against the measured or queried ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.table import Table

from fluidgate.arrays import BoolArray, FloatArray
from fluidgate.calibration import CalibrationReport, QueriedHardware, StepPoints
from fluidgate.hardware.calibration import COEFFICIENTS
from fluidgate.report.html import Html, tag
from fluidgate.report.svg import Axis, colour, frame, svg
from fluidgate.words import number, percent

SIZE, LEFT, RIGHT, TOP, FOOT = 420.0, 58.0, 14.0, 26.0, 60.0
MAX_POINTS = 2000
KEY_LINE = 18.0
SERIES = {"decode": 1, "prefill": 2, "mixed": 3, "chunk": 4}
UNITS = {
    "c0": ("µs per step", 1e6),
    "c_tok": ("µs per token", 1e6),
    "c_kv": ("ns per KV token", 1e9),
    "c_attn": ("ns per attention pair", 1e9),
    "c_seq": ("µs per sequence", 1e6),
}


def calibration_table(report: CalibrationReport, title: str) -> Table:
    """Coefficients with their intervals, the errors on held-out steps, and the range covered, for the terminal."""
    table = Table(title=title, show_header=False)
    for name, half_width in zip(COEFFICIENTS, report.calibration.plus_minus, strict=True):
        unit, scale = UNITS[name]
        value = getattr(report.step_time, name) * scale
        error = "unknown" if half_width is None else number(half_width * scale)
        table.add_row(name, f"{number(value)} ± {error} {unit}")
    held_out = report.held_out_error
    median, most = np.quantile(held_out, [0.5, 0.95])
    table.add_row("error of held-out steps, mean without outliers", percent(report.relative_error))
    table.add_row("the same with outliers, median / p95", f"{percent(median)} / {percent(most)}")
    table.add_row("noise of a step / misfit", f"{percent(report.noise)} / {percent(report.calibration.misfit)}")
    table.add_row("steps / outliers", f"{len(report.outlier):,} / {int(report.outlier.sum()):,}")
    for what, (low, high) in (("tokens", report.calibration.tokens), ("KV tokens", report.calibration.kv_tokens)):
        table.add_row(f"range of {what}", f"{low:,.0f} to {high:,.0f}")
    return table


def queried_table(queried: QueriedHardware) -> Table:
    """What was queried, how far the grid reaches, and the error of interpolation, for the terminal."""
    hardware, kinds, error = queried.hardware, queried.points.kind, queried.interpolation_error
    grid = hardware.grid
    assert grid is not None
    table = Table(title=hardware.name, show_header=False)
    for context in dict.fromkeys(min(context, grid.max_context) for context in (512, 4096)):
        sizes = [n for n in (1, 8, 64, 256) if n <= grid.max_decodes]
        times_ms = ", ".join(f"{n}: {number(float(grid.duration_s(n, n * context, 0, 0, 0)[0]) * 1e3)}" for n in sizes)
        table.add_row(f"decode step at a context of {context:,} tokens, ms by batch", times_ms)
    reach = f"{grid.max_decodes:,} requests, {grid.max_tokens:,} tokens in a step, {grid.max_context:,} of context"
    table.add_row("grid reaches to", reach)
    for kind in dict.fromkeys(kinds.tolist()):
        errors = error[kinds == kind]
        text = f"{percent(errors.mean())} / {percent(errors.max())}"
        table.add_row(f"{kind}: interpolated against queried, mean / most", text)
    table.add_row("mean error of a four-term fit", percent(hardware.relative_error))
    table.add_row("KV blocks", hardware.kv_cache_text)
    return table


def calibration_figure(report: CalibrationReport) -> Html:
    """Measured against fitted step time, both logarithmic; they agree on the diagonal, and crosses are outliers."""
    alt = (
        f"Measured against fitted step time of {len(report.outlier):,} steps; held-out steps are off by "
        f"{percent(report.relative_error)} on average, without the {int(report.outlier.sum()):,} outliers."
    )
    return _steps_figure(report.points, report.fitted_s, report.outlier, ("fitted, ms", "measured, ms"), alt)


def queried_figure(queried: QueriedHardware) -> Html:
    """Queried against interpolated time of the steps that check the grid."""
    error = queried.interpolation_error
    alt = (
        f"Queried against interpolated time of {len(error):,} steps; they differ by {percent(error.mean())} on average."
    )
    none = error < 0
    return _steps_figure(queried.points, queried.interpolated_s, none, ("interpolated, ms", "queried, ms"), alt)


def _steps_figure(
    points: StepPoints, modelled_s: FloatArray, outlier: BoolArray, labels: tuple[str, str], alt: str
) -> Html:
    measured_ms, modelled_ms = points.duration_s * 1e3, modelled_s * 1e3
    low, high = min(measured_ms.min(), modelled_ms.min()) / 1.1, max(measured_ms.max(), modelled_ms.max()) * 1.1
    x = Axis(float(low), float(high), LEFT, SIZE - RIGHT, log=True)
    y = Axis(float(low), float(high), SIZE - FOOT, TOP, log=True)
    parts = frame(x, y, labels, (number, number))
    parts.append(tag("line", x1=x.start, y1=y.start, x2=x.end, y2=y.end, class_="limit"))
    kinds = list(dict.fromkeys(points.kind.tolist()))
    for i in range(0, len(measured_ms), -(-len(measured_ms) // MAX_POINTS)):
        ink = colour(_series(kinds, str(points.kind[i])))
        parts.append(_point(x(float(modelled_ms[i])), y(float(measured_ms[i])), ink, cross=bool(outlier[i])))
    key, height = _key(kinds, outliers=bool(outlier.any()))
    return svg(SIZE, height, alt, parts + key)


def _series(kinds: Sequence[str], kind: str) -> int:
    return SERIES.get(kind, 1 + kinds.index(kind))


def _point(x: float, y: float, ink: str, *, cross: bool) -> Html:
    if cross:
        path = f"M{x - 3:.1f} {y - 3:.1f}l6 6m0-6l-6 6"
        return tag("path", d=path, stroke=ink, fill="none", opacity=0.8)
    return tag("circle", cx=round(x, 1), cy=round(y, 1), r=2.2, fill=ink, fill_opacity=0.5)


def _key(kinds: Sequence[str], *, outliers: bool) -> tuple[list[Html], float]:
    """The names of the kinds, over as many lines as needed, and the height of the drawing with them."""
    parts, at, y = [], LEFT, SIZE - 10.0
    for name in [*kinds, *(["outlier"] if outliers else [])]:
        width = 24 + 7 * len(name)
        if at > LEFT and at + width > SIZE:
            at, y = LEFT, y + KEY_LINE
        is_kind = name in kinds
        parts.append(_point(at, y - 4, colour(_series(kinds, name)) if is_kind else "var(--soft)", cross=not is_kind))
        parts.append(tag("text", name, x=at + 7, y=y, class_="soft"))
        at += width
    return parts, y + 10.0
