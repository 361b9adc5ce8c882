"""What the results of load generators have in common: runs of requests, with the times at which each was served."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import numpy as np

from fluidgate.arrays import BoolArray, FloatArray
from fluidgate.bounds import MAX_COUNT
from fluidgate.errors import InputError
from fluidgate.workload._random import random_streams
from fluidgate.workload.arrivals import AllAtOnce, ArrivalProcess
from fluidgate.workload.core import Workload
from fluidgate.workload.formats._finish import finish
from fluidgate.workload.logs import arrival_order, drop_failed
from fluidgate.workload.timings import MeasuredRun, Timings

CLOCK_SLACK_S = 1e-6
"""By which a last token may come before the first: clocks are rounded."""


@dataclass(frozen=True, eq=False)
class BenchmarkRun:
    """One run of a load generator as its file tells it; arrays of shape (n,), in the order of the file.

    Attributes:
        prompt_tokens, output_tokens: lengths; any number where the request failed.
        start_s: when it was sent, on any clock; None where the file does not say.
        ttft_s, e2e_s: from then to its first and to its last token; NaN where the file does not say.
        failure: why it failed, and empty where it was served.
        place: of a request by its row, as an error names it after the file's name.
        gaps_s: times between its tokens; None where the file does not say.
        arrivals: how the file says that requests were sent; None where it does not.
        max_concurrency: most requests in flight; None: no limit.
        remarks: on the run, for the note.
    """

    prompt_tokens: FloatArray
    output_tokens: FloatArray
    start_s: FloatArray | None
    ttft_s: FloatArray
    e2e_s: FloatArray
    failure: list[str]
    place: Callable[[int], str]
    gaps_s: list[FloatArray] | None = None
    arrivals: ArrivalProcess | None = None
    max_concurrency: int | None = None
    remarks: tuple[str, ...] = ()

    def served(self, path: Path, failed: str) -> tuple[BoolArray, list[str]]:
        """The requests to keep, whose lengths are whole numbers, and what to say of the others."""
        bad = np.array([bool(why) for why in self.failure]) | (self.output_tokens == 0)
        first = int(np.argmax(bad))
        why = f"failed ({self.failure[first] or 'no output'!s:.80})" if bad.any() else ""
        keep, remarks = drop_failed(path, failed, bad, self.place(first), why)
        for key, values in (("prompt", self.prompt_tokens), ("output", self.output_tokens)):
            wrong = keep & ~((values >= 1) & (values <= MAX_COUNT) & (values == np.floor(values)))
            if wrong.any():
                row = int(np.argmax(wrong))
                what = f"{values[row]:g} {key} tokens are not a whole number, at least 1"
                raise InputError(f"{path}{self.place(row)}: {what}; correct or remove it")
        return keep, remarks


def several(path: Path, count: int, by: str) -> NoReturn:
    """Stop at a file of several runs of which none was chosen; `by` says what wrote it so."""
    raise InputError(f"{path}: holds {count} runs{by}: choose one of them, --run 1 to --run {count}")


def chosen(path: Path, runs: list[BenchmarkRun], run: int | None, by: str) -> BenchmarkRun:
    """The run with this number, from 1; the only one if None."""
    if run is None:
        return runs[0] if len(runs) == 1 else several(path, len(runs), by)
    if not 1 <= run <= len(runs):
        raise InputError(f"{path}: has no run {run}: it holds {len(runs)}{by}")
    return runs[run - 1]


def as_workload(path: Path, run: BenchmarkRun, failed: str, seed: int | None) -> tuple[Workload, str]:
    """The requests as they were sent, with the output lengths that came back, and a note.

    With a limit on requests in flight they are a closed loop: where the client sent as many as it could, all are there
    from the beginning.

    Args:
        failed: "stop" or "drop".
        seed: of arrivals that the file does not hold but describes; None: none are drawn.
    """
    keep, remarks = run.served(path, failed)
    remarks = [*run.remarks, *remarks]
    start_s = None if run.start_s is None else run.start_s[keep]
    if start_s is None and run.arrivals is not None and not isinstance(run.arrivals, AllAtOnce) and seed is not None:
        start_s = run.arrivals.sample(int(keep.sum()), np.random.default_rng(*random_streams(seed, 1)))
        remarks.append(f"no arrival times in the file: drawn as it says, from {run.arrivals}, with seed {seed}")
    if run.max_concurrency is not None:
        remarks.append(f"at most {run.max_concurrency:,} requests in flight, as the client had")
    workload, note = finish(
        path,
        start_s,
        run.prompt_tokens[keep].astype(np.int64),
        run.output_tokens[keep].astype(np.int64),
        rows=len(keep),
        remarks=remarks,
    )
    return _offered(workload, run), note


def _offered(workload: Workload, run: BenchmarkRun) -> Workload:
    """The requests as the client would send them to another server: when there is a place for them, where it waited."""
    if run.max_concurrency is None:
        return workload
    at_once = isinstance(run.arrivals, AllAtOnce)
    arrival_s = np.zeros(len(workload)) if at_once else workload.arrival_s
    return replace(workload, arrival_s=arrival_s, concurrency=run.max_concurrency)


def as_measured(path: Path, run: BenchmarkRun, failed: str, name: str) -> MeasuredRun:
    """The requests, and the times at which they were served.

    Raises:
        InputError: no start times, and none that follow from a closed loop; no time to first token; a request that
            ends before it begins.
    """
    keep, remarks = run.served(path, failed)
    remarks = [*run.remarks, *remarks]
    for what, values in (("time to first token", run.ttft_s), ("end", run.e2e_s)):
        missing = keep & np.isnan(values)
        if missing.any():
            where = f"{path}{run.place(int(np.argmax(missing)))}"
            raise InputError(
                f"{where}: no {what}; run the benchmark with streaming, and keep the times of each request"
            )
    early = keep & ((run.ttft_s <= 0) | (run.e2e_s < run.ttft_s - CLOCK_SLACK_S))
    if early.any():
        row = int(np.argmax(early))
        what = f"its first token after {run.ttft_s[row]:g} s and its last after {run.e2e_s[row]:g} s"
        raise InputError(f"{path}{run.place(row)}: {what}; remove the request, or run the benchmark again")
    start_s = run.start_s[keep] if run.start_s is not None else _sent_s(path, run, keep, remarks)
    if run.max_concurrency is not None and run.start_s is not None:
        remarks.append(f"at most {run.max_concurrency:,} in flight: requests arrive as replies come")
    prompt, output = (values[keep].astype(np.int64) for values in (run.prompt_tokens, run.output_tokens))
    workload, note = finish(path, start_s, prompt, output, rows=len(keep), remarks=remarks)
    order = arrival_order(start_s)[0]
    rows = np.flatnonzero(keep)[order]
    timings = Timings(
        arrival_s=workload.arrival_s,
        first_token_s=workload.arrival_s + run.ttft_s[rows],
        last_token_s=workload.arrival_s + np.maximum(run.e2e_s, run.ttft_s)[rows],
        output_tokens=workload.output_tokens,
        gaps_s=None if run.gaps_s is None else tuple(run.gaps_s[row] for row in rows),
    )
    offered = _offered(workload, run)
    return MeasuredRun(workload=offered, timings=timings, name=name, max_concurrency=run.max_concurrency, note=note)


def _sent_s(path: Path, run: BenchmarkRun, keep: BoolArray, remarks: list[str]) -> FloatArray:
    """When requests without start times were sent: all at once, or as soon as one of those in flight ended."""
    if not isinstance(run.arrivals, AllAtOnce):
        raise InputError(
            f"{path}: no arrival times in the file, and they do not follow from the rest; run the benchmark with a "
            "newer version, which saves when each request was sent, or with --request-rate inf"
        )
    count = int(keep.sum())
    if run.max_concurrency is None or run.max_concurrency >= count:
        remarks.append("no arrival times in the file: all were sent at once")
        return np.zeros(count)
    remarks.append(
        f"no arrival times in the file: each request was sent when one of {run.max_concurrency:,} in flight ended"
    )
    start_s, in_flight = np.zeros(count), list[float]()
    for i, e2e_s in enumerate(run.e2e_s[keep].tolist()):
        start_s[i] = heapq.heappop(in_flight) if i >= run.max_concurrency else 0.0
        heapq.heappush(in_flight, start_s[i] + e2e_s)
    return start_s
