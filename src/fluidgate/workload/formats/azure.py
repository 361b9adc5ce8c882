"""Azure LLM inference traces, 2023 and 2024 (CSV).

Source: github.com/Azure/AzurePublicDataset. `TIMESTAMP` is ISO 8601 with up to nine fractional digits (2023:
seven, 2024: six and `+00:00`), then `ContextTokens` and `GeneratedTokens`. Columns of timeouts are our addition.
"""

from __future__ import annotations

from pathlib import Path

from fluidgate.workload.core import Workload
from fluidgate.workload.formats._finish import finish
from fluidgate.workload.formats._table import read_table

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


def matches(head: str) -> bool:
    """Whether the file's first characters look like this format."""
    return "ContextTokens" in head.split("\n", 1)[0]


def read(path: Path) -> tuple[Workload, str]:
    """The workload and a note. Errors: InputError at the first line that cannot be parsed."""
    table = read_table(path, COLUMNS)
    clock_ns = table.nanoseconds("TIMESTAMP")
    # Subtract before dividing: nanoseconds since 1970 do not fit a float.
    arrival_s = (clock_ns - clock_ns.min()) / 1e9
    prompt, output = table.tokens("ContextTokens"), table.tokens("GeneratedTokens")
    return finish(path, arrival_s, prompt, output, rows=len(table), timeouts=table.timeouts())
