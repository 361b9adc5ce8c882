"""Observations of Langfuse: exports of its UI, its API and its blob storage, as CSV, JSON, JSON lines or Parquet.

Source: langfuse.com/docs/api-and-data-platform/features/blob-storage-export-fields (`start_time`, `usage_details`,
`type`, `level`) and the observations API (`startTime`, `usageDetails`, `usage`; before 2024 `promptTokens`,
`completionTokens`). Usage types may be any; as in Langfuse's UI, those whose name has "input" in it make up the prompt,
cached tokens among them, and those with "output" the answer
(langfuse.com/docs/observability/features/token-and-cost-tracking). Only generations are requests.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fluidgate.jsonfile import decode
from fluidgate.workload.core import Workload
from fluidgate.workload.formats._containers import read_log
from fluidgate.workload.formats._log import as_workload
from fluidgate.workload.logs import Layout, Log

USAGE = ("usageDetails", "usage_details", "provided_usage_details", "usage")
"""Objects of token counts by usage type, the best first; in CSV their JSON."""
PROMPT, OUTPUT = "usage with input", "usage with output"
LAYOUT = Layout(
    {
        "time": ["startTime", "start_time", "Start Time"],
        "prompt": [PROMPT, "promptTokens", "inputUsage", "inputTokens", "Input Tokens"],
        "output": [OUTPUT, "completionTokens", "outputUsage", "outputTokens", "Output Tokens"],
    }
)


def matches(head: str) -> bool:
    """Whether the file's first characters look like this format."""
    json_keys = head[:1] in ("{", "[")
    start = head if json_keys else head.split("\n", 1)[0]

    def has(*keys: str) -> bool:
        return any((f'"{key}"' if json_keys else key) in start for key in keys)

    counted = has(*USAGE[:2], *LAYOUT.columns["prompt"][1:])
    return has("traceId", "trace_id", "Trace ID") and counted and has(*LAYOUT.columns["time"])


def read(
    path: Path, *, columns: Mapping[str, str] | None = None, time_unit: str | None = None, failed: str = "stop"
) -> tuple[Workload, str]:
    """The workload and a note; options and errors as of `table.read`. An observation of level ERROR has failed."""
    log = read_log(path)
    kinds = log.texts("type")
    log, said = log.without([kind.upper() != "GENERATION" for kind in kinds], "observations that are no generations")
    failures = ["level ERROR" if level.upper() == "ERROR" else "" for level in log.texts("level")]
    return as_workload(path, _with_usage(log), LAYOUT, columns, time_unit, failed, failures, said)


def _with_usage(log: Log) -> Log:
    """The log with the sums of its usage types as two columns, where it has usage types."""
    details = next((_details(log, name) for name in USAGE if _has(log, name)), None)
    if details is None:
        return log
    sums = {PROMPT: [_sum(usage, "input") for usage in details], OUTPUT: [_sum(usage, "output") for usage in details]}
    return log.joined(sums)


def _has(log: Log, name: str) -> bool:
    return name in log.names or any(column.startswith(f"{name}.") for column in log.names)


def _details(log: Log, name: str) -> list[dict[str, Any]]:
    """The object of usage types of every row."""
    inner = [column for column in log.names if column.startswith(f"{name}.")]
    if inner:
        loaded = {column: log.columns([column])[column].values.to_pylist() for column in inner}
        return [
            {column.removeprefix(f"{name}."): values[row] for column, values in loaded.items()}
            for row in range(len(loaded[inner[0]]))
        ]
    return [_decoded(text) for text in log.texts(name)]


def _decoded(text: str) -> dict[str, Any]:
    try:
        value = decode(text) if text.startswith("{") else {}
    except (json.JSONDecodeError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _sum(usage: dict[str, Any], word: str) -> float | None:
    """Tokens of the usage types whose name has `word` in it; None if there are none."""
    kinds = [kind for kind in usage if word in kind.lower() and "cost" not in kind.lower()]
    counts = [usage[kind] for kind in kinds if type(usage[kind]) in (int, float)]
    return sum(counts) if counts else None
