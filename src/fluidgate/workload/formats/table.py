"""Any table of requests: CSV with any separator, JSON lines or a JSON list, Parquet, Arrow.

Columns are found by the names of `fluidgate.workload.logs.names`, or named by the user.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fluidgate.workload.core import Workload
from fluidgate.workload.formats._containers import read_log
from fluidgate.workload.formats._log import as_workload
from fluidgate.workload.logs import Layout


def matches(head: str) -> bool:
    """Every file that no other format knows."""
    return bool(head)


def read(
    path: Path, *, columns: Mapping[str, str] | None = None, time_unit: str | None = None, failed: str = "stop"
) -> tuple[Workload, str]:
    """The workload and a note.

    Args:
        columns: names of columns by what they are (time, prompt, output, class, session, timeout, ttft_timeout), where
            they are not found by their names; "none": the file has no such column.
        time_unit: "s", "ms", "us" or "ns", of times that are numbers.
        failed: "stop" at a request without output, or "drop" such requests and report how many.

    Errors: InputError that names the line or row; for a column that is not found, which were, and a command that would
    do.
    """
    return as_workload(path, read_log(path), Layout(), columns, time_unit, failed)
