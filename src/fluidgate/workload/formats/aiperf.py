"""Records of aiperf (JSON lines): `profile_export.jsonl`, with `metadata` and `metrics` of one request a line.

Source: github.com/ai-dynamo/aiperf, docs/tutorials/working-with-profile-exports.md. Used: `request_start_ns` and
`request_end_ns` (nanoseconds since 1970), `was_cancelled`, `input_sequence_length` and `output_sequence_length`
(tokens), `time_to_first_token`, `request_latency` and `inter_chunk_latency` (ms), and `error`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.bounds import MAX_SECONDS
from fluidgate.jsonfile import JsonObject
from fluidgate.workload.core import Workload
from fluidgate.workload.formats._benchmark import BenchmarkRun, as_workload, chosen
from fluidgate.workload.formats._files import json_line, read_text

UNITS_S = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0}
MAX_NS = int(1e9 * MAX_SECONDS)


def matches(head: str) -> bool:
    """Whether the file's first characters look like this format."""
    return head.startswith("{") and '"request_start_ns"' in head.split("\n", 1)[0]


def read(path: Path, *, failed: str = "stop") -> tuple[Workload, str]:
    """The workload as it was sent, with the output lengths that came back, and a note.

    Args:
        failed: "stop" at a request that failed or was cancelled, or "drop" such requests and report how many.

    Errors: InputError at the first line that cannot be used.
    """
    return as_workload(path, chosen(path, runs(path), None, ""), failed, None)


def runs(path: Path) -> list[BenchmarkRun]:
    """The one run of the file, with the times at which its requests were served."""
    lines = enumerate(read_text(path).split("\n"), 1)
    rows = [_Row.of(JsonObject(json_line(path, number, line), f"{path}:{number}")) for number, line in lines]
    earliest_ns = min(row.start_ns for row in rows)
    return [
        BenchmarkRun(
            prompt_tokens=np.array([row.prompt_tokens for row in rows]),
            output_tokens=np.array([row.output_tokens for row in rows]),
            start_s=np.array([(row.start_ns - earliest_ns) / 1e9 for row in rows]),
            ttft_s=np.array([row.ttft_s for row in rows]),
            e2e_s=np.array([row.e2e_s for row in rows]),
            failure=[row.failure for row in rows],
            place=lambda row: f":{row + 1}",
            gaps_s=[row.gaps_s for row in rows],
        )
    ]


@dataclass(frozen=True, eq=False)
class _Row:
    """One request."""

    prompt_tokens: float
    output_tokens: float
    start_ns: int
    ttft_s: float
    e2e_s: float
    gaps_s: FloatArray
    failure: str

    @classmethod
    def of(cls, record: JsonObject) -> _Row:
        about = record.object("metadata")
        failure = _failure(record, about)
        metrics = record.object("metrics") if record.has("metrics") or not failure else None
        start_ns = about.integer("request_start_ns", at_least=0, at_most=MAX_NS)
        e2e_s = _seconds(metrics, "request_latency")
        if math.isnan(e2e_s) and about.has("request_end_ns"):
            e2e_s = (about.integer("request_end_ns", at_least=0, at_most=MAX_NS) - start_ns) / 1e9
        return cls(
            prompt_tokens=_tokens(metrics, "input_sequence_length", failure),
            output_tokens=_tokens(metrics, "output_sequence_length", failure),
            start_ns=start_ns,
            ttft_s=_seconds(metrics, "time_to_first_token"),
            e2e_s=e2e_s,
            gaps_s=_gaps_s(metrics),
            failure=failure,
        )


def _failure(record: JsonObject, about: JsonObject) -> str:
    """Why the request was not served; empty if it was."""
    if record.has("error"):
        error = record.values["error"]
        return str(error.get("type") or "error") if isinstance(error, dict) else str(error)
    return "cancelled" if about.flag("was_cancelled", default=False) else ""


def _tokens(metrics: JsonObject | None, name: str, failure: str) -> float:
    """A length; 0 where a failed request has none."""
    if failure and (metrics is None or not metrics.has(name)):
        return 0.0
    assert metrics is not None
    return metrics.object(name).number("value")


def _seconds(metrics: JsonObject | None, name: str) -> float:
    """A latency; NaN where there is none."""
    if metrics is None or not metrics.has(name):
        return math.nan
    metric = metrics.object(name)
    return metric.number("value", at_most=MAX_NS) * _unit_s(metric)


def _gaps_s(metrics: JsonObject | None) -> FloatArray:
    """Times between the parts of the answer; empty where there are none."""
    if metrics is None or not metrics.has("inter_chunk_latency"):
        return np.zeros(0)
    metric = metrics.object("inter_chunk_latency")
    if metric.values.get("value") == []:
        return np.zeros(0)
    return metric.numbers("value", at_most=MAX_NS) * _unit_s(metric)


def _unit_s(metric: JsonObject) -> float:
    unit = metric.text("unit")
    if unit not in UNITS_S:
        raise metric.error("unit", f"= {unit!r:.40} is not one of {', '.join(UNITS_S)}")
    return UNITS_S[unit]
