"""CSV columns, parsed whole by Arrow; the line of a bad value is looked for only when there is one."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from fluidgate.arrays import FloatArray, IntArray
from fluidgate.bounds import MAX_COUNT, MAX_SECONDS
from fluidgate.errors import InputError
from fluidgate.words import has_control, shown
from fluidgate.workload.core import TIMEOUTS
from fluidgate.workload.formats._files import read_text, refuse

_NO_TIMEOUT = "is not a number of seconds above 0; correct the line, or leave the field empty for a patient client"

_FIRST_YEAR, _LAST_YEAR = 1970, 2199
"""Between these, differences of nanoseconds fit 64 bits."""


@dataclass(frozen=True)
class Table:
    """Columns of text and where they came from.

    Attributes:
        path: the file.
        names: every column name in the file, in order.
        columns: the columns that were asked for, as Arrow string arrays, spaces trimmed.
    """

    path: Path
    names: tuple[str, ...]
    columns: dict[str, Any]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def refuse(self, row: int, what: str) -> NoReturn:
        """Stop at data row `row` (from 0; the header is line 1)."""
        refuse(self.path, row + 2, what)

    def refuse_where(self, bad: Any, column: str, why: str) -> None:
        """Stop at the first row where `bad` holds, quoting the value in `column`."""
        if bad.any():
            row = int(np.argmax(bad))
            self.refuse(row, f"{column} = {shown(self.columns[column][row].as_py())} {why}")

    def seconds(self, column: str) -> FloatArray:
        """A column of finite numbers."""
        values = self._cast(column, "double", "is not a number of seconds; correct or remove the line")
        self.refuse_where(~np.isfinite(values), column, "is not finite; correct or remove the line")
        self.refuse_where(np.abs(values) > MAX_SECONDS, column, "is more than 272 years; give seconds")
        return np.asarray(values, np.float64)

    def timeouts(self) -> dict[str, FloatArray]:
        """The columns of `TIMEOUTS` that the file has; an empty field or `inf` is a client that never gives up."""
        import pyarrow.compute as pc

        found = {}
        for column in TIMEOUTS:
            if column in self.columns:
                texts = self.columns[column]
                filled = pc.if_else(pc.equal(texts, ""), "inf", texts)
                values = replace(self, columns={column: filled})._cast(column, "double", _NO_TIMEOUT)
                self.refuse_where(~(values > 0), column, _NO_TIMEOUT)
                found[column] = np.asarray(values, np.float64)
        return found

    def tokens(self, column: str, least: int = 1) -> IntArray:
        """A column of whole numbers of tokens in [least, 2^31)."""
        values = self._cast(column, "double", "is not a number of tokens; correct or remove the line")
        whole = np.isfinite(values) & (values == np.floor(values))
        self.refuse_where(~whole, column, "is not a whole number of tokens; correct or remove the line")
        self.refuse_where(values < least, column, f"must be at least {least}; correct or remove the line")
        self.refuse_where(values > MAX_COUNT, column, "is too large for a token count; correct the line")
        return np.asarray(values, np.int64)

    def nanoseconds(self, column: str) -> IntArray:
        """A column of ISO 8601 date-times, all with a UTC offset or none, as nanoseconds since 1970."""
        import pyarrow as pa

        first = self.columns[column][0].as_py()
        zoned = first.endswith("Z") or "+" in first or first.count("-") > 2
        kind = pa.timestamp("ns", "UTC" if zoned else None)
        shape = "YYYY-MM-DD HH:MM:SS.fffffff" + ("+00:00" if zoned else "")
        values = self._cast(column, kind, f"is not a date and time like {shape}; correct or remove the line")
        self._refuse_other_years(column)
        return np.asarray(values, np.int64)

    def _refuse_other_years(self, column: str) -> None:
        import pyarrow.compute as pc

        years = pc.utf8_slice_codeunits(self.columns[column], 0, 4)  # a date that could be read begins with them
        number = _numbers(pc.cast(years, "int64"))
        why = f"is not between the years {_FIRST_YEAR} and {_LAST_YEAR}; correct or remove the line"
        self.refuse_where((number < _FIRST_YEAR) | (number > _LAST_YEAR), column, why)

    def labels(self, column: str) -> tuple[IntArray, tuple[str, ...]]:
        """A column of names as (index, names), the names in order; an empty name is refused."""
        encoded = self.columns[column].combine_chunks().dictionary_encode()
        labels = encoded.dictionary.to_pylist()
        index = _numbers(encoded.indices)
        for k, name in enumerate(labels):
            if not name:
                self.refuse_where(index == k, column, "is empty; name it or remove the line")
            if has_control(name):
                self.refuse_where(index == k, column, "holds a control character; take it out")
        names = tuple(sorted(labels))
        place = {name: i for i, name in enumerate(names)}
        rank = np.array([place[name] for name in labels], np.int64)
        return rank[index], names

    def _cast(self, column: str, kind: Any, why: str) -> Any:
        import pyarrow as pa
        import pyarrow.compute as pc

        texts = self.columns[column]
        try:
            values = pc.cast(texts, kind)
        except pa.ArrowInvalid:
            row = _first_failure(len(texts), lambda low, high: pc.cast(texts.slice(low, high - low), kind))
            self.refuse(row, f"{column} = {shown(texts[row].as_py())} {why}")
        return _numbers(pc.cast(values, "int64") if pa.types.is_timestamp(values.type) else values)


def _numbers(values: Any) -> Any:
    """NumPy's array of Arrow's numbers. Arrow's own `to_numpy` first imports pandas, where there is one."""
    return np.from_dlpack(values.combine_chunks() if hasattr(values, "combine_chunks") else values).copy()


