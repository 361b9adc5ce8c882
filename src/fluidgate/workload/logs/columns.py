"""`Log` and `Column`: rows of named values, wherever they come from, and the place of each for an error."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from fluidgate.arrays import BoolArray, FloatArray, IntArray
from fluidgate.bounds import MAX_COUNT
from fluidgate.errors import InputError
from fluidgate.words import has_control, shown

MISSING = ("", "null", "NULL", "Null", "None", "none", "nan", "NaN", "NA", "N/A", "n/a", r"\N")
"""Texts that stand for no value, in the exports of databases and of pandas."""

Place = Callable[[int], str]


@dataclass(frozen=True, eq=False)
class Column:
    """A column of a log.

    Attributes:
        path, name: where it is, for errors.
        values: an Arrow array; texts trimmed, null where there is no value.
        place: of a row, as an error names it after the file's name.
    """

    path: Path
    name: str
    values: Any
    place: Place

    def __len__(self) -> int:
        return len(self.values)

    @property
    def missing(self) -> BoolArray:
        """Which rows have no value, shape (n,)."""
        import pyarrow.compute as pc

        return as_flags(pc.is_null(self.values, nan_is_null=True))

    def kept(self, rows: IntArray) -> Column:
        """The column of these rows."""
        place = self.place
        return replace(self, values=self.values.take(rows), place=lambda row: place(int(rows[row])))

    def without(self, rows: Any) -> Column:
        """The column without a value where the Arrow array `rows` holds."""
        import pyarrow as pa
        import pyarrow.compute as pc

        return replace(self, values=pc.if_else(rows, pa.scalar(None, self.values.type), self.values))

    def numbers(self, what: str) -> FloatArray:
        """Its values, shape (n,); NaN where there is none.

        Raises:
            InputError: a value that is no number, or infinite; the sentence says that it is not `what`.
        """
        values = self.cast("double", f"is not {what}; correct or remove it")
        numbers: FloatArray = as_numpy(values.fill_null(np.nan))
        self.refuse_where(np.isinf(numbers), f"is not {what}; correct or remove it")
        return numbers

    def tokens(self) -> FloatArray:
        """Whole numbers of tokens, at least 0, shape (n,); NaN where there is none."""
        numbers = self.numbers("a number of tokens")
        self.refuse_where(numbers < 0, "is negative; correct or remove it")
        whole = np.isnan(numbers) | (numbers == np.floor(numbers))
        self.refuse_where(~whole, "is not a whole number of tokens; correct or remove it")
        self.refuse_where(numbers > MAX_COUNT, "is too large for a token count; correct it")
        return numbers

    def cast(self, kind: Any, why: str) -> Any:
        """Arrow's cast of the values. Raises InputError at the first value that cannot be cast."""
        import pyarrow as pa
        import pyarrow.compute as pc

        try:
            if pa.types.is_boolean(self.values.type):
                raise pa.ArrowInvalid
            return pc.cast(self.values, kind, safe=False)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
            row = _first_failure(self.values, kind)
            self.refuse(row, why)

    def labels(self) -> tuple[IntArray, tuple[str, ...]]:
        """The column of names as (index, names), the names in order."""
        import pyarrow.compute as pc

        self.refuse_where(self.missing, "is empty; name it or remove the row")
        encoded = pc.cast(self.values, "string").dictionary_encode()
        labels, index = encoded.dictionary.to_pylist(), as_numpy(encoded.indices)
        for k, name in enumerate(labels):
            if has_control(name):
                self.refuse_where(index == k, "holds a control character; take it out")
        names = tuple(sorted(labels))
        place = {name: i for i, name in enumerate(names)}
        return np.array([place[name] for name in labels], np.int64)[index], names

    def refuse_where(self, bad: BoolArray, why: str) -> None:
        """Stop at the first row where `bad` holds, quoting its value."""
        if bad.any():
            self.refuse(int(np.argmax(bad)), why)

    def refuse(self, row: int, why: str) -> NoReturn:
        """Stop at this row, quoting its value."""
        value = self.values[row].as_py()
        raise InputError(f"{self.path}{self.place(row)}: {self.name} = {shown(value)} {why}")


