"""`calibrate_requests`: a machine from the results of a load generator, by simulating the runs that were measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from fluidgate.calibration.requests.load import MIN_REQUESTS, Load, Replay
from fluidgate.calibration.requests.posterior import Posterior, most_probable
from fluidgate.calibration.requests.report import (
    LoadErrors,
    RequestsReport,
    calibration_of,
    mean_latencies_s,
)
from fluidgate.engine import EngineConfig, RunRecords, run
from fluidgate.errors import InputError
from fluidgate.hardware import Hardware, StepTime
from fluidgate.policies import Greedy
from fluidgate.runs.one_pool import pool_of_run
from fluidgate.runs.simulation import timings_of
from fluidgate.workload import MeasuredRun, Timings, Workload


def calibrate_requests(
    runs: Sequence[MeasuredRun],
    estimate: Hardware,
    config: EngineConfig | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> RequestsReport:
    """Fit the step time, and what a request takes outside the engine, to runs at one or several loads.

    Each run is simulated with its own requests, arriving when they were sent, or in a closed loop as replies come,
    under stock admission. With several runs each is predicted once from a fit to the others; with one, its second half
    from a fit to the first.

    Args:
        runs: of one server, with the same settings.
        estimate: the machine's KV cache, and a step time as the prior.
        config: the server's limits.
        progress: called now and then with (fits done, fits in all).

    Raises:
        InputError: no run, one with too few requests, or a request that does not fit the KV cache or the given limit.
    """
    if not runs:
        raise InputError("no run to calibrate from; give the result of a benchmark")
    config = config or EngineConfig()
    _refuse_longer(runs, config.max_model_len)
    loads = [Load(measured) for measured in runs]
    prior = estimate.step_time
    pools = {id(measured.workload): pool_of_run(measured.workload, estimate, config) for measured in runs}

    def replay(workload: Workload, step_time: StepTime) -> Timings:
        return timings_of(_simulated(workload, step_time, pools[id(workload)], config))

    def fitted(seen: Sequence[Load], done: int) -> Posterior:
        posterior = most_probable(seen, prior, replay)
        if progress is not None:
            progress(done, len(loads) + 1)
        return posterior

    posterior = fitted(loads, 1)
    errors = [_errors(load, posterior, replay) for load in loads]
    if len(loads) > 1:
        for k, load in enumerate(loads):
            unseen = fitted(loads[:k] + loads[k + 1 :], k + 2)
            errors[k] = _held_out(errors[k], load, unseen, replay, "a fit to the other loads")
    elif len(runs[0].workload) >= 2 * MIN_REQUESTS:
        middle = len(runs[0].workload) // 2
        unseen = fitted([Load(runs[0], slice(0, middle))], 2)
        second = Load(runs[0], slice(middle, None))
        errors[0] = _held_out(errors[0], second, unseen, replay, "its second half, from a fit to the first")
    return RequestsReport(
        posterior=posterior,
        machine=estimate,
        loads=tuple(errors),
        calibration=calibration_of(posterior, *_range(loads, posterior.step_time, pools, config)),
        shares=tuple(np.mean([load.shares(posterior.step_time) for load in loads], axis=0).tolist()),
    )


def _refuse_longer(runs: Sequence[MeasuredRun], max_model_len: int | None) -> None:
    """Refuse a given limit that a server with such requests cannot have had."""
    for measured in runs:
        longest = int((measured.workload.prompt_tokens + measured.workload.output_tokens).max())
        if max_model_len is not None and longest > max_model_len:
            raise InputError(
                f"{measured.name}: a request of {longest:,} tokens was served, so max_model_len = {max_model_len} is "
                "not the server's; leave it out"
            )


def _simulated(
    workload: Workload, step_time: StepTime, machine: Hardware, config: EngineConfig, *, steps: bool = False
) -> RunRecords:
    # A request that was served was not too long, whatever the model's own limit is.
    server = replace(machine.server, max_model_len=None)
    served = replace(machine, step_time=step_time, grid=None, calibration=None, server=server)
    return run(workload, served, Greedy(), config, record="steps" if steps else "requests")


def _errors(load: Load, posterior: Posterior, replay: Replay) -> LoadErrors:
    measured = load.run.timings.latencies_s
    simulated = replay(load.run.workload, posterior.step_time).latencies_s
    return LoadErrors(
        name=load.run.name,
        requests=len(load.compared),
        decoding=float(load.decoding[load.compared].mean()),
        measured_s=mean_latencies_s(load, measured),
        simulated_s=mean_latencies_s(load, simulated, posterior.overhead_s),
    )


def _held_out(errors: LoadErrors, load: Load, unseen: Posterior, replay: Replay, what: str) -> LoadErrors:
    """The errors with those of a fit that has not seen this part of the load."""
    own = _errors(load, unseen, replay)
    return replace(errors, held_out_s=own.simulated_s, held_out_measured_s=own.measured_s, held_out=what)


def _range(
    loads: Sequence[Load], step_time: StepTime, pools: dict[int, Hardware], config: EngineConfig
) -> tuple[int, tuple[float, float], tuple[float, float]]:
    """Steps of the simulated loads, and the least and most of their tokens and KV tokens."""
    count, tokens, kv_tokens = 0, list[float](), list[float]()
    for load in loads:
        machine = pools[id(load.run.workload)]
        records = _simulated(load.run.workload, step_time, machine, config, steps=True)
        assert records.steps is not None
        used = (records.total_blocks - records.steps.free_blocks) * machine.block_size
        count += len(records.steps)
        tokens += [float(records.steps.tokens.min()), float(records.steps.tokens.max())]
        kv_tokens += [float(used.min()), float(used.max())]
    return count, (min(tokens), max(tokens)), (min(kv_tokens), max(kv_tokens))
