"""Results as files for other tools: where they come from, and one row per load × policy × repeat."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluidgate.hardware import Hardware
from fluidgate.jsonfile import plain
from fluidgate.output import replacing, replacing_bytes
from fluidgate.version import version
from fluidgate.workload import Workload

if TYPE_CHECKING:
    from fluidgate.runs.comparison import Comparison

METADATA_KEY = "fluidgate"
"""The key under which a Parquet file's schema carries `provenance` as JSON."""


def provenance(
    workload: Workload, hardware: Hardware, *, seed: int, command: str | None = None, **settings: Any
) -> dict[str, Any]:
    """What every result file says of itself: version, command, seed, hardware, and the workload by its hash."""
    described = {"name": workload.name, "digest": workload.digest, "requests": len(workload)}
    return _provenance(described, hardware, seed, command, settings)


def comparison_provenance(comparison: Comparison, command: str | None = None) -> dict[str, Any]:
    """The same of a comparison, with its engine, repeats and baseline; the workload is the first repeat's."""
    described = {
        "name": comparison.workload_name,
        "digest": comparison.workload_digest,
        "requests": comparison.requests,
    }
    settings = {
        "config": asdict(comparison.config),
        "slo": comparison.slo and asdict(comparison.slo),
        "repeats": comparison.repeats,
        "baseline": comparison.baseline,
        "replicas": comparison.fleet.replicas,
        "router": comparison.fleet.router,
    }
    return _provenance(described, comparison.hardware, comparison.seed, command, settings)


def _provenance(
    workload: dict[str, Any], hardware: Hardware, seed: int, command: str | None, settings: dict[str, Any]
) -> dict[str, Any]:
    return {
        "fluidgate": version(),
        "command": command,
        "seed": seed,
        "hardware": plain(hardware, finite=True),
        "workload": workload,
        **settings,
    }


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
    write_table(path, comparison_provenance(comparison, command), list(table[0]), (row.values() for row in table))
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

    about = json.dumps(comparison_provenance(comparison, command), ensure_ascii=False)
    table = pa.Table.from_pylist(rows(comparison)).replace_schema_metadata({METADATA_KEY: about})
    with replacing_bytes(path) as file:
        parquet.write_table(table, file)
    return Path(path)
