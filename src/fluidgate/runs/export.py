"""Results as files for other tools: one row per load × policy × repeat, under where they come from."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fluidgate.output import replacing, replacing_bytes
from fluidgate.runs.comparison import Comparison

METADATA_KEY = "fluidgate"
"""The key under which a Parquet file's schema carries `provenance` as JSON."""


def rows(comparison: Comparison) -> list[dict[str, Any]]:
    """One row per load, policy and repeat: which run it was, then every field of its `Summary`; NaN is None."""
    return [
        {
            "load": cell.scenario.load,
            "rate": cell.scenario.plan.mix.rate,
            "policy": cell.policy,
            "repeat": repeat,
            **summary.to_dict(),
        }
        for cell in comparison.cells
        for repeat, summary in enumerate(cell.summaries)
    ]


def write_csv(comparison: Comparison, path: str | os.PathLike[str], command: str | None = None) -> Path:
    """`rows` as CSV under comment lines of provenance; `pandas.read_csv(path, comment="#")` reads it.

    Raises:
        InputError: the file cannot be written.
    """
    table = rows(comparison)
    write_table(path, comparison.provenance(command), list(table[0]), (row.values() for row in table))
    return Path(path)


def write_table(
    path: str | os.PathLike[str], about: Mapping[str, Any], names: Sequence[str], table: Iterable[Iterable[Any]]
) -> None:
    """A CSV file: `about` as lines `# key: JSON`, the names, the rows; None is an empty field.

    Raises:
        InputError: the file cannot be written.
    """
    with replacing(path) as file:
        for key, value in about.items():
            file.write(f"# {key}: {json.dumps(value, ensure_ascii=False)}\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(table)


def write_parquet(comparison: Comparison, path: str | os.PathLike[str], command: str | None = None) -> Path:
    """`rows` as Parquet; the schema's metadata carries the provenance under `METADATA_KEY`.

    Raises:
        InputError: the file cannot be written.
    """
    import pyarrow as pa
    from pyarrow import parquet

    about = json.dumps(comparison.provenance(command), ensure_ascii=False)
    table = pa.Table.from_pylist(rows(comparison)).replace_schema_metadata({METADATA_KEY: about})
    with replacing_bytes(path) as file:
        parquet.write_table(table, file)
    return Path(path)
