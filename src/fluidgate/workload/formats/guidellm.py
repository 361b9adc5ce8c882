"""Results of guidellm (JSON): `benchmarks`, one for each rate, each with its requests by how they ended.

Source: github.com/vllm-project/guidellm, src/guidellm/schemas and src/guidellm/benchmark/schemas, versions 0.2 to
0.5. A request has `prompt_tokens`, `output_tokens`, and times in seconds on the client's clock, whose names and places
changed: `TIMES` lists them, newest first. Requests that are `incomplete` or `errored` are failed ones here.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.bounds import MAX_SECONDS
from fluidgate.errors import InputError
from fluidgate.jsonfile import JsonObject
from fluidgate.workload.arrivals import AllAtOnce
from fluidgate.workload.core import Workload
from fluidgate.workload.formats._benchmark import BenchmarkRun, as_workload, chosen
from fluidgate.workload.formats._files import read_json

TIMES = {
    "start": ("request_start_time", "start_time", "request_start", "resolve_start"),
    "first": ("first_token_iteration", "first_iteration", "first_token_time"),
    "last": ("last_token_iteration", "last_iteration", "last_token_time"),
    "end": ("request_end_time", "end_time", "request_end", "resolve_end"),
}
"""Names of when a request was sent, when its first and its last token came, and when its answer ended."""
PARTS = (("info", "timings"), ("scheduler_info", "request_timings"))
"""Where a version keeps the times that are not with the request itself."""
FAILED = ("incomplete", "errored")
MANY = ", one for each rate"


def matches(head: str) -> bool:
    """Whether the file's first characters look like this format."""
    return head.startswith("{") and '"benchmarks"' in head


def read(path: Path, *, failed: str = "stop", run: int | None = None) -> tuple[Workload, str]:
    """The workload as it was sent, with the output lengths that came back, and a note.

    Args:
        failed: "stop" at a request that is incomplete or errored, or "drop" such requests and report how many.
        run: which benchmark of a file that holds several, from 1.

    Errors: InputError that names the benchmark and the request.
    """
    return as_workload(path, chosen(path, runs(path), run, MANY), failed, None)


def runs(path: Path) -> list[BenchmarkRun]:
    """Every benchmark of the file, with the times at which its requests were served."""
    result = read_json(path)
    if not isinstance(result, dict):
        raise InputError(f"{path}:1: not a JSON object; give the result file of guidellm")
    benchmarks = JsonObject(result, str(path)).objects("benchmarks")
    if not benchmarks:
        raise InputError(f"{path}: 'benchmarks' is empty; run the benchmark again")
    return [
        _run(benchmark, f"benchmark {number}, " if len(benchmarks) > 1 else "")
        for number, benchmark in enumerate(benchmarks, 1)
    ]


def _run(benchmark: JsonObject, which: str) -> BenchmarkRun:
    groups = benchmark.object("requests")
    served = groups.objects("successful") if groups.has("successful") else []
    lost = [(request, kind) for kind in FAILED if groups.has(kind) for request in groups.objects(kind)]
    requests = [*served, *(request for request, _ in lost)]
    if not requests:
        raise groups.error("successful", "is empty; run the benchmark again, and keep all its requests")
    tokens = [
        [request.number(key, default=0.0 if row >= len(served) else None) for row, request in enumerate(requests)]
        for key in ("prompt_tokens", "output_tokens")
    ]
    times = {what: np.array([_time(request, names) for request in requests]) for what, names in TIMES.items()}
    missing = np.isnan(times["start"][: len(served)])
    if missing.any():
        raise requests[int(np.argmax(missing))].error(TIMES["start"][0], "is missing; run the benchmark again")
    output = np.array(tokens[1])
    last_s = np.where(np.isnan(times["last"]), times["end"], times["last"])
    streams = _streams(benchmark)
    return BenchmarkRun(
        prompt_tokens=np.array(tokens[0]),
        output_tokens=output,
        start_s=times["start"],
        ttft_s=_first_s(requests, times["first"], times["start"]),
        e2e_s=last_s - times["start"],
        failure=[""] * len(served) + [f"{kind} in the result" for _, kind in lost],
        place=lambda row: f": {which}{'request' if row < len(served) else 'unserved request'} {row}",
        arrivals=None if streams is None else AllAtOnce(),  # it sends as soon as one of them is free
        max_concurrency=streams,
        remarks=(which.rstrip(", "),) if which else (),
    )


def _time(request: JsonObject, names: tuple[str, ...]) -> float:
    """The first of these times that the request has, seconds; NaN if none."""
    for part in (request, *_parts(request)):
        for name in names:
            if part.has(name):
                return part.number(name, at_most=MAX_SECONDS)
    return math.nan


def _parts(request: JsonObject) -> list[JsonObject]:
    """The objects deeper in the request that may hold its times."""
    return [
        request.object(outer).object(inner)
        for outer, inner in PARTS
        if isinstance(request.values.get(outer), dict) and isinstance(request.values[outer].get(inner), dict)
    ]


def _first_s(requests: list[JsonObject], first: FloatArray, start: FloatArray) -> FloatArray:
    """Seconds to the first token: the difference of the times, or as the file says it; NaN where it does not."""
    stated = [
        request.number("time_to_first_token_ms", at_most=1e3 * MAX_SECONDS) / 1e3
        if request.has("time_to_first_token_ms")
        else math.nan
        for request in requests
    ]
    return np.where(np.isnan(first), stated, first - start)


def _streams(benchmark: JsonObject) -> int | None:
    """Requests in flight, where the benchmark kept a number of them."""
    for outer in ("config", "args", "scheduler"):
        part = benchmark.values.get(outer)
        strategy = part.get("strategy") if isinstance(part, dict) else None
        if isinstance(strategy, dict):
            if strategy.get("type_") == "synchronous":
                return 1
            streams = strategy.get("streams")
            if strategy.get("type_") == "concurrent" and type(streams) is int and streams >= 1:
                return streams
    return None
