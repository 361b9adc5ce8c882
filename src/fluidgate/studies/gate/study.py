"""The parts of the gate experiment: the runs that each needs, and the tuning of the baseline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fluidgate.errors import InputError
from fluidgate.runs import Runner
from fluidgate.studies.gate.cases import CELLS, FURTHER_CELLS, LOADED, LONG_OUTPUTS, MOONCAKE, case
from fluidgate.studies.gate.runs import GATE_SHAPE, PRIORS, SEATS, GateRun, GateRuns, planned
from fluidgate.studies.parts import check_parts

LOADS = (0.3, 0.6, 0.8, 0.9, 0.95, 1.0, 1.05, 1.2, 1.5)

POLICIES = (
    "greedy",
    "watermark:share=0.05",
    "concurrency-cap",
    "rate-limited",
    "wait",
    "nested-wait",
    "no-evict",
    "max-utilization",
    "sglang",
    "past-future",
    "a-min",
    "expected-completions",
    "smallest-volume-first",
    "mc-sf",
    "shortest-first",
    "known-lengths",
    "fluid",
)
MAIN = ("greedy", "watermark:share=0.05", "known-lengths", "fluid")
TUNED = "tuned vLLM"

TUNED_WATERMARKS, TUNED_CAPS = (0.0, 0.01, 0.02, 0.05, 0.1), (None, 0.8, 0.9, 1.0, 1.2)
TUNED_INTERVALS = (None, 2, 4, 8, 16)
"""What the baseline is tuned on: a grid of watermark × cap as a multiple of n* (None: no cap), and at the best of them
vLLM 0.33's `prefill_schedule_interval` (None: as in vLLM before)."""
FIRST_TUNING_SEED = 500

CURVES = {
    "fluid": [f"fluid:evicted_share={x}" for x in (0, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 4)],
    "watermark": ["greedy", *(f"watermark:share={x}" for x in (0.01, 0.02, 0.05, 0.1, 0.2))],
    "past-future": [f"past-future:reserve={x}" for x in (0, 0.03, 0.05, 0.08, 0.15)],
    "interval": [f"interval:steps={x}" for x in (2, 4, 8)],
}
"""Policies over their knobs."""
CURVE_CAPS = (0.7, 0.8, 0.9, 1.0, 1.1, 1.3)
CURVE_CELLS = (
    *("reasoning", "reasoning, 40k", "reasoning, 4090", "reasoning, 420k"),
    *("chat", "chat, 16k", "three types, 16k"),
)
EVICTION_COSTS = ("restart", "no cache", "prefix cache", "offload")

RESIDENTS_PER_RUN = 40
"""A saturated run has at least this many requests per resident at n*."""


@dataclass(frozen=True)
class Scale:
    """How large the experiment is: requests per run, paired seeds, and seeds to tune baselines on."""

    requests: int = 2000
    seeds: int = 10
    tuning_seeds: int = 2

    def __post_init__(self) -> None:
        if self.requests < 100 or self.seeds < 2 or self.tuning_seeds < 1:
            raise InputError("the gate experiment needs at least 100 requests, 2 seeds and 1 tuning seed")


@dataclass(frozen=True)
class Cell:
    """Where policies are compared: all but the policy and the seed."""

    case: str
    engine: str
    load: float | None
    requests: int


class Setting(NamedTuple):
    """vLLM's own knobs: watermark, cap on residents, `prefill_schedule_interval`; None: not set."""

    watermark: float
    cap: int | None
    interval: int | None = None


@dataclass(frozen=True)
class Row:
    """One policy in one cell: the numbers of all seeds, each of shape (seeds,)."""

    part: str
    cell: Cell
    policy: str
    values: dict[str, np.ndarray]


@dataclass(frozen=True)
class GateResult:
    """Everything the page is made of.

    Attributes:
        rows: in order of part, cell, policy.
        tuned: per cell, the setting of the tuned baseline.
    """

    scale: Scale
    rows: tuple[Row, ...]
    tuned: dict[Cell, Setting]

    def row(self, part: str, cell: Cell, policy: str) -> Row:
        """The row of a policy."""
        return next(r for r in self.rows if (r.part, r.cell, r.policy) == (part, cell, policy))

    def cells(self, part: str) -> list[Cell]:
        """The cells of a part, in order."""
        return list(dict.fromkeys(r.cell for r in self.rows if r.part == part))

    def policies(self, part: str, cell: Cell) -> list[str]:
        """The policies of a cell, in order."""
        return [r.policy for r in self.rows if r.part == part and r.cell == cell]


@dataclass(frozen=True)
class _Part:
    """Cells and policies of a part; `tunes`: which of its cells have a tuned baseline."""

    cells: Callable[[Scale, Path | None], list[Cell]]
    policies: Callable[[Cell, float], Sequence[str]]
    tunes: Callable[[Cell], bool] = lambda cell: False
    priors: Sequence[str] = ("right",)


def run_gate(
    parts: Sequence[str],
    scale: Scale,
    *,
    mooncake: Path | None = None,
    runner: Runner | None = None,
) -> GateResult:
    """Run parts of the experiment: first the tuning of the baselines, then everything.

    Args:
        parts: keys of `PARTS`.
        mooncake: the Mooncake trace; without it its case is left out.
        runner: where runs happen; the same results file continues any parts and seeds.

    Raises:
        InputError: an unknown part, or a results file of something else.
    """
    check_parts(parts, PARTS)

    def run(jobs: Sequence[GateRun]) -> list[dict[str, Any]]:
        header = {"command": "experiment gate"}
        return (runner or Runner()).run(GateRuns(mooncake), jobs, header=header, shape=GATE_SHAPE)

    cells = {name: PARTS[name].cells(scale, mooncake) for name in parts}
    residents = {cell: _residents(cell, mooncake) for part_cells in cells.values() for cell in part_cells}
    tuned = _tuned([c for name in parts for c in cells[name] if PARTS[name].tunes(c)], residents, scale, run)
    entries = [
        (name, cell, label, job)
        for name in parts
        for cell in cells[name]
        for label, job in _jobs(PARTS[name], cell, residents[cell], tuned.get(cell))
    ]
    seeds = range(scale.seeds)
    numbers = iter(run([replace(job, seed=seed) for _, _, _, job in entries for seed in seeds]))
    rows = []
    for name, cell, label, _ in entries:
        by_seed = [next(numbers) for _ in seeds]
        rows.append(Row(name, cell, label, {key: np.array([n[key] for n in by_seed]) for key in by_seed[0]}))
    return GateResult(scale, tuple(rows), tuned)


