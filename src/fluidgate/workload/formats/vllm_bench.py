"""Results of `vllm bench serve --save-result --save-detailed`, and of SGLang's `bench_serving --output-details`.

Source: vllm/benchmarks/serve.py and sglang/bench_serving.py. One JSON object, or one a line for several runs, as
`--append-result` and SGLang write them. Used: `input_lens`, `output_lens`, `start_times` (seconds on the client's
clock; in vLLM since January 2026), `ttfts` and `itls` (seconds), `errors` (a text per request, empty when it was
served), `request_rate`, `burstiness` and `max_concurrency`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.bounds import MAX_COUNT, MAX_RATE, MAX_SECONDS, MIN_RATE
from fluidgate.errors import InputError
from fluidgate.words import shown
from fluidgate.workload.arrivals import AllAtOnce, ArrivalProcess, Gamma
from fluidgate.workload.core import Workload
from fluidgate.workload.formats._benchmark import BenchmarkRun, as_workload, chosen, several
from fluidgate.workload.formats._files import read_json_objects

_MARKS = ('"input_lens"', '"request_throughput"', '"num_prompts"', '"endpoint_type"')
_DETAILED = "run the benchmark with --save-result --save-detailed (SGLang: --output-details)"
MAX_BURSTINESS = 1e6
"""Beyond it gaps are equal, to a thousandth."""
APPENDED = ", one a line, as --append-result writes them"


def matches(head: str) -> bool:
    """Whether the file's first characters look like this format."""
    return head.startswith("{") and any(mark in head for mark in _MARKS)


def read(path: Path, *, failed: str = "stop", run: int | None = None, seed: int | None = 0) -> tuple[Workload, str]:
    """The workload as it was sent, with the output lengths that came back, and a note.

    Args:
        failed: "stop" at a request with an error or without output, or "drop" such requests and report how
            many.
        run: which run of a file that holds several, from 1.
        seed: of the arrivals where the file has a request rate but no start times; None: all arrive at 0.

    Errors: InputError for a missing list, and at the first request that cannot be used.
    """
    results = read_json_objects(path)
    if run is None and len(results) > 1:
        several(path, len(results), APPENDED)
    return as_workload(path, chosen(path, _runs(path, results), run, APPENDED), failed, seed)


def runs(path: Path) -> list[BenchmarkRun]:
    """Every run of the file, with the times at which its requests were served."""
    return _runs(path, read_json_objects(path))


def _runs(path: Path, results: list[dict[str, Any]]) -> list[BenchmarkRun]:
    return [
        _run(path, result, f"run {number}, " if len(results) > 1 else "") for number, result in enumerate(results, 1)
    ]


def _run(path: Path, result: dict[str, Any], which: str) -> BenchmarkRun:
    def listed(key: str, *, needed: bool = False) -> list[Any] | None:
        values = result.get(key)
        if not needed and (values is None or values == []):
            return None
        what = which.rstrip(", ")
        where = f"{path}: {what}" if what else str(path)
        if values is None:
            raise InputError(f"{where}: no {key!r} in the result; {_DETAILED}")
        if not isinstance(values, list) or (needed and not values):
            raise InputError(f"{where}: {key} is not a list, or empty; the file is damaged, run the benchmark again")
        if count and len(values) != count:
            sizes = f"{key} has {len(values)} entries and input_lens {count}"
            raise InputError(f"{where}: {sizes}; the file is damaged, run the benchmark again")
        return values

    def place(row: int) -> str:
        return f": {which}request {row}"

    def numbers(key: str, values: list[Any] | None) -> FloatArray | None:
        return None if values is None else _numbers(path, place, key, values)

    count = 0
    prompt = numbers("input_lens", listed("input_lens", needed=True))
    assert prompt is not None
    count = len(prompt)
    output = numbers("output_lens", listed("output_lens", needed=True))
    assert output is not None
    start_s, ttft_s = (numbers(key, listed(key)) for key in ("start_times", "ttfts"))
    gaps_s = _gaps(path, place, listed("itls"))
    errors = listed("errors") or [""] * count
    ttft_s = np.full(count, np.nan) if ttft_s is None else ttft_s
    streamed_s = np.full(count, np.nan) if gaps_s is None else np.array([gaps.sum() for gaps in gaps_s])
    return BenchmarkRun(
        prompt_tokens=prompt,
        output_tokens=output,
        start_s=start_s,
        ttft_s=ttft_s,
        e2e_s=np.where(output == 1, ttft_s, ttft_s + streamed_s),
        failure=[str(error or "") for error in errors],
        place=place,
        gaps_s=gaps_s,
        arrivals=_arrivals(path, result),
        max_concurrency=_max_concurrency(path, result),
        remarks=(which.rstrip(", "),) if which else (),
    )


def _numbers(path: Path, place: Callable[[int], str], key: str, values: list[Any]) -> FloatArray:
    for number, value in enumerate(values):
        if type(value) not in (int, float) or not abs(value) <= MAX_SECONDS:  # lengths are far below that, too
            what = f"{key} = {shown(value)} is not a number below {MAX_SECONDS:g}"
            raise InputError(f"{path}{place(number)}: {what}; correct it")
    return np.array(values, np.float64)


def _gaps(path: Path, place: Callable[[int], str], lists: list[Any] | None) -> list[FloatArray] | None:
    if lists is None:
        return None
    for number, gaps in enumerate(lists):
        if not isinstance(gaps, list) or not all(type(g) in (int, float) and 0 <= g <= MAX_SECONDS for g in gaps):
            raise InputError(f"{path}{place(number)}: itls is not a list of seconds; correct it")
    return [np.array(gaps, np.float64) for gaps in lists]


def _arrivals(path: Path, result: dict[str, Any]) -> ArrivalProcess | None:
    """How requests were sent: at a rate, all at once, or not stated (SGLang: "trace")."""
    rate = result.get("request_rate")
    if rate in ("inf", math.inf):
        return AllAtOnce()
    if rate is None or isinstance(rate, str):
        return None
    burstiness = 1.0 if result.get("burstiness") is None else result["burstiness"]
    if burstiness == math.inf:  # requests at equal distances
        burstiness = MAX_BURSTINESS
    for key, value, least, most in (
        ("request_rate", rate, MIN_RATE, MAX_RATE),
        ("burstiness", burstiness, 1 / MAX_BURSTINESS, MAX_BURSTINESS),
    ):
        if type(value) not in (int, float) or not least <= value <= most:
            raise InputError(f"{path}: {key} = {shown(value)} must be a number from {least:g} to {most:g}; correct it")
    return Gamma(float(rate), cv=float(burstiness) ** -0.5)


def _max_concurrency(path: Path, result: dict[str, Any]) -> int | None:
    limit = result.get("max_concurrency")
    if limit is None:
        return None
    if type(limit) is not int or not 1 <= limit <= MAX_COUNT:
        raise InputError(f"{path}: max_concurrency = {shown(limit)} must be a whole number, at least 1; correct it")
    return limit
