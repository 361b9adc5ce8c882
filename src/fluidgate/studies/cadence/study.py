"""The planned interval between prompts against every other one, by simulation: workloads × machines × loads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.calibration import query_aiconfigurator
from fluidgate.engine import EngineConfig
from fluidgate.fluid import FluidPlan
from fluidgate.fluid.interval import INTERVALS
from fluidgate.hardware import Hardware, get_hardware
from fluidgate.metrics import summarize
from fluidgate.policies import Greedy
from fluidgate.runs import Runner, plan_for, simulate
from fluidgate.runs.result_shape import Shape
from fluidgate.studies.parts import check_parts
from fluidgate.workload import PRESETS, Workload, generate

MACHINES = {
    "experts": "qwen3-30b-a3b on an H100, a mixture of experts, step times of aiconfigurator",
    "dense": "llama-3.1-8b on an H100, step times of aiconfigurator",
    "affine": "llama-3.1-8b on an A100, the built-in profile, whose step time is affine",
}
"""What each is, in words."""

LOADS = (0.5, 0.8)
"""Of the stability boundary: beyond it the interval is off."""

SWEPT = (*INTERVALS, 48, 64)
FIXED = (4, 8)
"""What people set."""

NEAR = 0.02
METRICS = ("mean_e2el_ms", "mean_ttft_ms", "mean_tpot_ms", "output_throughput")
SHAPE: Shape = dict.fromkeys(METRICS, float)


@dataclass(frozen=True)
class SweepRun:
    """A job: a preset at a load on a machine, with prompts in one step of so many."""

    machine: str
    workload: str
    load: float
    steps: int
    seed: int


@dataclass(frozen=True)
class Sweep:
    """What the jobs share: requests in a run."""

    requests: int

    def __call__(self, job: SweepRun) -> dict[str, Any]:
        hardware = machine(job.machine)
        workload = generate(job.workload, n=self.requests, rate=job.load * boundary_rate(job), seed=job.seed)
        config = EngineConfig(prefill_schedule_interval=job.steps)
        summary = summarize(simulate(workload, hardware, Greedy(), config=config))
        return {name: float(getattr(summary, name)) for name in METRICS}


@dataclass(frozen=True, eq=False)
class Row:
    """A workload at a load on a machine: what the plan proposes, and what every interval gave.

    Attributes:
        proposed: N by the plan.
        gain: the share of mean E2E that it saves over N = 1, by the plan.
        metrics: by name of `METRICS`, means over the seeds, shape (intervals,), in the order of `SWEPT`.
    """

    machine: str
    workload: str
    load: float
    rate: float
    proposed: int
    gain: float
    metrics: dict[str, FloatArray]

    @property
    def best(self) -> int:
        """The swept N with the least mean E2E."""
        return SWEPT[int(np.argmin(self.metrics["mean_e2el_ms"]))]

    def over(self, steps: int, other: int, metric: str = "mean_e2el_ms") -> float:
        """A metric of one interval over that of another."""
        values = self.metrics[metric]
        return float(values[SWEPT.index(steps)] / values[SWEPT.index(other)])

    def is_near(self, steps: int) -> bool:
        """Whether an interval is within 2% of the best swept one, in mean E2E."""
        return self.over(steps, self.best) <= 1.0 + NEAR


def run_cadence(machines: Sequence[str], *, requests: int, seeds: int, runner: Runner | None = None) -> list[Row]:
    """Plan and sweep every preset on the machines of `MACHINES` at `LOADS`.

    Raises:
        InputError: an unknown machine, aiconfigurator-core is not installed, a results file of something else.
    """
    check_parts(machines, MACHINES)
    cells = [SweepRun(name, preset, load, 1, 0) for name in machines for load in LOADS for preset in PRESETS]
    jobs = [
        SweepRun(cell.machine, cell.workload, cell.load, steps, seed)
        for cell in cells
        for steps in SWEPT
        for seed in range(seeds)
    ]
    header = {"command": "experiment cadence", "requests": requests}
    found = iter((runner or Runner()).run(Sweep(requests), jobs, header=header, shape=SHAPE))
    rows = []
    for cell in cells:
        runs = [[next(found) for _ in range(seeds)] for _ in SWEPT]
        metrics = {name: np.array([np.mean([run[name] for run in each]) for each in runs]) for name in METRICS}
        rate = cell.load * boundary_rate(cell)
        interval = _planned(cell.machine, cell.workload, rate).prefill_interval
        rows.append(Row(cell.machine, cell.workload, cell.load, rate, interval.steps, interval.gain, metrics))
    return rows


@lru_cache(maxsize=8)
def machine(name: str) -> Hardware:
    """A machine of `MACHINES`."""
    if name == "affine":
        return get_hardware("llama-3.1-8b", "a100-80gb")
    return query_aiconfigurator("qwen3-30b-a3b" if name == "experts" else "llama-3.1-8b", "h100-80gb").hardware


def boundary_rate(job: SweepRun) -> float:
    """The stability boundary of a job's workload on its machine, req/s."""
    return _boundary(job.machine, job.workload)


@lru_cache(maxsize=64)
def _boundary(name: str, preset: str) -> float:
    return float(_planned(name, preset, 1.0).stability.boundary_rate)  # whatever the rate is


def _planned(name: str, preset: str, rate: float) -> FluidPlan:
    return plan_for(_sample(preset).scaled(rate / _sample(preset).rate), machine(name), EngineConfig())


@lru_cache(maxsize=16)
def _sample(preset: str) -> Workload:
    """What the plan knows of a preset: 4,000 requests of a seed that no run has."""
    return generate(preset, n=4000, rate=1.0, seed=10_000)
