"""What `fluid` should reach, and whether it does: each target over all the cells it covers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isfinite

import numpy as np

from fluidgate.metrics import METRICS, paired_difference
from fluidgate.studies.gate.cases import CELLS
from fluidgate.studies.gate.curves import baselines, over_baseline
from fluidgate.studies.gate.runs import boundary
from fluidgate.studies.gate.study import TUNED, Cell, GateResult
from fluidgate.studies.target import Target


@dataclass(frozen=True)
class _Bound:
    """Every value must be on one side of a number."""

    what: str
    part: str
    least: float | None
    most: float | None
    applies: Callable[[Cell], bool]
    value: Callable[[GateResult, Cell], float]


def judged_targets(result: GateResult) -> list[Target]:
    """The targets that the parts run can answer."""
    return [*_judged_bounds(result), *_seven_cells(result), *_curves(result), *_light_load(result)]


def _judged_bounds(result: GateResult) -> Iterator[Target]:
    for bound in _BOUNDS:
        cells = [cell for cell in result.cells(bound.part) if bound.applies(cell)]
        if not cells:
            continue
        values = {cell: value for cell in cells if isfinite(value := bound.value(result, cell))}
        if not values:
            continue
        low = bound.least is not None
        worst = min(values, key=lambda cell: values[cell] if low else -values[cell])
        limit = bound.least if bound.least is not None else bound.most
        assert limit is not None
        missed = [c for c in values if not (values[c] >= limit if low else values[c] <= limit)]
        verdict = "met" if not missed else f"missed in {len(missed)} of {len(values)}"
        where = worst.case if worst.load is None else f"{worst.case} at {worst.load:g}"
        yield Target(bound.what, f"{'≥' if low else '≤'} {limit:.3g}", f"{values[worst]:.3f}", verdict, where)


def _seven_cells(result: GateResult) -> Iterator[Target]:
    cells = [cell for cell in result.cells("cells") if cell.case in CELLS]
    if cells:
        mean = float(np.mean([_share(result, cell) for cell in cells]))
        verdict = "met" if mean >= 0.965 else "missed"
        yield Target("service rate ÷ bound, mean of the seven cells", "≥ 0.965", f"{mean:.3f}", verdict, "")


def _curves(result: GateResult) -> Iterator[Target]:
    """At a baseline's stalls `fluid` should serve as much: no paired interval lies below zero."""
    rows = [row for cell in result.cells("curves") for row in baselines(result, cell)]
    if rows:
        apart = {row.cell.case + ", " + row.policy: over_baseline(result, row) for row in rows}
        worst = min(apart, key=lambda name: apart[name].high)
        above = [name for name, difference in apart.items() if difference.high < 0]
        verdict = f"missed in {len(above)} of {len(rows)}" if above else "met"
        measured = f"{apart[worst].mean:+.3f} ± {apart[worst].high - apart[worst].mean:.3f}"
        yield Target("curves: rate less a baseline's at its stalls", "≥ 0", measured, verdict, worst)


def _light_load(result: GateResult) -> Iterator[Target]:
    """Below the onset every paired interval against stock should cover zero."""
    cells = [c for c in result.cells("loads") if c.engine == "no cache" and _below_onset(c)]
    if not cells:
        return
    apart: dict[Cell, list[str]] = {}
    for cell in cells:
        fluid, stock = (result.row("loads", cell, policy).values for policy in ("fluid", "greedy"))
        for key in (key for key in fluid if key in METRICS):
            difference = paired_difference(fluid[key], stock[key])
            if difference.low > 0 or difference.high < 0:
                apart.setdefault(cell, []).append(f"{key} {difference.relative.mean:+.1%}")
    worst = max(apart, key=lambda cell: len(apart[cell]), default=None)
    where = "" if worst is None else f"{worst.case} at {worst.load:g}: {', '.join(apart[worst])}"
    verdict = "met" if not apart else f"missed in {len(apart)} of {len(cells)}"
    equal = f"{len(cells) - len(apart)} of {len(cells)}"
    yield Target("below ρ_on equal to stock: paired intervals cover 0", "all cells", equal, verdict, where)


def _share(result: GateResult, cell: Cell, policy: str = "fluid", part: str = "cells") -> float:
    return float(result.row(part, cell, policy).values["bound_share"].mean())


def _evictions(result: GateResult, cell: Cell) -> float:
    row = result.row(_part_of(cell), cell, "fluid")
    return float((row.values["preemptions"] / row.values["offered"]).mean())


def _part_of(cell: Cell) -> str:
    return "cells" if cell.load is None else "loads"


def _ratio(key: str, base: str, part: str = "cells", policy: str = "fluid") -> Callable[[GateResult, Cell], float]:
    def value(result: GateResult, cell: Cell) -> float:
        measured, other = (float(result.row(part, cell, p).values[key].mean()) for p in (policy, base))
        return measured / other if other > 0 else (0.0 if measured == 0 else float("inf"))

    return value


def _fluid_mean(key: str, part: str) -> Callable[[GateResult, Cell], float]:
    return lambda result, cell: float(result.row(part, cell, "fluid").values[key].mean())


def _size(cell: Cell) -> float:
    return boundary(cell.case, cell.requests).residents


def _eta(cell: Cell) -> float:
    return boundary(cell.case, cell.requests).eta


