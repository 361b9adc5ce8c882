"""Spans of OpenTelemetry's semantic conventions for generative AI, as JSON: OTLP's export, or one span a line.

Source: opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans (`gen_ai.usage.input_tokens`,
`gen_ai.usage.output_tokens`, cached tokens included; before 1.27 `prompt_tokens` and `completion_tokens`;
`gen_ai.operation.name`) and opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding (`resourceSpans`, attributes as
keys and typed values, `startTimeUnixNano` as text). Spans of other operations, and those without token counts, are no
requests; a status ERROR is a failed one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fluidgate.errors import InputError
from fluidgate.workload.core import Workload
from fluidgate.workload.formats._containers import read_records, records_log
from fluidgate.workload.formats._files import read_text
from fluidgate.workload.formats._log import as_workload
from fluidgate.workload.logs import Layout

USAGE = "gen_ai.usage."
LAYOUT = Layout(
    {
        "time": ["startTimeUnixNano", "start_time_unix_nano", "startTime", "start_time"],
        "prompt": [f"{USAGE}input_tokens", f"{USAGE}prompt_tokens"],
        "output": [f"{USAGE}output_tokens", f"{USAGE}completion_tokens"],
    }
)
OTHERS = ("embeddings", "execute_tool", "invoke_agent", "create_agent", "invoke_workflow", "retrieval")
ERRORS = ("2", "ERROR", "STATUS_CODE_ERROR", "StatusCode.ERROR")

Span = dict[str, Any]
Place = Callable[[int], str]


def matches(head: str) -> bool:
    """Whether the file's first characters look like this format."""
    return head[:1] in ("{", "[") and ('"resourceSpans"' in head or '"gen_ai.' in head)


def read(
    path: Path, *, columns: Mapping[str, str] | None = None, time_unit: str | None = None, failed: str = "stop"
) -> tuple[Workload, str]:
    """The workload and a note; options and errors as of `table.read`."""
    records, place = read_records(path, read_text(path))
    rows, places, others = list[Span](), list[str](), 0
    for number, record in enumerate(records):
        for span in _spans(path, record, place(number)):
            row = _plain(span)
            if _is_request(row):
                rows.append(row)
                places.append(place(number))
            else:
                others += 1
    if not rows:
        raise InputError(f"{path}: no span with {USAGE}input_tokens among {others:,}; export the spans of model calls")
    several = len(rows) > len(set(places))
    log = records_log(path, rows, lambda row: f"{places[row]}{f', request {row + 1}' if several else ''}")
    failures = ["status ERROR" if row.get("status") == "ERROR" else "" for row in rows]
    said = [f"{others:,} spans of other kinds left out"] if others else []
    return as_workload(path, log, LAYOUT, columns, time_unit, failed, failures, said)


def _is_request(row: Span) -> bool:
    """Whether the span is a call that generates text: it has token counts, or failed before it had."""
    operation = row.get("gen_ai.operation.name")
    counted = any(key.startswith(USAGE) for key in row)
    return operation not in OTHERS and (counted or (operation is not None and row.get("status") == "ERROR"))


def _spans(path: Path, record: Span, place: str) -> Iterator[Span]:
    """The spans of an export, or the span that the object is."""
    if "resourceSpans" not in record:
        yield record
        return
    for resource in _objects(path, record["resourceSpans"], "resourceSpans", place):
        for scope in _objects(path, resource.get("scopeSpans", []), "scopeSpans", place):
            yield from _objects(path, scope.get("spans", []), "spans", place)


def _objects(path: Path, value: Any, key: str, place: str) -> list[Span]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise InputError(f"{path}{place}: {key} is not a list of objects; write the export again, as OTLP's JSON")
    return value


def _plain(span: Span) -> Span:
    """Start, attributes and status of a span as one flat row."""
    attributes = span.get("attributes")
    if isinstance(attributes, list):  # OTLP: {"key": …, "value": {"intValue": "12"}}
        typed = {item.get("key"): item.get("value") for item in attributes if isinstance(item, dict)}
        attributes = {
            key: next(iter(value.values()), None) if isinstance(value, dict) else value for key, value in typed.items()
        }
    row = {key: span[key] for key in LAYOUT.columns["time"] if key in span}
    for source in (span, attributes if isinstance(attributes, dict) else {}):
        row |= {key: value for key, value in source.items() if isinstance(key, str) and key.startswith("gen_ai.")}
    if _failed(span):
        row["status"] = "ERROR"
    return {key: value for key, value in row.items() if not isinstance(value, dict | list)}


def _failed(span: Span) -> bool:
    status = span.get("status")
    code = status.get("code", status.get("status_code")) if isinstance(status, dict) else status
    return str(code) in ERRORS
