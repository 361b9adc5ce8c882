"""Logs out of files: CSV with any separator, JSON lines, a JSON list, Parquet and Arrow, told from the content."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fluidgate.bounds import MAX_REQUESTS
from fluidgate.errors import InputError
from fluidgate.workload.formats._files import MAX_BYTES, json_document, json_line, read_bytes, read_text, refuse
from fluidgate.workload.logs import Log, table_log
from fluidgate.workload.logs.columns import array_of, flattened

SEPARATORS = (",", ";", "\t", "|")
PARQUET, ARROW = b"PAR1", b"ARROW1"
_LINES = 5
"""Of a CSV file, that a separator must split alike."""

_LARGEST_BLOCK = 2**30
_WRAPPERS = ("data", "items", "rows", "records", "logs", "requests", "observations")

Record = dict[str, Any]


def read_log(path: Path) -> Log:
    """The log in the file. Errors: InputError for a file that is none of the kinds, or is damaged or empty."""
    start = read_bytes(path, 6)
    if start[:4] == PARQUET:
        return _parquet_log(path, read_bytes(path))
    if start == ARROW:
        return _arrow_log(path, read_bytes(path))
    text = read_text(path)
    if text.lstrip()[:1] in ("{", "["):
        return records_log(path, *read_records(path, text))
    return _csv_log(path, text)


def read_records(path: Path, text: str) -> tuple[list[Record], Callable[[int], str]]:
    """The JSON objects of a file, and the place of each: lines, a list, or the one list in an object.

    Errors: InputError that names the line or the row.
    """
    lines = text.split("\n")
    if text.startswith("{") and (len(lines) == 1 or lines[0].rstrip().endswith("}")):
        rows = [json_line(path, number, line) for number, line in enumerate(lines, 1)]
        if len(rows) > 1 or _only_list(rows[0]) is None:
            return rows, lambda row: f":{row + 1}"
        found: Any = _only_list(rows[0])
    else:
        document = json_document(path, text)
        if not isinstance(document, dict | list):
            raise InputError(f"{path}: holds a single value; give a JSON object per request")
        wrapped = document if isinstance(document, list) else _only_list(document)
        found = [document] if wrapped is None else wrapped
    if not found:
        refuse(path, 1, "an empty list; give a log with at least one request")
    for number, record in enumerate(found, 1):
        if not isinstance(record, dict):
            raise InputError(f"{path}: row {number}: is not a JSON object; write one object per request")
    return found, lambda row: f": row {row + 1}"


def records_log(path: Path, records: list[Record], place: Callable[[int], str]) -> Log:
    """The log of these objects; a key inside an object is a column `outer.inner`, and lists are left out."""
    columns: dict[str, list[Any]] = {}
    for row, record in enumerate(records):
        for name, value in _flat(record, ""):
            values = columns.setdefault(name, [])
            values += [None] * (row - len(values))
            values.append(value)
    for values in columns.values():
        values += [None] * (len(records) - len(values))
    return Log(path, tuple(columns), place, lambda wanted: {name: array_of(columns[name]) for name in wanted})


def _flat(record: Record, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in record.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif not isinstance(value, list):
            yield prefix + key, value


def _only_list(record: Record) -> list[Any] | None:
    """The list that the object wraps, as the answer of an API does; None if it is a request itself."""
    lists = [record[key] for key in _WRAPPERS if isinstance(record.get(key), list)]
    return lists[0] if len(lists) == 1 else None


def _parquet_log(path: Path, content: bytes) -> Log:
    """Reads only the columns that are wanted: prompts may be in others."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _undamaged(path, "Parquet"):
        file = pq.ParquetFile(pa.BufferReader(content))
        size = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
        _check_rows(path, file.metadata.num_rows, size)
        names = tuple(flattened(file.schema_arrow.empty_table()).column_names)

    def load(wanted: Sequence[str]) -> dict[str, Any]:
        outer = [name for name in file.schema_arrow.names if any(f"{w}.".startswith(f"{name}.") for w in wanted)]
        with _undamaged(path, "Parquet"):
            # One thread, as for CSV: a process that ends at once must not end while the library starts others.
            table = flattened(file.read(columns=outer, use_threads=False))
        return {name: table[name] for name in wanted}

    return Log(path, names, lambda row: f": row {row + 1}", load)


