"""Closed loops: so many requests in flight, the next sent when one is done. A run of one, and its job."""

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
from fluidgate.engine import EngineConfig, RunRecords
from fluidgate.errors import InputError, KvPoolWarning
from fluidgate.hardware import (
    Hardware,
    Scheme,
    ServerDefaults,
    Serving,
    estimate_hardware,
    find_gpu,
    find_model,
    find_profile,
)
from fluidgate.hardware.gpus import canonical_gpu_name
from fluidgate.hardware.model_config import canonical_model_name
from fluidgate.hardware.quantization import SIXTEEN_BIT
from fluidgate.policies import Greedy
from fluidgate.runs import simulate
from fluidgate.studies.accuracy.silicon import Measured, Server
from fluidgate.workload import Workload

REQUESTS_PER_SEAT = 10
LIMITS = ServerLimits(128, 8192, 12288, gpu_memory_utilization=0.9)

SCHEMES = {
    "auto": SIXTEEN_BIT,
    "fp8": Scheme("FP8", 8.0, computes_in_8_bits=True),
    "nvfp4": Scheme("NVFP4", 4.5, computes_in_8_bits=True),
}
"""Of the checkpoints of dense models, by `Server.precision`."""

LAG_STEPS = 2
"""Steps that asynchronous scheduling, vLLM's default, adds to a TTFT in a closed loop. A client hears of its last
token, and sends, while the next step runs and the one after that is formed already: its prompt comes into the third."""

OVERHEAD_S = 0.014
"""What HTTP, the tokeniser and the delivery of the first token take, as measured on an H100 with Qwen3-14B."""


@dataclass(frozen=True)
class ClosedRun:
    """A job: a row of the table and a source of step times, a key of `CLOSED_SOURCES`."""

    row: Measured
    source: str


CLOSED_SHAPE = {"refused": str, "ttft_ms": float, "engine_ttft_ms": float, "tpot_ms": float, "preemptions": int}
"""Of what a run gives; `refused` says why there is no machine."""


def closed_loop(workload: Workload, machine: Hardware, in_flight: int, budget: int) -> RunRecords:
    """A run with so many requests in flight; arrivals of `workload` are not looked at."""
    offered = replace(workload, arrival_s=np.zeros(len(workload)), concurrency=in_flight)
    config = EngineConfig(max_num_seqs=in_flight, max_num_batched_tokens=budget, enable_prefix_caching=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", KvPoolWarning)
        return simulate(offered, machine, Greedy(), config=config, record="steps")


def lag_s(records: RunRecords) -> FloatArray:
    """What the `LAG_STEPS` steps before each request's first took, shape (n,), seconds."""
    assert records.steps is not None
    starts = records.steps.start_s
    first = np.searchsorted(starts, records.first_scheduled_s, side="right") - 1
    return np.asarray(starts[first] - starts[np.maximum(first - LAG_STEPS, 0)])


def closed_run(job: ClosedRun) -> dict[str, Any]:
    """The mean latencies of a closed loop like the measured one."""
    row = job.row
    try:
        machine = _machine(row.server, job.source)
    except InputError as refusal:
        return {"refused": str(refusal), "ttft_ms": 0.0, "engine_ttft_ms": 0.0, "tpot_ms": 0.0, "preemptions": 0}
    records = closed_loop(_requests(row), machine, row.concurrency, LIMITS.max_num_batched_tokens)
    engine_s = records.first_token_s - records.arrival_s
    tpot_s = (records.last_token_s - records.first_token_s) / (records.workload.output_tokens - 1)
    return {
        "refused": "",
        "ttft_ms": 1e3 * float((engine_s + lag_s(records)).mean() + OVERHEAD_S),
        "engine_ttft_ms": 1e3 * float(engine_s.mean()),
        "tpot_ms": 1e3 * float(tpot_s.mean()),
        "preemptions": int(records.preemptions.sum()),
    }


def _requests(row: Measured) -> Workload:
    rng = np.random.default_rng(0)
    count = REQUESTS_PER_SEAT * row.concurrency

    def lengths(stated: int) -> Any:
        shortest, longest = row.lengths
        return rng.integers(int(shortest * stated), int(longest * stated) + 1, count)

    return Workload(np.zeros(count), lengths(row.prompt_tokens), lengths(row.output_tokens), name="closed loop")


@lru_cache(maxsize=8)
def _machine(server: Server, source: str) -> Hardware:
    # The server took these requests, whatever the model's own limit is.
    return replace(CLOSED_SOURCES[source](server), server=ServerDefaults())


def _grid(server: Server) -> Hardware:
    spread = Spread(
        server.tp,
        expert_parallel=server.expert_parallel,
        precision=server.precision,
        kv_cache_dtype=server.kv_cache_dtype,
    )
    name = str(Path(server.model).name)
    return query_aiconfigurator(name, server.system, spread=spread, limits=LIMITS).hardware


def _estimate(server: Server) -> Hardware:
    serving = Serving(server.tp, gpu_memory_utilization=0.9, kv_cache_dtype=server.kv_cache_dtype)
    shape = replace(find_model(Path(server.model).name), scheme=SCHEMES[server.precision])
    return estimate_hardware(shape, find_gpu(server.system), serving)


def _profile(server: Server) -> Hardware:
    model, gpu = canonical_model_name(Path(server.model).name), canonical_gpu_name(server.system)
    profile = find_profile(model, gpu, None if server.tp == 1 else f"tp{server.tp}")
    if profile is None or server.precision != "auto" or profile.tp != server.tp:
        raise InputError(f"no profile of {model} on {server.tp} × {gpu} in {server.precision}")
    return profile.hardware


CLOSED_SOURCES: dict[str, Callable[[Server], Hardware]] = {"profile": _profile, "estimate": _estimate, "grid": _grid}
"""Kinds of step times, in the order of the page."""
