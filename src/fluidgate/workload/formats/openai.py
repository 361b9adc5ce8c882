"""Answers of OpenAI's API and of those like it, kept one a line: `created`, and `usage` with its token counts.

Source: platform.openai.com/docs/api-reference/chat/object (`created`: seconds since 1970; `usage.prompt_tokens`,
`usage.completion_tokens`), /responses/object (`created_at`, `usage.input_tokens`, `usage.output_tokens`) and
/batch/request-output (`response.body` holds the answer, `response.status_code` and `error` say whether it is one).
A gateway's own keys around the answer do no harm.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fluidgate.workload.core import Workload
from fluidgate.workload.formats._containers import read_records, records_log
from fluidgate.workload.formats._files import read_text
from fluidgate.workload.formats._log import as_workload
from fluidgate.workload.logs import Layout

_AROUND = ("", "response.", "response.body.", "body.")
LAYOUT = Layout(
    {
        "time": [around + key for key in ("created", "created_at") for around in _AROUND],
        "prompt": [f"{around}usage.{key}" for key in ("prompt_tokens", "input_tokens") for around in _AROUND],
        "output": [f"{around}usage.{key}" for key in ("completion_tokens", "output_tokens") for around in _AROUND],
    },
    unit="s",
)


def matches(head: str) -> bool:
    """Whether the file's first characters look like this format."""
    return head[:1] in ("{", "[") and '"usage"' in head and ('"created"' in head or '"created_at"' in head)


def read(
    path: Path, *, columns: Mapping[str, str] | None = None, time_unit: str | None = None, failed: str = "stop"
) -> tuple[Workload, str]:
    """The workload and a note; options and errors as of `table.read`. An answer with an `error` has failed."""
    records, place = read_records(path, read_text(path))
    log = records_log(path, records, place)
    failures = [_failure(record) for record in records]
    return as_workload(path, log, LAYOUT, columns, time_unit, failed, failures)


def _failure(record: dict[str, Any]) -> str:
    """Why the request was not served; empty if it was."""
    inner = record.get("response")
    answer = inner if isinstance(inner, dict) else {}
    for error in (record.get("error"), answer.get("error")):
        if error:
            return str(error.get("message") or error.get("type") or "error") if isinstance(error, dict) else str(error)
    status = answer.get("status_code", record.get("status_code"))
    return f"status {status}" if isinstance(status, int) and status >= 400 else ""
