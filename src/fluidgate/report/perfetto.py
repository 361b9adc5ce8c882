"""`write_perfetto`: a run as a trace for ui.perfetto.dev or chrome://tracing (the Trace Event Format, JSON)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from fluidgate.arrays import IntArray
from fluidgate.engine import RunRecords, StepRecords
from fluidgate.errors import InputError
from fluidgate.metrics import batch_entries, evictions
from fluidgate.output import replacing

Event = dict[str, Any]

ENGINE, REQUESTS = 1, 2
"""Process numbers: the engine's iterations and counters, and the requests, a thread each."""

FIRST_REQUESTS = 500


def write_perfetto(
    records: RunRecords,
    path: str | os.PathLike[str],
    about: Mapping[str, Any] | None = None,
    *,
    requests: int = FIRST_REQUESTS,
) -> Path:
    """Write iterations as slices, KV blocks and requests as counters, and the life of the first `requests`.

    Args:
        records: of a run with `record="decisions"`.
        about: JSON-ready values to keep with the trace (`otherData`), such as `runs.provenance`.

    Raises:
        InputError: a run without decisions, or the file cannot be written.
    """
    events = chain(_names(), _iterations(records), _counters(records), _requests(records, requests))
    with replacing(path) as file:
        file.write('{"displayTimeUnit": "ms", "otherData": ' + json.dumps(about or {}) + ', "traceEvents": [\n')
        for index, event in enumerate(events):
            file.write((",\n" if index else "") + json.dumps(event, separators=(",", ":")))
        file.write("\n]}\n")
    return Path(path)


def _names() -> Iterator[Event]:
    for pid, name in ((ENGINE, "engine"), (REQUESTS, "requests")):
        yield {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": name}}
        yield {"ph": "M", "name": "process_sort_index", "pid": pid, "tid": 0, "args": {"sort_index": pid}}
    yield {"ph": "M", "name": "thread_name", "pid": ENGINE, "tid": 1, "args": {"name": "iterations"}}


def _steps(records: RunRecords) -> StepRecords:
    if records.steps is None:
        raise InputError("the iterations of this run were not recorded; run it with record='decisions'")
    return records.steps


def _iterations(records: RunRecords) -> Iterator[Event]:
    steps = _steps(records)
    columns = (steps.scheduled, steps.tokens, steps.preempted)
    for start_s, end_s, *numbers in zip(steps.start_s, steps.end_s, *columns, strict=True):
        batch_size, tokens, preempted = map(int, numbers)
        args = {"batch_size": batch_size, "tokens": tokens, "preempted": preempted}
        yield _slice("iteration", ENGINE, 1, float(start_s), float(end_s), args)


def _counters(records: RunRecords) -> Iterator[Event]:
    """Values after each batch was formed; nothing is resident while the engine is idle."""
    steps = _steps(records)
    used = records.total_blocks - steps.free_blocks
    idle_after = np.r_[steps.start_s[1:] > steps.end_s[:-1], True][: len(steps)]
    for k, start_s in enumerate(steps.start_s.tolist()):
        yield from _counts(start_s, int(used[k]), int(steps.running[k]), int(steps.waiting[k]))
        if idle_after[k]:
            yield from _counts(float(steps.end_s[k]), 0, 0, int(steps.waiting[k]))


def _counts(at_s: float, used: int, residents: int, waiting: int) -> Iterator[Event]:
    for name, value in (("KV blocks", used), ("residents", residents), ("waiting", waiting)):
        yield {"ph": "C", "name": name, "pid": ENGINE, "tid": 0, "ts": _us(at_s), "args": {name: value}}


def _requests(records: RunRecords, most: int) -> Iterator[Event]:
    """One thread per request: queued, prefill, decode, and evicted until it is scheduled again."""
    entries, (victims, when) = batch_entries(records), evictions(records)
    bounds = np.searchsorted(entries.row, np.arange(min(most, len(records)) + 1))
    for row, (low, high) in enumerate(pairwise(bounds.tolist())):
        prompt, output = (int(v[row]) for v in (records.workload.prompt_tokens, records.workload.output_tokens))
        name = f"request {row} ({prompt} prompt, {output} output tokens)"
        yield {"ph": "M", "name": "thread_name", "pid": REQUESTS, "tid": row, "args": {"name": name}}
        iterations, tokens = entries.iteration[low:high], entries.tokens[low:high]
        for span, start_s, end_s in _spans(records, row, iterations, tokens, when[victims == row]):
            yield _slice(span, REQUESTS, row, start_s, end_s, {})


def _spans(
    records: RunRecords, row: int, iterations: IntArray, tokens: IntArray, evicted: IntArray
) -> Iterator[tuple[str, float, float]]:
    """Name, start and end of each phase of a request, end to end from its arrival on."""
    steps = _steps(records)
    phase, since_s = "queued", float(records.arrival_s[row])
    for residency in np.split(np.arange(len(iterations)), np.searchsorted(iterations, evicted)):
        if len(residency) == 0:  # never scheduled, or not again
            continue
        began_s = float(steps.start_s[iterations[residency[0]]])
        yield phase, since_s, began_s
        chunks = residency[tokens[residency] > 1]
        last_chunk = chunks[-1] if len(chunks) else residency[0] if phase == "queued" else None
        if last_chunk is not None:
            decoding_s = float(steps.end_s[iterations[last_chunk]])
            yield "prefill", began_s, decoding_s
            began_s = decoding_s
        last = iterations[residency[-1]]
        evictions_after = evicted[evicted > last]
        since_s = float(steps.start_s[evictions_after[0]] if len(evictions_after) else steps.end_s[last])
        if since_s > began_s:
            yield "decode", began_s, since_s
        phase = "evicted" if len(evictions_after) else "resident"
    if not records.finished[row] and records.end_s > since_s:
        yield phase, since_s, records.end_s


def _slice(name: str, pid: int, tid: int, start_s: float, end_s: float, args: dict[str, int]) -> Event:
    start = _us(start_s)
    return {"ph": "X", "name": name, "pid": pid, "tid": tid, "ts": start, "dur": _us(end_s) - start, "args": args}


def _us(time_s: float) -> float:
    """Microseconds, the format's unit, to a nanosecond."""
    return round(1e6 * time_s, 3)
