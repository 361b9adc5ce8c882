"""Spend logs of LiteLLM: the table `LiteLLM_SpendLogs` as CSV, Parquet or JSON, and the answers of `/spend/logs`.

Source: docs.litellm.ai/docs/proxy/cost_tracking and litellm/proxy/schema.prisma: `startTime` (a date with time, UTC),
`prompt_tokens`, `completion_tokens`, `status` ("success" or "failure") and `call_type`, of which embeddings, images and
others that generate no text are no requests here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fluidgate.workload.core import Workload
from fluidgate.workload.formats._containers import read_log
from fluidgate.workload.formats._log import as_workload
from fluidgate.workload.logs import Layout

LAYOUT = Layout({"time": ["startTime"], "prompt": ["prompt_tokens"], "output": ["completion_tokens"]})
OTHERS = ("embedding", "image", "transcription", "speech", "moderation", "rerank", "search", "file", "batch")
"""In the `call_type` of calls that generate no text."""


def matches(head: str) -> bool:
    """Whether the file's first characters look like this format."""
    start = head if head[:1] in ("{", "[") else head.split("\n", 1)[0]
    return all(key in start for key in ("startTime", "completion_tokens")) and (
        "call_type" in start or "spend" in start
    )


def read(
    path: Path, *, columns: Mapping[str, str] | None = None, time_unit: str | None = None, failed: str = "stop"
) -> tuple[Workload, str]:
    """The workload and a note; options and errors as of `table.read`. A row whose `status` is no success has failed."""
    log = read_log(path)
    kinds = log.texts("call_type")
    other = [any(word in kind.lower() for word in OTHERS) for kind in kinds]
    log, said = log.without(other, "calls that generate no text")
    failures = [f"status {status}" if status.lower() in ("failure", "error") else "" for status in log.texts("status")]
    return as_workload(path, log, LAYOUT, columns, time_unit, failed, failures, said)
