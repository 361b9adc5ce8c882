"""From the requests of a log to a workload, in the same way for every format of own logs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fluidgate.workload.core import Workload
from fluidgate.workload.formats._finish import finish
from fluidgate.workload.logs import Layout, Log, read_requests


def as_workload(
    path: Path,
    log: Log,
    layout: Layout,
    columns: Mapping[str, str] | None,
    time_unit: str | None,
    failed: str,
    failures: Sequence[str] = (),
    remarks: Sequence[str] = (),
) -> tuple[Workload, str]:
    """The workload and a note; arguments as of `read_requests`, and what else the reader has to say."""
    found = read_requests(log, layout, columns=columns, time_unit=time_unit, failed=failed, failures=failures)
    return finish(
        path,
        found.time_s,
        found.prompt_tokens,
        found.output_tokens,
        rows=found.rows,
        classes=found.classes,
        timeouts=found.timeouts,
        turns=None if found.after is None else (found.after, np.zeros(len(found.after))),
        remarks=[*found.said, *remarks],
    )