def _job(cell: Cell, policy: str, **settings: Any) -> GateRun:
    return GateRun(cell.case, cell.engine, cell.load, cell.requests, 0, policy, **settings)


def _jobs(part: _Part, cell: Cell, residents: float, tuned: Setting | None) -> list[tuple[str, GateRun]]:
    """The policies of a cell, by label, with a job each."""
    labelled = []
    for policy in part.policies(cell, residents):
        for prior in part.priors:
            label = policy if part.priors == ("right",) else f"{policy}, prior: {prior}"
            labelled.append((label, _job(cell, policy, prior=prior)))
        if policy == "greedy" and tuned is not None:
            labelled.append((TUNED, _job(cell, "greedy", **tuned._asdict())))
    return labelled


def _tuned(
    cells: list[Cell], residents: dict[Cell, float], scale: Scale, run: Callable[[Sequence[GateRun]], list[Any]]
) -> dict[Cell, Setting]:
    """The settings of least mean E2E latency per cell: of the grid, then of the intervals at the best of the grid.

    Seeds are of their own. Saturated, the least mean E2E latency is the highest throughput.
    """
    cells = list(dict.fromkeys(cells))
    best = _best({cell: _grid(residents[cell]) for cell in cells}, scale, run)
    intervals = {cell: [best[cell]._replace(interval=steps) for steps in TUNED_INTERVALS] for cell in cells}
    return _best(intervals, scale, run)


def _best(
    settings: dict[Cell, list[Setting]], scale: Scale, run: Callable[[Sequence[GateRun]], list[Any]]
) -> dict[Cell, Setting]:
    seeds = range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + scale.tuning_seeds)
    jobs = [
        replace(_job(cell, "greedy", **setting._asdict()), seed=seed)
        for cell, tried in settings.items()
        for setting in tried
        for seed in seeds
    ]
    numbers = iter(run(jobs))
    best = {}
    for cell, tried in settings.items():
        e2el = {setting: sum(next(numbers)["mean_e2el_ms"] for _ in seeds) for setting in tried}
        best[cell] = min(tried, key=lambda setting: e2el[setting])
    return best


def _grid(residents: float) -> list[Setting]:
    caps = [None if share is None else min(SEATS, max(1, round(share * residents))) for share in TUNED_CAPS]
    return [Setting(watermark, cap) for watermark in TUNED_WATERMARKS for cap in dict.fromkeys(caps)]


def _residents(cell: Cell, mooncake: Path | None) -> float:
    """n* of a cell, at most the engine's seats."""
    return planned(case(cell.case, mooncake), cell.requests, None).concurrency_cap


def _saturated(name: str, engine: str, scale: Scale) -> Cell:
    residents = planned(case(name), scale.requests, None).concurrency_cap
    return Cell(name, engine, None, max(scale.requests, int(RESIDENTS_PER_RUN * residents)))


def _curve(cell: Cell, residents: float) -> list[str]:
    caps = [f"concurrency-cap:cap={max(1, round(share * residents))}" for share in CURVE_CAPS]
    return [*(spec for specs in CURVES.values() for spec in specs), *caps]


def _loaded(scale: Scale, mooncake: Path | None) -> list[Cell]:
    cases: list[tuple[str, tuple[str, ...]]] = [(name, ("no cache",)) for name in LOADED]
    cases += [(MOONCAKE, ("no cache", "prefix cache"))] if mooncake else []
    return [Cell(n, e, load, scale.requests) for n, engines in cases for e in engines for load in LOADS]


PARTS: dict[str, _Part] = {
    "long-outputs": _Part(
        lambda scale, mooncake: [Cell(LONG_OUTPUTS, "no cache", None, 300)],
        lambda cell, residents: (*MAIN, "concurrency-cap", "past-future", "sglang"),
    ),
    "cells": _Part(
        lambda scale, mooncake: [_saturated(name, "no cache", scale) for name in CELLS + FURTHER_CELLS],
        lambda cell, residents: POLICIES,
        tunes=lambda cell: True,
    ),
    "curves": _Part(
        lambda scale, mooncake: [_saturated(name, "no cache", scale) for name in CURVE_CELLS],
        _curve,
        tunes=lambda cell: True,
    ),
    "eviction-costs": _Part(
        lambda scale, mooncake: [_saturated(name, e, scale) for name in CELLS for e in EVICTION_COSTS],
        lambda cell, residents: ("greedy", "watermark:share=0.05", "fluid", "fluid:evicted_share=1"),
        tunes=lambda cell: True,
    ),
    "priors": _Part(
        lambda scale, mooncake: [_saturated(name, "no cache", scale) for name in CELLS],
        lambda cell, residents: ("fluid",),
        priors=PRIORS,
    ),
    "loads": _Part(
        _loaded,
        lambda cell, residents: POLICIES if cell.engine == "no cache" else MAIN,
        tunes=lambda cell: True,
    ),
}
"""The parts, in the order of the page."""