def read_table(path: Path, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> Table:
    """The named columns of a CSV file, and those of `TIMEOUTS`.

    Errors: InputError at the header for a missing or doubled column, at the first line with a wrong number of
    fields, and for a file without rows.
    """
    text = read_text(path)
    header, _, body = text.partition("\n")
    names = tuple(name.strip() for name in _fields(header))
    _check_header(path, names, required)
    if not body.strip():
        refuse(path, 1, "a header and no rows; give a trace with at least one request")
    columns = [*required, *(name for name in (*optional, *TIMEOUTS) if name in names)]
    return Table(path, names, _parse(path, body, names, columns))


def _check_header(path: Path, names: tuple[str, ...], required: tuple[str, ...]) -> None:
    missing = [name for name in required if name not in names]
    if missing:
        have = ", ".join(names)[:200]
        refuse(
            path,
            1,
            f"no column {', '.join(missing)} in the header ({have}); name the columns as the format does",
        )
    for name in names:
        if names.count(name) > 1:
            refuse(path, 1, f"column {name!r} appears {names.count(name)} times; keep one")


def _parse(path: Path, body: str, names: tuple[str, ...], columns: list[str]) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv as pv

    try:
        table = pv.read_csv(
            pa.BufferReader(body.encode()),
            # One thread: a process that ends at once, on a refusal, must not end while the library starts others.
            read_options=pv.ReadOptions(column_names=names, use_threads=False),
            # A blank line is a broken row: skipping it would hide damage and shift the line numbers.
            parse_options=pv.ParseOptions(ignore_empty_lines=False),
            convert_options=pv.ConvertOptions(
                include_columns=columns, column_types=dict.fromkeys(columns, pa.string())
            ),
        )
    except pa.ArrowInvalid as error:
        _refuse_ragged(path, body, len(names))
        raise InputError(f"{path}: not a plain CSV file ({error}); write it again, comma-separated") from error
    if table.num_rows != body.count("\n") + 1:
        _refuse_ragged(path, body, len(names))
        raise InputError(f"{path}: a quoted field holds a line break; write one request per line")
    return {name: pc.utf8_trim_whitespace(table[name]) for name in columns}


def _refuse_ragged(path: Path, body: str, fields: int) -> None:
    for row, line in enumerate(body.split("\n")):
        count = len(_fields(line))
        if count != fields:
            refuse(path, row + 2, f"{count} fields where the header has {fields}; correct or remove the line")


def _fields(line: str) -> list[str]:
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        return []


def _first_failure(count: int, attempt: Callable[[int, int], object]) -> int:
    """The first index that fails, by bisection: `attempt(low, high)` raises if any in [low, high) does."""
    import pyarrow as pa

    low, high = 0, count
    while high - low > 1:
        middle = (low + high) // 2
        try:
            attempt(low, middle)
            low = middle
        except pa.ArrowInvalid:
            high = middle
    return low
