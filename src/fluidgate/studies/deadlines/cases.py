"""The cells of the deadlines study: a workload at a load whose clients wait so long, on one machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fluidgate.arrays import FloatArray, IntArray
from fluidgate.engine import EngineConfig
from fluidgate.fluid import Deadlines, FluidPlan
from fluidgate.hardware import Hardware, get_hardware
from fluidgate.runs import plan_for
from fluidgate.workload import Fixed, Independent, Patience, Poisson, Synthetic, TimeoutLaw, Workload, generate

MODEL, GPU = "llama-3.1-8b", "h100-80gb"

FIXED = "fixed 1,082/1,448"
WORKLOADS: dict[str, str | Synthetic] = {
    "azure-conv-2023": "azure-conv-2023",
    "r1-reasoning": "r1-reasoning",
    "lmsys": "lmsys",
    FIXED: Synthetic("fixed", Poisson(1.0), Independent(Fixed(1082), Fixed(1448))),
}
"""What `generate` takes."""

LOADS = (0.5, 0.8, 0.9, 1.12, 1.5, 2.0, 3.0)
"""Of the stability boundary."""

TTFT = "TTFT 2 s"
PATIENCES = {f"{s:g} s": Patience(timeout=TimeoutLaw("", (s,))) for s in (30.0, 60.0, 120.0, 300.0)} | {
    TTFT: Patience(ttft_timeout=TimeoutLaw("", (2.0,)))
}
"""All clients of a run are alike."""

STUDIED = ("30 s", "60 s", "300 s", TTFT)
"""Of these, the patience in the cells."""

PLANNING_SEED, PLANNING_REQUESTS = 10_000, 4000
"""Plans, priors and quartiles come from a draw that no run has."""

SURGE = 2.0
"""The load, or the cell's if that is larger, at which the queue of an overload is built up."""

LONG = 10.0
"""A run is measured over the arrivals of so many times the patience, or a mean service if that is longer."""

FITS = 0.9
"""So large a share of the services ends within the timeout: then `fluid` is to complete what known lengths do."""


@dataclass(frozen=True)
class Cell:
    """A workload, a load, and how long clients wait: a key of `PATIENCES`."""

    workload: str
    load: float
    patience: str

    def __str__(self) -> str:
        return f"{self.workload}, {self.patience}, load {self.load:g}"

    @property
    def patience_s(self) -> float:
        """How long clients wait, for whichever token."""
        law = PATIENCES[self.patience].timeout or PATIENCES[self.patience].ttft_timeout
        assert law is not None
        return law.numbers[0]

    @property
    def fluid(self) -> str:
        """The spec of `fluid` with this deadline."""
        name = "ttft_timeout_s" if PATIENCES[self.patience].timeout is None else "timeout_s"
        return f"fluid:{name}={self.patience_s:g}"

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.load * boundary_rate(self.workload)

    @property
    def fits(self) -> float:
        """The share of services that end within the timeout if they start at once, at the boundary's pace."""
        law = PATIENCES[self.patience].timeout
        if law is None:
            return 1.0
        return float((service_s(self.workload) <= law.numbers[0]).mean())


CELLS = tuple(Cell(workload, load, patience) for workload in WORKLOADS for patience in STUDIED for load in LOADS)


@dataclass(frozen=True)
class Span:
    """A run in time: the machine fills, a surge builds up the queue, some are measured, and others come after them.

    Attributes:
        full_s, queued_s: when the surge begins and ends.
        surge: its rate over the cell's.
        begin_s, end_s: when the measured arrivals begin and end.
        stop_s: when the last request comes.
        requests: all of them, on average.
    """

    full_s: float
    queued_s: float
    surge: float
    begin_s: float
    end_s: float
    stop_s: float
    requests: float