def _below_onset(cell: Cell) -> bool:
    if cell.case in ("mooncake", "drift") or cell.case.startswith("bursty") or cell.load is None:
        return False  # the onset load is for Poisson arrivals of one law
    onset = boundary(cell.case, cell.requests).onset_load
    return onset is None or cell.load < onset


def _reasoning(cell: Cell) -> bool:
    return "reasoning" in cell.case


def _near_the_boundary(cell: Cell) -> bool:
    return cell.load is not None and 0.95 <= cell.load <= 1.05 and cell.engine == "no cache" and cell.case != "mooncake"


def _any(cell: Cell) -> bool:
    return True


def _roomy(cell: Cell) -> bool:
    return _size(cell) >= 70 and _eta(cell) <= 0.25


def _named(name: str, load: float | None = None) -> Callable[[Cell], bool]:
    return lambda cell: cell.case == name and cell.load == load


def _busy_reasoning(cell: Cell) -> bool:
    return _reasoning(cell) and cell.load is not None and cell.load >= 0.95


def _latency_where_stock_evicts(result: GateResult, cell: Cell) -> float:
    """Mean E2E ÷ stock's; NaN, no answer, where stock evicts less than one request in twenty."""
    stock = result.row("loads", cell, "greedy").values
    evicts = float((stock["preemptions"] / stock["offered"]).mean()) >= 0.05
    return _ratio("mean_e2el_ms", "greedy", "loads")(result, cell) if evicts else float("nan")


def _cached(cell: Cell) -> bool:
    return cell.engine == "prefix cache"


_WATERMARK = "watermark:share=0.05"

# what, part, at least, at most, which cells, the value
_BOUNDS = (
    _Bound("preemptions of 300", "long-outputs", None, 20, _any, _fluid_mean("preemptions", "long-outputs")),
    _Bound("mean silence, s", "long-outputs", None, 0.3, _any, _fluid_mean("mean_longest_silence_s", "long-outputs")),
    _Bound("p99 silence, s", "long-outputs", None, 5, _any, _fluid_mean("p99_longest_silence_s", "long-outputs")),
    _Bound(
        *("throughput ÷ stock's", "long-outputs", 0.98, None, _any),
        _ratio("effective_throughput", "greedy", "long-outputs"),
    ),
    _Bound("rate ÷ bound, n* ≥ 70 and η ≤ 0.25", "cells", 0.985, None, _roomy, _share),
    _Bound("rate ÷ bound, η ≈ 0.57, unlabelled", "cells", 0.94, None, _named("three types, 16k, unlabelled"), _share),
    _Bound("rate ÷ bound, η ≈ 0.57, labelled", "cells", 0.98, None, _named("three types, 16k"), _share),
    _Bound("rate ÷ bound, n* 13–30", "cells", 0.90, None, lambda c: 13 <= _size(c) <= 30, _share),
    _Bound("rate ÷ tuned vLLM's, n* ≥ 28", "cells", 0.99, None, lambda c: _size(c) >= 28, _ratio("bound_share", TUNED)),
    _Bound("rate ÷ tuned vLLM's, n* < 28", "cells", 0.97, None, lambda c: _size(c) < 28, _ratio("bound_share", TUNED)),
    _Bound(
        *("p99 silence, s, 420k tokens", "cells", None, 0.3, _named("reasoning, 420k")),
        _fluid_mean("p99_longest_silence_s", "cells"),
    ),
    _Bound("evictions per request, reasoning", "cells", None, 0.10, _reasoning, _evictions),
    _Bound("stalls ÷ stock's, reasoning", "cells", None, 1 / 8, _reasoning, _ratio("stalled_share", "greedy")),
    _Bound("stalls ÷ watermark 5%'s, reasoning", "cells", None, 1 / 3, _reasoning, _ratio("stalled_share", _WATERMARK)),
    _Bound(
        *("known types: rate ÷ WAIT's", "cells", 0.99, None, lambda c: c.case in ("three types", "three types, 16k")),
        _ratio("bound_share", "wait"),
    ),
    _Bound(
        *("rate ÷ tuned vLLM's, prefix cache", "eviction-costs", 0.97, None, _cached),
        _ratio("bound_share", TUNED, "eviction-costs"),
    ),
    _Bound(
        *("rate ÷ tuned vLLM's, prefix cache, laxest knob", "eviction-costs", 0.99, None, _cached),
        _ratio("bound_share", TUNED, "eviction-costs", "fluid:evicted_share=1"),
    ),
    _Bound(
        *("stalls ÷ stock's, reasoning, load ≥ 0.95", "loads", None, 1 / 8, _busy_reasoning),
        _ratio("stalled_share", "greedy", "loads"),
    ),
    _Bound("evictions per request, reasoning, load ≥ 0.95", "loads", None, 0.10, _busy_reasoning, _evictions),
    _Bound(
        *("mean E2E ÷ stock's at 0.95–1.05, where stock evicts", "loads", None, 0.90, _near_the_boundary),
        _latency_where_stock_evicts,
    ),
    _Bound(
        *("known types: E2E ÷ WAIT's at load 0.6", "loads", None, 0.75, _named("three-types", 0.6)),
        _ratio("mean_e2el_ms", "wait", "loads"),
    ),
    _Bound(
        *("known types: TTFT ÷ WAIT's at load 0.6", "loads", None, 0.1, _named("three-types", 0.6)),
        _ratio("mean_ttft_ms", "wait", "loads"),
    ),
)
