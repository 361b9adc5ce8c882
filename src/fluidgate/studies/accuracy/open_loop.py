"""Measured runs whose requests arrived when they did: every source of step times against them, as a job."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.calibration import ServerLimits, Spread, query_aiconfigurator
from fluidgate.calibration.requests.load import Load
from fluidgate.calibration.requests.posterior import most_probable
from fluidgate.engine import EngineConfig, Record, RunRecords
from fluidgate.errors import KvPoolWarning
from fluidgate.hardware import (
    Hardware,
    ServerDefaults,
    Serving,
    StepTime,
    estimate_hardware,
    find_gpu,
    find_model,
    get_hardware,
)
from fluidgate.policies import Greedy
from fluidgate.runs import simulate, timings_of
from fluidgate.studies.measured import WatchedRun, read_watched_run, simulated_gauges
from fluidgate.workload import Timings, Workload

LINK_GB_PER_S = 16.0
"""What the two RTX PRO 6000 are joined by: PCIe."""

LONGEST_CONTEXT = 32768
MEMORY_SHARE = 0.9
"""vLLM 0.19's own."""

FITTED = "fitted to the first half"


@dataclass(frozen=True)
class MeasuredSet:
    """A measured run.

    Attributes:
        title: for people.
        file: below the folder of measured runs.
        model, gpu, tp: what ran on what.
        config: the server's limits.
        num_gpu_blocks: KV blocks as the server logged them; None: not known.
        sources: kinds of step times that can be asked, keys of `SOURCES`.
    """

    title: str
    file: str
    model: str
    gpu: str
    tp: int
    config: EngineConfig
    num_gpu_blocks: int | None
    sources: tuple[str, ...]


SETS = {
    "rtx-4090": MeasuredSet(
        "Llama-3.1-8B on an RTX 4090, vLLM 0.19, KV cache full",
        "traces/vllm_measured_RTX4090_Llama-3.1-8B.csv.gz",
        "llama-3.1-8b",
        "rtx-4090",
        1,
        EngineConfig(max_num_seqs=256, max_num_batched_tokens=2048),
        2588,
        ("estimate", "estimate, logged KV blocks", FITTED),
    ),
    "rtx-pro-6000": MeasuredSet(
        "Qwen3-32B on two RTX PRO 6000 joined by PCIe, vLLM 0.19, all 128 seats taken",
        "measured/RTXPRO6000_Qwen3-32B_TP2.csv",
        "qwen3-32b",
        "rtx-pro-6000",
        2,
        EngineConfig(max_num_seqs=128, max_num_batched_tokens=2048),
        None,
        ("profile", "estimate", "estimate, real link", "grid", "grid, real link", FITTED),
    ),
}


@dataclass(frozen=True)
class OpenRun:
    """A job: one measured run and one source of step times."""

    measured: str
    source: str


KEPT = (
    *("measured_ttft_s", "measured_tpot_s", "measured_e2e_s", "measured_tokens_per_s"),
    *("ttft_s", "tpot_s", "e2e_s", "tokens_per_s"),
    *("mean_running", "mean_waiting", "running_difference", "waiting_difference"),
    *("preemptions", "num_gpu_blocks"),
)

OPEN_SHAPE = dict.fromkeys(KEPT, float)
"""Of what a run gives."""