def _arrow_log(path: Path, content: bytes) -> Log:
    import pyarrow as pa
    import pyarrow.feather as pf

    with _undamaged(path, "Arrow"):
        table = pf.read_table(pa.BufferReader(content), use_threads=False)
    _check_rows(path, table.num_rows, table.nbytes)
    return table_log(path, table)


@contextmanager
def _undamaged(path: Path, kind: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError, MemoryError) as error:
        raise InputError(f"{path}: a damaged {kind} file ({error!s:.100}); write it again") from None


def _check_rows(path: Path, rows: int, size: int) -> None:
    if rows == 0:
        raise InputError(f"{path}: a table without rows; give a log with at least one request")
    if rows > MAX_REQUESTS or size > MAX_BYTES:
        raise InputError(f"{path}: holds {rows:,} rows of {size / 2**30:.1f} GiB; give a part of the log")


def _csv_log(path: Path, text: str) -> Log:
    header, _, body = text.partition("\n")
    separator = _separator(text)
    if separator is None:
        start = header[:60]
        refuse(path, 1, f"{start!r} is no header of a table, and no JSON; give a table with a header, or name a format")
    names = tuple(name.strip() for name in _fields(header, separator))
    if any(name.replace(".", "", 1).isdigit() for name in names):
        refuse(path, 1, "values where a header should be; put one above them, such as time,prompt,output")
    if not body.strip():
        refuse(path, 1, "a header and no rows; give a log with at least one request")
    if '"' not in body and "\n\n" in f"\n{body}":
        refuse(path, f"\n{body}".split("\n\n")[0].count("\n") + 2, "a blank line; remove it")
    lines = body.count("\n") + 1
    whole = '"' not in body or _rows(path, body, names, separator, [0]) == lines
    return Log(
        path,
        names,
        (lambda row: f":{row + 2}") if whole else (lambda row: f": row {row + 1}"),
        lambda wanted: _load(path, body, names, separator, wanted),
    )


def _separator(text: str) -> str | None:
    """What splits the first lines into the most fields, as many in each; None if nothing does."""
    lines = text.split("\n", _LINES)[:_LINES]
    counts = {mark: [len(_fields(line, mark)) for line in lines] for mark in SEPARATORS}
    return max(
        (mark for mark in SEPARATORS if counts[mark][0] > 1),
        key=lambda mark: (all(count == counts[mark][0] for count in counts[mark]), counts[mark][0]),
        default=None,
    )


def _load(path: Path, body: str, names: tuple[str, ...], separator: str, wanted: Sequence[str]) -> dict[str, Any]:
    table = _parsed(path, body, names, separator, [names.index(name) for name in wanted])
    return {name: table[str(names.index(name))] for name in wanted}


def _rows(path: Path, body: str, names: tuple[str, ...], separator: str, columns: list[int]) -> int:
    return int(_parsed(path, body, names, separator, columns).num_rows)


def _parsed(path: Path, body: str, names: tuple[str, ...], separator: str, columns: list[int]) -> Any:
    """These columns as texts, by number: a header may have a name twice."""
    import pyarrow as pa
    import pyarrow.csv as pv

    numbers, data = [str(column) for column in columns], body.encode()
    try:
        return pv.read_csv(
            pa.BufferReader(data),
            read_options=pv.ReadOptions(
                column_names=[str(i) for i in range(len(names))],
                use_threads=False,
                block_size=min(len(data) + 1, _LARGEST_BLOCK),  # no row may be larger, and prompts may be long
            ),
            # A blank line is a broken row: skipping it would hide damage and shift the line numbers.
            parse_options=pv.ParseOptions(
                delimiter=separator, ignore_empty_lines=False, newlines_in_values='"' in body
            ),
            convert_options=pv.ConvertOptions(
                include_columns=numbers, column_types=dict.fromkeys(numbers, pa.string())
            ),
        )
    except pa.ArrowInvalid as error:
        _refuse_ragged(path, body, len(names), separator)
        raise InputError(f"{path}: not a plain table of text ({error!s:.100}); write it again") from None


def _refuse_ragged(path: Path, body: str, fields: int, separator: str) -> None:
    with suppress(csv.Error):
        for number, row in enumerate(csv.reader(body.split("\n"), delimiter=separator), 2):
            if len(row) != fields:
                refuse(path, number, f"{len(row)} fields where the header has {fields}; correct or remove the line")


def _fields(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=separator), [])
    except csv.Error:
        return []
