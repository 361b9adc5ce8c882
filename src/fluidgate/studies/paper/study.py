"""The parts of the paper's studies: the runs that each needs, and the search for the paper's cap."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from fluidgate.errors import InputError
from fluidgate.runs import Runner
from fluidgate.studies.paper.cycle import CYCLE_SHAPE, LENGTHS, POISSON_LENGTHS, POISSON_LOADS, CycleRun, cycle_run
from fluidgate.studies.paper.decode_server import DECODE_SHAPE, DecodeRun, decode_run, decode_runs
from fluidgate.studies.paper.memory import MEMORY_SHAPE, PUBLISHED, MemoryRun, crossing_rate, memory_run
from fluidgate.studies.paper.mixing import MIXING_SHAPE, MixingRun, mixing_run, mixing_runs
from fluidgate.studies.paper.runs import PAPER_SHAPE, PaperRun, paper_run
from fluidgate.studies.paper.scaling import SCALING_SHAPE, Scaling, collected, scaling_run, scaling_runs
from fluidgate.studies.paper.settings import (
    CAP_ALONE,
    CHUNKS,
    EQUAL,
    FOUR_TERM,
    LINEAR,
    PUBLISHED_CAP,
    SEARCHED,
    STRICT,
    STUDIES,
    Study,
    schedulers,
)
from fluidgate.studies.parts import check_parts

SEARCH_SEED = 500
"""The cap is searched on a draw of its own."""

MIN_REQUESTS = 300
SATURATED = 3
"""Times as many requests in a saturated run: its window must hold many times the residents."""

CYCLE_REQUESTS = 4_000
"""Equal requests of a saturated run, and a quarter of those of a Poisson run; 40 cohorts fill the memory in turn."""

Setting = tuple[int, int]
"""A cap B and a number of segments L."""


@dataclass(frozen=True)
class Scale:
    """How large the studies are: requests per run and paired seeds."""

    requests: int = 5000
    seeds: int = 3

    def __post_init__(self) -> None:
        if self.requests < MIN_REQUESTS or self.seeds < 2:
            raise InputError(f"the paper's studies need at least {MIN_REQUESTS} requests and 2 seeds")


@dataclass(frozen=True)
class Cell:
    """One scheduler of a study: at a rate, or saturated (None); as published, or with an equal chunk."""

    study: str
    scheduler: str
    rate: float | None = None
    chunk: int | None = None


@dataclass(frozen=True)
class Row:
    """The numbers of a cell, each of shape (seeds,), and the cap and segments that the search chose."""

    part: str
    cell: Cell
    setting: Setting | None
    values: dict[str, np.ndarray]

    def mean(self, key: str) -> float:
        """Mean over the seeds; NaN where a seed has none."""
        return float(self.values[key].mean())


@dataclass(frozen=True)
class PaperResult:
    """Everything the page is made of.

    Attributes:
        rows: in order of part and cell.
        searched: per searched cell, what each setting reached: mean E2E in seconds at a rate, completions per
            second where saturated.
        cycles: runs of equal requests.
        memory: runs of the linear machine.
        decode: runs of the decode-only server.
        mixing: runs of two replicas behind a router.
        scaling: runs over growing horizons, by case and requests.
    """

    scale: Scale
    rows: tuple[Row, ...]
    searched: dict[Cell, dict[Setting, float]]
    cycles: dict[CycleRun, dict[str, float]]
    memory: dict[MemoryRun, dict[str, float]]
    decode: dict[DecodeRun, dict[str, float]]
    mixing: dict[MixingRun, dict[str, float]]
    scaling: Scaling

    def has(self, part: str) -> bool:
        """Whether a part was run."""
        of_their_own = {
            "theory": self.cycles,
            "scaling": self.scaling,
            "decode-server": self.decode,
            "mixing": self.mixing,
        }
        return bool(of_their_own[part]) if part in of_their_own else any(row.part == part for row in self.rows)

    def row(self, part: str, cell: Cell) -> Row:
        """The row of a cell."""
        return next(row for row in self.rows if (row.part, row.cell) == (part, cell))

    def schedulers(self, part: str, study: str) -> list[str]:
        """The schedulers of a study, in order."""
        return list(dict.fromkeys(r.cell.scheduler for r in self.rows if (r.part, r.cell.study) == (part, study)))


def run_paper(
    parts: Sequence[str],
    scale: Scale,
    *,
    runner: Runner | None = None,
) -> PaperResult:
    """Run parts of the studies: first the search for the caps, then everything.

    Args:
        parts: of `PARTS`.
        runner: where runs happen; the same results file continues any parts and seeds.

    Raises:
        InputError: an unknown part, or a results file of something else.
    """
    check_parts(parts, PARTS)
    run = partial((runner or Runner()).run, header={"command": "experiment paper"})
    cycles, memory = (_cycle_runs(scale), _memory_runs(scale)) if "theory" in parts else ([], [])
    cycle_rows, memory_rows = (
        run(cycle_run, cycles, shape=CYCLE_SHAPE),
        run(memory_run, memory, shape=MEMORY_SHAPE),
    )
    decode = decode_runs(scale.requests, range(scale.seeds)) if "decode-server" in parts else []
    mixed = mixing_runs(range(scale.seeds)) if "mixing" in parts else []
    horizons = scaling_runs(scale.requests, scale.seeds) if "scaling" in parts else []
    cells = [(part, cell) for part in CELLS if part in parts for cell in CELLS[part]()]
    run_cells = partial(run, paper_run, shape=PAPER_SHAPE)
    searched = _searched([cell for _, cell in cells if _is_searched(cell)], scale, run_cells)
    return PaperResult(
        scale,
        _rows(cells, {cell: _best(cell, reached) for cell, reached in searched.items()}, scale, run_cells),
        searched,
        dict(zip(cycles, cycle_rows, strict=True)),
        dict(zip(memory, memory_rows, strict=True)),
        dict(zip(decode, run(decode_run, decode, shape=DECODE_SHAPE), strict=True)),
        dict(zip(mixed, run(mixing_run, mixed, shape=MIXING_SHAPE), strict=True)),
        collected(zip(horizons, run(scaling_run, horizons, shape=SCALING_SHAPE), strict=True)),
    )


Run = Callable[[Sequence[PaperRun]], list[dict[str, Any]]]


def _rows(cells: Sequence[tuple[str, Cell]], best: dict[Cell, Setting], scale: Scale, run: Run) -> tuple[Row, ...]:
    seeds = range(scale.seeds)
    jobs = [replace(_job(cell, scale, best.get(cell)), seed=seed) for _, cell in cells for seed in seeds]
    numbers = iter(run(jobs))
    rows = []
    for part, cell in cells:
        by_seed = [next(numbers) for _ in seeds]
        values = {key: np.array([outcome[key] for outcome in by_seed]) for key in by_seed[0]}
        rows.append(Row(part, cell, best.get(cell), values))
    return tuple(rows)


def _searched(cells: Sequence[Cell], scale: Scale, run: Run) -> dict[Cell, dict[Setting, float]]:
    """What every setting of the paper's grid reaches in each cell."""
    settings = {cell: list(_grid(cell)) for cell in cells}
    jobs = [replace(_job(cell, scale, setting), seed=SEARCH_SEED) for cell in cells for setting in settings[cell]]
    numbers = iter(run(jobs))
    key = {cell: "service_rate" if cell.rate is None else "mean_e2e_s" for cell in cells}
    return {cell: {setting: float(next(numbers)[key[cell]]) for setting in settings[cell]} for cell in cells}