@dataclass(frozen=True, eq=False)
class Log:
    """Rows of named values.

    Attributes:
        path: the file, for errors.
        names: its columns, in order.
        place: of a row, as an error names it after the file's name.
        load: Arrow arrays of the columns of these names.
        in_memory: it was no file.
    """

    path: Path
    names: tuple[str, ...]
    place: Place
    load: Callable[[Sequence[str]], Mapping[str, Any]]
    in_memory: bool = False

    def columns(self, names: Sequence[str]) -> dict[str, Column]:
        """The columns of these names, by name. Raises InputError for a column that the log has twice."""
        for name in names:
            if self.names.count(name) > 1:
                raise InputError(f"{self.path}: column {name!r} appears {self.names.count(name)} times; keep one")
        loaded = self.load(list(dict.fromkeys(names)))
        return {name: Column(self.path, name, _plain(values), self.place) for name, values in loaded.items()}

    def texts(self, name: str) -> list[str]:
        """A column as texts; empty ones where there is no value or no such column."""
        import pyarrow.compute as pc

        if name not in self.names:
            return []
        values = self.columns([name])[name].values
        return [text or "" for text in pc.cast(values, "string").to_pylist()]

    def without(self, rows: Sequence[bool], what: str) -> tuple[Log, list[str]]:
        """The log without the rows where `rows` holds, and what to say of it; none are known for an empty `rows`."""
        if not any(rows):
            return self, []
        kept, place = np.flatnonzero(~np.array(rows)), self.place
        if len(kept) == 0:
            raise InputError(f"{self.path}: holds nothing but {what}; give a log with requests")

        def load(names: Sequence[str]) -> dict[str, Any]:
            return {name: values.take(kept) for name, values in self.load(names).items()}

        log = replace(self, place=lambda row: place(int(kept[row])), load=load)
        return log, [f"{len(rows) - len(kept):,} {what} left out"]

    def joined(self, columns: Mapping[str, list[Any]]) -> Log:
        """The log with further columns."""

        def load(names: Sequence[str]) -> dict[str, Any]:
            old = self.load([name for name in names if name not in columns])
            return {name: array_of(columns[name]) if name in columns else old[name] for name in names}

        return replace(self, names=(*self.names, *columns), load=load)


def table_log(path: Path, table: Any) -> Log:
    """The log that an Arrow table is; a struct's fields are columns `outer.inner`."""
    table = flattened(table)
    names = tuple(table.column_names)
    return Log(path, names, lambda row: f": row {row + 1}", lambda wanted: {name: table[name] for name in wanted})


def flattened(table: Any) -> Any:
    """The Arrow table with the fields of structs as columns of their own, `outer.inner`."""
    import pyarrow as pa

    while any(pa.types.is_struct(field.type) for field in table.schema):
        table = table.flatten()
    return table


def table_of(table: Any, name: str) -> Log:
    """The log that a table in memory is: of Arrow, or with `__arrow_c_stream__`, or arrays by name.

    Raises:
        InputError: it is none of these, or has no rows.
    """
    import pyarrow as pa

    try:
        if isinstance(table, Mapping):
            table = pa.table({str(key): pa.array(values) for key, values in table.items()})
        elif not isinstance(table, pa.Table):
            table = pa.table(table)
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, ValueError) as error:
        raise InputError(
            f"{name}: not a table ({error!s:.100}); give a pandas or Arrow table, or arrays of one length by name"
        ) from None
    if table.num_rows == 0:
        raise InputError(f"{name}: a table without rows; give at least one request")
    return replace(table_log(Path(name), table), in_memory=True)


def array_of(values: list[Any]) -> Any:
    """An Arrow array of the values of a JSON key; texts where they are of several kinds."""
    import pyarrow as pa

    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.array([None if value is None else shown_json(value) for value in values])


def shown_json(value: Any) -> str:
    """A JSON value among others of another kind, as text."""
    return value if isinstance(value, str) else shown(value)


def as_numpy(values: Any) -> Any:
    """NumPy's array of Arrow's numbers without nulls. Arrow's own `to_numpy` first imports pandas, if it is there."""
    return np.from_dlpack(values).copy()


def as_flags(values: Any) -> BoolArray:
    """NumPy's array of Arrow's true and false without nulls."""
    flags: BoolArray = as_numpy(values.cast("uint8")).astype(bool)
    return flags


def _plain(values: Any) -> Any:
    """One array without dictionaries; texts trimmed, and null where they say that there is no value."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_null(values.type):
        return values.cast(pa.string())
    if str(values.type) not in ("string", "large_string", "string_view"):
        return values
    trimmed = pc.utf8_trim_whitespace(values.cast(pa.string()))
    return pc.if_else(pc.is_in(trimmed, pa.array(MISSING)), pa.scalar(None, pa.string()), trimmed)


def _first_failure(values: Any, kind: Any) -> int:
    """The first index that fails, by bisection."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_string(values.type):
        return 0
    low, high = 0, len(values)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            pc.cast(values.slice(low, middle - low), kind, safe=False)
            low = middle
        except pa.ArrowInvalid:
            high = middle
    return low
