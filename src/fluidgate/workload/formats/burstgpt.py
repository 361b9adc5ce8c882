"""BurstGPT traces (CSV): `Timestamp` in seconds, `Model`, `Request tokens`, `Response tokens`, and more.

Source: github.com/HPMLL/BurstGPT, releases 1 and 2 (six columns) and 3 (with `Session ID` and `Elapsed
time`, which are not used). Columns of timeouts are our addition. A row with 0 response tokens is a request that failed
on BurstGPT's own servers.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fluidgate.workload.core import Workload
from fluidgate.workload.formats._finish import finish
from fluidgate.workload.formats._table import read_table
from fluidgate.workload.logs import drop_failed

COLUMNS = ("Timestamp", "Model", "Request tokens", "Response tokens")


def matches(head: str) -> bool:
    """Whether the file's first characters look like this format."""
    header = head.split("\n", 1)[0]
    return "Timestamp" in header and "Request tokens" in header


def read(path: Path, *, failed: str = "stop") -> tuple[Workload, str]:
    """The workload, one class per model, and a note.

    Args:
        failed: "stop" at a request with 0 response tokens, or "drop" such requests and report how many.

    Errors: InputError at the first line that cannot be parsed or served.
    """
    table = read_table(path, COLUMNS)
    output = table.tokens("Response tokens", least=0)
    bad = output == 0
    keep, remarks = drop_failed(path, failed, bad, f":{np.argmax(bad) + 2}", "Response tokens = 0, a failed request")
    prompt = table.tokens("Request tokens", least=0)
    table.refuse_where((prompt == 0) & keep, "Request tokens", "must be at least 1; correct or remove the line")
    class_id, names = table.labels("Model")
    return finish(
        path,
        table.seconds("Timestamp")[keep],
        prompt[keep],
        output[keep],
        rows=len(table),
        classes=(class_id[keep], names),
        timeouts={name: column[keep] for name, column in table.timeouts().items()},
        remarks=remarks,
    )