@lru_cache(maxsize=256)
def span(cell: Cell, requests: int) -> Span:
    """How long a cell is run.

    After two mean services, in which the machine fills, stock's wait W meets who is sent W/(load - 1) seconds later
    (model.md §10): soon at the surge's load, which ends then. One more mean service later those come who are measured,
    for `LONG` times the patience or a mean service, but at least a fifth of `requests`, and at most `requests`, or
    those of one patience. Others come for one patience more, or one mean service. Below the boundary is no surge.
    """
    surge_load = max(SURGE, cell.load)
    surge_s = bounds(cell).stock.wait_s / (surge_load - 1.0) if cell.load > 1.0 else 0.0
    mean_s = float(service_s(cell.workload).mean())
    scale_s = max(cell.patience_s, mean_s)
    full_s = 2.0 * mean_s
    begin_s = full_s + surge_s + (mean_s if cell.load > 1.0 else 0.0)
    most_s = max(requests / cell.rate, cell.patience_s)
    end_s = begin_s + min(max(LONG * scale_s, 0.2 * requests / cell.rate), most_s)
    stop_s, surge = end_s + scale_s, surge_load / cell.load
    come = cell.rate * (stop_s + (surge - 1.0) * surge_s)
    return Span(full_s, full_s + surge_s, surge, begin_s, end_s, stop_s, come)


@lru_cache(maxsize=2)
def traffic(cell: Cell, requests: int, seed: int) -> Workload:
    """The requests of a run, the same for all policies."""
    over = span(cell, requests)
    drawn = drawn_at(cell.workload, cell.rate, seed, (over.full_s, over.queued_s, over.stop_s), (1.0, over.surge, 1.0))
    return PATIENCES[cell.patience].of(drawn, seed)


def drawn_at(workload: str, rate: float, seed: int, until_s: Sequence[float], speeds: Sequence[float]) -> Workload:
    """Requests of a workload until the last of `until_s`, at a rate times each speed until each of these times."""
    seconds, speed = np.concatenate([[0.0], until_s]), np.array(speeds)
    steady = np.concatenate([[0.0], np.cumsum(np.diff(seconds) * speed)])
    drawn = generate(WORKLOADS[workload], duration_s=float(steady[-1]), rate=rate, seed=seed)
    return drawn.reordered(np.arange(len(drawn)), np.interp(drawn.arrival_s, steady, seconds))


@lru_cache(maxsize=1)
def machine() -> Hardware:
    """The machine of all cells."""
    return get_hardware(MODEL, GPU)


@lru_cache(maxsize=8)
def sample(workload: str) -> Workload:
    """What plans know of a workload; at one request per second."""
    return generate(WORKLOADS[workload], n=PLANNING_REQUESTS, rate=1.0, seed=PLANNING_SEED)


@lru_cache(maxsize=8)
def boundary_plan(workload: str) -> FluidPlan:
    """The plan of a workload; its stability is that of any rate."""
    return plan_for(sample(workload), machine(), EngineConfig())


def boundary_rate(workload: str) -> float:
    """The stability boundary, req/s."""
    return boundary_plan(workload).stability.boundary_rate


@lru_cache(maxsize=256)
def planned(cell: Cell) -> FluidPlan:
    """The plan of a cell, with its deadlines."""
    drawn = sample(cell.workload)
    scaled = drawn.scaled(cell.rate / drawn.rate)
    return plan_for(scaled, machine(), EngineConfig(), patience=PATIENCES[cell.patience])


def bounds(cell: Cell) -> Deadlines:
    """What the model says of a cell's deadlines."""
    found = planned(cell).deadlines
    assert found is not None
    return found


def service_s(workload: str) -> FloatArray:
    """How long services take at the boundary's pace, shape (`PLANNING_REQUESTS`,), seconds."""
    return np.asarray(sample(workload).output_tokens * boundary_plan(workload).stability.iteration_time_s)


def quartile_of(tokens: IntArray, known: IntArray) -> IntArray:
    """In which quarter of the known lengths each length is, 0 to 3; −1 where all of those are equal."""
    if known.min() == known.max():
        return np.full(len(tokens), -1)
    return np.searchsorted(np.quantile(known, (0.25, 0.5, 0.75)), tokens)