def _best(cell: Cell, reached: dict[Setting, float]) -> Setting:
    """The setting of least latency, or of the largest rate where saturated."""
    sign = -1.0 if cell.rate is None else 1.0
    return min(reached, key=lambda setting: sign * reached[setting])


def _grid(cell: Cell) -> Iterator[Setting]:
    study = STUDIES[cell.study]
    segments = (1,) if cell.scheduler == CAP_ALONE else study.segments
    yield from ((cap, count) for cap in study.caps for count in segments)
    yield from ((cap, 1) for cap in study.single_caps)


def _is_searched(cell: Cell) -> bool:
    return cell.scheduler in (CAP_ALONE, SEARCHED)


def _job(cell: Cell, scale: Scale, setting: Setting | None) -> PaperRun:
    cap, segments = setting or _papers_setting(cell)
    requests = scale.requests * (SATURATED if cell.rate is None else 1)
    return PaperRun(cell.study, cell.scheduler, cell.rate, requests, 0, cap, segments, cell.chunk)


def _papers_setting(cell: Cell) -> tuple[int | None, int]:
    """The authors' B, where a scheduler runs with it."""
    if cell.scheduler != PUBLISHED_CAP:
        return None, 1
    study = STUDIES[cell.study]
    return study.papers_cap, study.segments[-1]


def _cycle_runs(scale: Scale) -> list[CycleRun]:
    both = ("greedy", "rate-limited")
    saturated = [CycleRun(*lengths, policy, CYCLE_REQUESTS) for lengths in LENGTHS for policy in both]
    return saturated + [
        CycleRun(*POISSON_LENGTHS, policy, 4 * CYCLE_REQUESTS, seed, load, backlog)
        for load in POISSON_LOADS
        for policy in both
        for backlog in (False, True)
        for seed in range(scale.seeds)
    ]


def _memory_runs(scale: Scale) -> list[MemoryRun]:
    rates = [rate for rate in PUBLISHED if rate < crossing_rate()]
    return [MemoryRun(rate, seed) for rate in rates for seed in range(scale.seeds)]


def _published_schedulers(study: Study) -> list[str]:
    return [name for name in schedulers(study) if study.strict or name not in STRICT]


def at_equal_chunks() -> list[str]:
    """The studies that are also run at equal tokens per iteration: where Vidur's schedulers would not differ."""
    return [name for name, study in STUDIES.items() if study.machine in (FOUR_TERM, LINEAR)]


def _latency_cells() -> list[Cell]:
    return [
        Cell(name, scheduler, rate)
        for name, study in STUDIES.items()
        for rate in study.rates
        for scheduler in _published_schedulers(study)
    ]


CELLS: dict[str, Callable[[], list[Cell]]] = {
    "latency": _latency_cells,
    "stable-rate": lambda: [
        Cell(name, scheduler) for name, study in STUDIES.items() for scheduler in schedulers(study)
    ],
    "equal-chunks": lambda: [
        Cell(name, scheduler, None, chunk) for name in at_equal_chunks() for chunk in CHUNKS for scheduler in EQUAL
    ],
}
PARTS = ("theory", "scaling", *CELLS, "decode-server", "mixing")
"""The parts, in the order of the page."""
