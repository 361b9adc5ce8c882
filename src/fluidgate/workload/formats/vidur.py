"""Vidur's trace format (CSV): `arrived_at` in seconds, `num_prefill_tokens`, `num_decode_tokens`.

Source: github.com/microsoft/vidur, `data/processed_traces`. Without `arrived_at` it is a table of lengths. A
column `class`, our addition, names each request's class, `timeout_s` and `ttft_timeout_s` say how long its client waits
for the last and for the first token, and `first_token_at` and `last_token_at` make it a measured run (`runs`). Other
columns are named in the note and not used.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from fluidgate.errors import InputError
from fluidgate.workload.core import TIMEOUTS, Workload
from fluidgate.workload.formats._benchmark import BenchmarkRun
from fluidgate.workload.formats._files import write_text
from fluidgate.workload.formats._finish import finish
from fluidgate.workload.formats._table import read_table

LENGTHS = ("num_prefill_tokens", "num_decode_tokens")
OPTIONAL = ("arrived_at", "class")
SERVED = ("first_token_at", "last_token_at")


def matches(head: str) -> bool:
    """Whether the file's first characters look like this format."""
    return "num_prefill_tokens" in head.split("\n", 1)[0]


def read(path: Path) -> tuple[Workload, str]:
    """The workload and a note. Errors: InputError at the first line that cannot be parsed."""
    table = read_table(path, LENGTHS, OPTIONAL)
    arrival_s = table.seconds("arrived_at") if "arrived_at" in table.columns else None
    unused = [name for name in table.names if name not in table.columns]
    return finish(
        path,
        arrival_s,
        table.tokens("num_prefill_tokens"),
        table.tokens("num_decode_tokens"),
        rows=len(table),
        classes=table.labels("class") if "class" in table.columns else None,
        timeouts=table.timeouts(),
        remarks=[f"columns not used: {', '.join(unused)}"] if unused else [],
    )


def runs(path: Path) -> list[BenchmarkRun]:
    """The one run of a table with the columns of `SERVED`, in seconds on the clock of `arrived_at`.

    Raises:
        InputError: a column is missing, or a value is not a number.
    """
    table = read_table(path, (*LENGTHS, "arrived_at", *SERVED), ("class",))
    arrival_s, first_s, last_s = (table.seconds(name) for name in ("arrived_at", *SERVED))
    return [
        BenchmarkRun(
            prompt_tokens=table.tokens("num_prefill_tokens").astype(np.float64),
            output_tokens=table.tokens("num_decode_tokens").astype(np.float64),
            start_s=arrival_s,
            ttft_s=first_s - arrival_s,
            e2e_s=last_s - arrival_s,
            failure=[""] * len(table),
            place=lambda row: f":{row + 2}",
        )
    ]


def write_vidur(workload: Workload, path: str | Path) -> None:
    """Write the workload as Vidur's CSV, gzipped when `path` ends in `.gz`.

    Times keep every bit. A class column is written when there is more than one class, and columns of timeouts where
    clients give up. The format has no place for prefix ids: use `write_mooncake` to keep them. Errors: InputError when
    the file cannot be written, and for sessions, for which it has no place either.
    """
    if workload.has_sessions:
        raise InputError("the Vidur format has no place for sessions; name the file .jsonl, for Mooncake's")
    import pyarrow as pa
    import pyarrow.csv as pv

    columns = {
        "arrived_at": workload.arrival_s,
        "num_prefill_tokens": workload.prompt_tokens,
        "num_decode_tokens": workload.output_tokens,
    }
    if len(workload.class_names) > 1:
        columns["class"] = np.array(workload.class_names)[workload.class_id]
    if workload.gives_up:
        columns |= {name: getattr(workload, name) for name in TIMEOUTS}
    out = io.BytesIO()
    pv.write_csv(pa.table(columns), out, pv.WriteOptions(quoting_style="needed"))
    write_text(Path(path), out.getvalue().decode())
