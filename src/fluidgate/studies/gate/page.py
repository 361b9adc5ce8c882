"""The gate experiment's tables, as a Markdown page."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fluidgate.metrics import mean_interval, paired_difference
from fluidgate.studies.gate.cases import CELLS
from fluidgate.studies.gate.curves import over_baseline
from fluidgate.studies.gate.runs import planned_facts
from fluidgate.studies.gate.study import CURVES, TUNED, Cell, GateResult, Row
from fluidgate.studies.gate.targets import judged_targets
from fluidgate.studies.markdown import section, table

Text = Callable[[Row], str]


def gate_page(result: GateResult) -> str:
    """All tables of the parts that were run, and how the targets came out."""
    parts = dict.fromkeys(row.part for row in result.rows)
    sections = [_intro(result), _targets(result), *(_SECTIONS[part](result) for part in parts)]
    return "\n\n".join(section for section in sections if section) + "\n"


def _intro(result: GateResult) -> str:
    scale = result.scale
    return (
        "# The gate experiment: all tables\n\n"
        f"Means over {scale.seeds} paired seeds with 95% intervals, {scale.requests:,} requests per run or more; from "
        "`fluidgate experiment gate`. Plans and priors come from a separate draw; the tuned baseline's watermark and "
        "cap come from a grid, and its interval from a sweep at the best of them, on "
        f"{scale.tuning_seeds} further seeds. Requests longer than the model takes "
        "(Llama-2: 4,096 tokens) are served as well. [The gate, measured](gate.md) explains the "
        "columns and has the conclusions."
    )


def _targets(result: GateResult) -> str:
    rows = [(t.what, t.goal, t.measured, t.verdict, t.where) for t in judged_targets(result)]
    return section("Targets", table(("target for `fluid`", "wanted", "measured", "verdict", "where it is worst"), rows))


def _long_outputs(result: GateResult) -> str:
    cell = result.cells("long-outputs")[0]
    columns: dict[str, Text] = {
        "preemptions": _mean("preemptions", "{:.0f}"),
        "mean silence": _mean("mean_longest_silence_s", "{:.2f} s"),
        "p99 silence": _mean("p99_longest_silence_s", "{:.1f} s"),
        "mean E2E": _mean("mean_e2el_ms", "{:.0f} s", 1e-3),
        "throughput ÷ stock": _relative(result, "effective_throughput", "greedy"),
    }
    return section("Long outputs, 300 requests at once", _policies(result, "long-outputs", cell, columns))


def _cells(result: GateResult) -> str:
    cells = result.cells("cells")
    shares = _matrix(result, "cells", cells, _mean("bound_share", "{:.3f}"), average=CELLS)
    parts = [
        "### Service rate ÷ fluid bound\n\n" + shares,
        "### Evictions per request\n\n" + _matrix(result, "cells", cells, _evictions),
        "### Share of requests silent for more than a second\n\n"
        + _matrix(result, "cells", cells, _mean("stalled_share", "{:.3f}")),
        "### p99 of a stream's longest silence, seconds\n\n"
        + _matrix(result, "cells", cells, _mean("p99_longest_silence_s", "{:.1f}")),
        "### The tuned baseline\n\n"
        + table(
            ("cell", "n*", "η", "ρ_on", "χ", "watermark", "cap", "interval"),
            [(_name(cell), *planned_facts(cell.case, cell.requests), *_setting(result, cell)) for cell in cells],
        ),
    ]
    return section("Saturated cells: all requests at once", *parts)


def _curves(result: GateResult) -> str:
    columns: dict[str, Text] = {
        "service rate ÷ bound": _interval("bound_share"),
        "evictions per request": _evictions,
        "silent for more than 1 s": _mean("stalled_share", "{:.3f}"),
        "`fluid` at as many stalls": lambda row: _against_fluid(result, row),
    }
    parts = [f"### {_name(cell)}\n\n" + _policies(result, "curves", cell, columns) for cell in result.cells("curves")]
    note = (
        "The last column is the service rate of `fluid` at the row's share of stalled requests, interpolated between "
        "the neighbouring values of its knob, minus the row's rate, over paired seeds; where all of the interval is "
        "below 0 the row lies above the curve of `fluid`."
    )
    return section("The whole curve: service rate against stalls", note, *parts)


def _eviction_costs(result: GateResult) -> str:
    columns: dict[str, Text] = {
        "service rate ÷ bound": _interval("bound_share"),
        "÷ tuned vLLM": _relative(result, "bound_share", TUNED),
        "evictions per request": _evictions,
        "silent for more than 1 s": _mean("stalled_share", "{:.3f}"),
    }
    names = {
        "restart": "restart: all output is lost",
        "no cache": "recompute without a prefix cache",
        "prefix cache": "recompute with vLLM's prefix cache",
        "offload": "offload: KV comes back at no cost",
    }
    parts = [
        f"### {cell.case}; {names[cell.engine]}\n\n" + _policies(result, "eviction-costs", cell, columns)
        for cell in result.cells("eviction-costs")
    ]
    return section("What an eviction costs", *parts)


def _priors(result: GateResult) -> str:
    cells = result.cells("priors")
    shares = _matrix(result, "priors", cells, _mean("bound_share", "{:.3f}"), average=CELLS)
    return section("Wrong priors: service rate ÷ fluid bound", shares)


def _loads(result: GateResult) -> str:
    groups = dict.fromkeys((cell.case, cell.engine) for cell in result.cells("loads"))
    parts = []
    for case_name, engine in groups:
        cells = [c for c in result.cells("loads") if (c.case, c.engine) == (case_name, engine)]
        facts = planned_facts(case_name, cells[0].requests) if case_name != "mooncake" else ("", "", "", "")
        title = f"### {case_name}" + (" (prefix cache on)" if engine == "prefix cache" else "")
        about = f"n* {facts[0]}, η {facts[1]}, ρ_on {facts[2]}, χ {facts[3]}." if facts[0] else ""
        matrices = (
            ("Mean E2E latency, seconds", _mean("mean_e2el_ms", "{:.1f}", 1e-3)),
            ("Mean E2E latency ÷ stock, paired", _relative(result, "mean_e2el_ms", "greedy")),
            ("Share of requests silent for more than a second", _mean("stalled_share", "{:.3f}")),
        )
        tables = [f"{what}:\n\n" + _matrix(result, "loads", cells, text, by_load=True) for what, text in matrices]
        parts.append("\n\n".join([title, about, *tables]))
    return section("Loads, as multiples of the fluid boundary", *parts)


_SECTIONS: dict[str, Callable[[GateResult], str]] = {
    "long-outputs": _long_outputs,
    "cells": _cells,
    "curves": _curves,
    "eviction-costs": _eviction_costs,
    "priors": _priors,
    "loads": _loads,
}


def _policies(result: GateResult, part: str, cell: Cell, columns: dict[str, Text]) -> str:
    """A table with a row per policy."""
    rows = [result.row(part, cell, policy) for policy in result.policies(part, cell)]
    return table(("policy", *columns), [(row.policy, *(text(row) for text in columns.values())) for row in rows])


def _matrix(
    result: GateResult,
    part: str,
    cells: Sequence[Cell],
    text: Text,
    *,
    by_load: bool = False,
    average: Sequence[str] = (),
) -> str:
    """A table with a row per policy and a column per cell; `average`: cases whose mean ends the row."""
    names = [f"{cell.load:g}" if by_load else _name(cell) for cell in cells]
    lines = []
    for policy in result.policies(part, cells[0]):
        rows = [result.row(part, cell, policy) for cell in cells]
        over = [float(row.values["bound_share"].mean()) for row in rows if row.cell.case in average]
        lines.append((policy, *(text(row) for row in rows), *([f"{np.mean(over):.3f}"] if average else [])))
    ends = [f"mean of {len(average)}"] if average else []
    return table(("policy", *names, *ends), lines)


def _name(cell: Cell) -> str:
    return cell.case if cell.engine == "no cache" else f"{cell.case}, {cell.engine}"


def _setting(result: GateResult, cell: Cell) -> tuple[str, str, str]:
    watermark, cap, interval = result.tuned[cell]
    return f"{watermark:g}", "none" if cap is None else str(cap), "1" if interval is None else str(interval)


def _evictions(row: Row) -> str:
    return f"{(row.values['preemptions'] / row.values['offered']).mean():.3f}"


def _mean(key: str, form: str, scale: float = 1.0) -> Text:
    def text(row: Row) -> str:
        mean = scale * float(row.values[key].mean())
        return form.format(mean) if np.isfinite(mean) else "–"

    return text


def _interval(key: str) -> Text:
    def text(row: Row) -> str:
        interval = mean_interval(row.values[key])
        return f"{interval.mean:.3f} ± {interval.high - interval.mean:.3f}"

    return text


def _relative(result: GateResult, key: str, base: str) -> Text:
    """The ratio to another policy's, from paired differences."""

    def text(row: Row) -> str:
        other = result.row(row.part, row.cell, base)
        ratio = paired_difference(row.values[key], other.values[key]).relative
        if not np.isfinite(ratio.mean):
            return "–"
        return f"{1 + ratio.mean:.3f} ± {ratio.high - ratio.mean:.3f}"

    return text


def _against_fluid(result: GateResult, row: Row) -> str:
    if row.policy in CURVES["fluid"]:
        return ""
    above = over_baseline(result, row)
    return f"{above.mean:+.3f} ± {above.high - above.mean:.3f}"
