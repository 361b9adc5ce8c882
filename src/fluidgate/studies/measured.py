"""A measured vLLM run against its simulation: fit the step time to one half of the requests, predict the other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.engine import EngineConfig, RunRecords
from fluidgate.errors import InputError
from fluidgate.hardware import Hardware, StepTime
from fluidgate.policies import Greedy
from fluidgate.runs import simulate, timings_of
from fluidgate.workload import MeasuredRun, Timings, read_trace

SEARCH_RUNS = 300
SEARCH_STEP = 0.2
TIMES = ("scheduled_at", "first_token_at", "last_token_at")
GAUGES = ("t", "running", "waiting", "kv_cache_pct")


@dataclass(frozen=True, eq=False)
class Gauges:
    """The server's gauges at m times: requests running and waiting, and the share of KV blocks in use."""

    at_s: FloatArray
    running: FloatArray
    waiting: FloatArray
    kv_use: FloatArray


@dataclass(frozen=True, eq=False, kw_only=True)
class WatchedRun(MeasuredRun):
    """A run on a real server whose gauges were read while it went."""

    gauges: Gauges


def read_watched_run(path: Path | str) -> WatchedRun:
    """A run in Vidur's format with the columns of `TIMES`, and its gauges in `NAME.timeseries.csv` beside it.

    Raises:
        InputError: a file or column is missing, or the requests are not in order of arrival.
    """
    path = Path(path)
    workload, _ = read_trace(path)
    times = _columns(path, ("arrived_at", *TIMES))
    if not np.array_equal(times["arrived_at"], workload.arrival_s):
        raise InputError(f"{path}: arrived_at must rise from 0; sort the requests by arrival")
    gauges = _columns(path.with_name(path.name.removesuffix(".gz").removesuffix(".csv") + ".timeseries.csv"), GAUGES)
    timings = Timings(
        workload.arrival_s,
        times["first_token_at"],
        times["last_token_at"],
        workload.output_tokens,
        first_scheduled_s=times["scheduled_at"],
    )
    watched = Gauges(gauges["t"], gauges["running"], gauges["waiting"], gauges["kv_cache_pct"] / 100.0)
    return WatchedRun(workload=workload, timings=timings, gauges=watched)


def fit_to_timings(
    run: MeasuredRun, start: StepTime, num_gpu_blocks: int, config: EngineConfig, fitted_on: slice
) -> StepTime:
    """The step time whose simulation comes closest to the measured timings of some requests.

    A run without a log of its steps shows them only through its latencies: the loss is the mean absolute error of
    TTFT and E2E, each over its mean, and of the logarithm of TPOT. Nelder-Mead on the logarithms of the coefficients,
    from `start`; evictions make the loss rough, so derivatives say nothing. c_seq stays as it is: one load's latencies
    hardly tell it from c_tok.

    Args:
        start: where the search starts, such as an estimate from data sheets.
        fitted_on: the requests whose timings are looked at; all of them are simulated.
    """
    from scipy.optimize import minimize

    measured = run.timings.latencies_s

    def step_time(log_coefficients: FloatArray) -> StepTime:
        return StepTime(*np.append(np.exp(log_coefficients), start.c_seq).tolist())

    def loss(log_coefficients: FloatArray) -> float:
        records = replay(run, step_time(log_coefficients), num_gpu_blocks, config)
        total = 0.0
        for name, simulated in timings_of(records).latencies_s.items():
            actual, modelled = measured[name][fitted_on], simulated[fitted_on]
            error = np.abs(np.log(modelled / actual)) if name == "TPOT" else np.abs(modelled - actual) / actual.mean()
            total += float(error.mean())
        return total

    first = np.log([start.c0, start.c_tok, start.c_kv, start.c_attn])
    corners = np.vstack([first, first + SEARCH_STEP * np.eye(len(first))])
    options = {"maxfev": SEARCH_RUNS, "initial_simplex": corners}
    best = minimize(loss, first, method="Nelder-Mead", options=options)
    return step_time(best.x)


def replay(
    run: MeasuredRun, step_time: StepTime, num_gpu_blocks: int, config: EngineConfig, *, steps: bool = False
) -> RunRecords:
    """The run's requests, arriving as they did, through the simulator under stock admission."""
    machine = Hardware("the measured server", step_time, num_gpu_blocks)
    return simulate(run.workload, machine, Greedy(), config=config, record="steps" if steps else "requests")


def simulated_gauges(records: RunRecords, at_s: FloatArray) -> Gauges:
    """The gauges after the last iteration that ended by each time; `records` must have steps."""
    assert records.steps is not None
    steps = records.steps
    i = np.maximum(np.searchsorted(steps.end_s, at_s, side="right") - 1, 0)
    idle = at_s >= records.end_s
    used = 1.0 - steps.free_blocks[i] / records.total_blocks
    return Gauges(at_s, *(np.where(idle, 0.0, values) for values in (steps.running[i], steps.waiting[i], used)))


def _columns(path: Path, names: tuple[str, ...]) -> dict[str, FloatArray]:
    try:
        table = np.genfromtxt(path, delimiter=",", names=True)
    except (OSError, ValueError) as problem:
        raise InputError(f"{path}: cannot be read as the CSV of a measured run: {problem}") from None
    missing = [name for name in names if name not in (table.dtype.names or ())]
    if missing:
        raise InputError(f"{path}: no column {', '.join(missing)}; a measured run has {', '.join(names)}")
    columns = {name: np.atleast_1d(np.asarray(table[name], dtype=np.float64)) for name in names}
    for name, values in columns.items():
        if not np.all(np.isfinite(values)):
            line = int(np.argmax(~np.isfinite(values))) + 2
            raise InputError(f"{path}:{line}: {name} is not a finite number; correct or remove the line")
    return columns