class OpenRuns:
    """What all jobs share; called with a job, returns the numbers of its run.

    Args:
        folder: of the measured runs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()

    def __call__(self, job: OpenRun) -> dict[str, Any]:
        chosen = SETS[job.measured]
        run = _read(self.folder / chosen.file)
        machine = SOURCES[job.source](chosen, run)
        records = _simulated(run.workload, machine, chosen.config)
        second = slice(len(run.workload) // 2, None)
        judged = second if job.source == FITTED else slice(None)
        gauges = simulated_gauges(records, run.gauges.at_s)
        started_s = run.timings.first_scheduled_s
        assert started_s is not None
        after = run.gauges.at_s >= started_s[judged].min()
        both = {"measured_": run.timings, "": with_overhead(timings_of(records), machine.overhead_s)}
        return {
            **{f"{which}{name}": value for which, seen in both.items() for name, value in means(seen, judged).items()},
            "mean_running": float(run.gauges.running[after].mean()),
            "mean_waiting": float(run.gauges.waiting[after].mean()),
            "running_difference": float(np.abs(gauges.running - run.gauges.running)[after].mean()),
            "waiting_difference": float(np.abs(gauges.waiting - run.gauges.waiting)[after].mean()),
            "preemptions": int(records.preemptions.sum()),
            "num_gpu_blocks": machine.num_gpu_blocks,
        }


def means(timings: Timings, judged: slice) -> dict[str, float]:
    """Mean TTFT, TPOT and E2E latency of some requests, and their output tokens per second from first start to end."""
    assert timings.first_scheduled_s is not None
    latencies = {name: values[judged] for name, values in timings.latencies_s.items()}
    lasted_s = timings.last_token_s[judged].max() - timings.first_scheduled_s[judged].min()
    return {
        "ttft_s": _mean(latencies["TTFT"]),
        "tpot_s": _mean(latencies["TPOT"]),
        "e2e_s": _mean(latencies["E2E"]),
        "tokens_per_s": float(timings.output_tokens[judged].sum() / lasted_s),
    }


def with_overhead(timings: Timings, overhead_s: float) -> Timings:
    """As a client sees them that is `overhead_s` away from the engine."""
    return replace(
        timings, first_token_s=timings.first_token_s + overhead_s, last_token_s=timings.last_token_s + overhead_s
    )


def _mean(values: FloatArray) -> float:
    return float(values.mean())


@lru_cache(maxsize=4)
def _read(path: Path) -> WatchedRun:
    return read_watched_run(path)


def _simulated(workload: Workload, machine: Hardware, config: EngineConfig, record: Record = "steps") -> RunRecords:
    # The server took these requests, whatever the model's own limit is.
    served = replace(machine, server=ServerDefaults())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", KvPoolWarning)
        return simulate(workload, served, Greedy(), config=config, record=record)


def _profile(chosen: MeasuredSet, run: WatchedRun) -> Hardware:
    return get_hardware(chosen.model, chosen.gpu, tp=chosen.tp, gpu_memory_utilization=MEMORY_SHARE)


def _estimate(chosen: MeasuredSet, link: float | None = None, num_gpu_blocks: int | None = None) -> Hardware:
    gpu = find_gpu(chosen.gpu)
    linked = gpu if link is None else replace(gpu, link_gb_per_s=link)
    serving = Serving(tp=chosen.tp, gpu_memory_utilization=MEMORY_SHARE, num_gpu_blocks=num_gpu_blocks)
    return estimate_hardware(find_model(chosen.model), linked, serving)


def _grid(chosen: MeasuredSet, link: float | None = None) -> Hardware:
    seats, tokens = chosen.config.max_num_seqs, chosen.config.max_num_batched_tokens
    assert seats is not None
    assert tokens is not None
    limits = ServerLimits(seats, tokens, LONGEST_CONTEXT, MEMORY_SHARE)
    spread = Spread(tp=chosen.tp, link_gb_per_s=link)
    return query_aiconfigurator(chosen.model, chosen.gpu, spread=spread, limits=limits).hardware


def _fitted(chosen: MeasuredSet, run: WatchedRun) -> Hardware:
    start = _estimate(chosen, LINK_GB_PER_S if chosen.tp > 1 else None, chosen.num_gpu_blocks)
    first = slice(0, len(run.workload) // 2)

    def served(workload: Workload, step_time: StepTime) -> Timings:
        machine = replace(start, step_time=step_time)
        return timings_of(_simulated(workload, machine, chosen.config, record="requests"))

    found = most_probable([Load(run, first)], start.step_time, served)
    return replace(start, step_time=found.step_time, overhead_s=found.overhead_s)


SOURCES: dict[str, Callable[[MeasuredSet, WatchedRun], Hardware]] = {
    "profile": _profile,
    "estimate": lambda chosen, run: _estimate(chosen),
    "estimate, logged KV blocks": lambda chosen, run: _estimate(chosen, num_gpu_blocks=chosen.num_gpu_blocks),
    "estimate, real link": lambda chosen, run: _estimate(chosen, LINK_GB_PER_S),
    "grid": lambda chosen, run: _grid(chosen),
    "grid, real link": lambda chosen, run: _grid(chosen, LINK_GB_PER_S),
    FITTED: _fitted,
}
"""Kinds of step times, in the order of the page. All but the last know nothing of the run."""
