"""Seconds from a column of times: ISO 8601, Arrow timestamps, or numbers whose unit is certain, or told.

A unit is never guessed. Numbers that all lie between 2015 and 2050 as seconds, ms, µs or ns since 1970 do so in one of
these units only, since 2050 is less than 1,000 times 2015; the others need a unit in the column's name, in the format's
documentation, or from the user.
"""

from __future__ import annotations

import numpy as np

from fluidgate.arrays import FloatArray, IntArray
from fluidgate.bounds import MAX_SECONDS
from fluidgate.errors import InputError
from fluidgate.words import number
from fluidgate.workload.logs.columns import Column, as_flags, as_numpy
from fluidgate.workload.logs.names import unit_in

Numbers = FloatArray | IntArray

PER_S = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
EPOCH_S = (1_420_070_400, 2_524_608_000)
"""2015 and 2050, seconds since 1970."""
YEARS = (1970, 2199)
"""Between these, differences of nanoseconds fit 64 bits."""

_ZONED = r":\d\d(\.\d+)?\s?(Z|z|[+-]\d\d(:?\d\d)?)$"
_SHAPE = "YYYY-MM-DD HH:MM:SS.ffffff"


def read_times(column: Column, told: str | None = None, by_format: str | None = None) -> tuple[FloatArray, str]:
    """The times, seconds after the earliest, shape (n,), and what they were taken for.

    Args:
        told: a key of `PER_S`, as the user says; None: not said.
        by_format: as the format's documentation says.

    Raises:
        InputError: a value that is no time, dates with and without a UTC offset, or a unit that is not certain.
    """
    check_unit(told)
    column.refuse_where(column.missing, "is no time; correct or remove the row")
    clock_ns = _clock_ns(column)
    if clock_ns is not None:
        if told is not None:
            raise InputError(
                f"{column.path}: {column.name} holds dates, which have no unit: leave time_unit (--time-unit) out"
            )
        return (clock_ns - clock_ns.min()) / 1e9, "dates"
    values = _numbers(column)
    unit, why = certain_unit(column, values, told, by_format)
    span = float(values.max()) - float(values.min())
    if span / PER_S[unit] > MAX_SECONDS:
        raise InputError(
            f"{column.path}: {column.name} spans more than 272 years in {unit}; give its time_unit (--time-unit)"
        )
    # Subtract before dividing: nanoseconds since 1970 do not fit a float.
    return (values - values.min()).astype(np.float64) / PER_S[unit], f"{unit}, {why}"


def check_unit(told: str | None) -> None:
    """Refuse a unit that is not one of `PER_S`."""
    if told is not None and told not in PER_S:
        raise InputError(f"time_unit = {told!r:.40} is not known; use one of {', '.join(PER_S)}")


def _clock_ns(column: Column) -> IntArray | None:
    """Nanoseconds since 1970 of a column of dates with times; None if it holds numbers."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values = column.values
    if pa.types.is_timestamp(values.type):
        _refuse_years(column, pc.year(values))
        kind = pa.timestamp("ns", values.type.tz)
        return as_numpy(values.cast(kind).cast("int64"))  # type: ignore[no-any-return]
    if not pa.types.is_string(values.type) or _is_number(values[0].as_py()):
        return None
    dated = pc.match_substring_regex(values, r"^\d{4}-\d\d-\d\d")
    column.refuse_where(
        ~as_flags(dated), f"is not a number, and not a date and time like {_SHAPE}; correct or remove it"
    )
    _refuse_years(column, pc.cast(pc.utf8_slice_codeunits(values, 0, 4), "int64"))
    column.refuse_where(~as_flags(pc.match_substring(values, ":")), "is a date without a time; give both")
    texts = pc.replace_substring_regex(values, r"\s?UTC$", "Z")
    texts = pc.replace_substring_regex(texts, r",(\d+)", r".\1")
    texts = pc.replace_substring_regex(texts, r"\s([+-]\d\d(:?\d\d)?)$", r"\1")
    zoned = as_flags(pc.match_substring_regex(texts, _ZONED))
    rarer = zoned if 2 * zoned.sum() <= len(zoned) else ~zoned
    column.refuse_where(rarer, "has a UTC offset and others have none, or the other way; give all or none an offset")
    kind, offset = (pa.timestamp("ns", "UTC"), "+00:00") if zoned[0] else (pa.timestamp("ns"), "")
    read = Column(column.path, column.name, texts, column.place)
    return as_numpy(  # type: ignore[no-any-return]
        read.cast(kind, f"is not a date and time like {_SHAPE}{offset}; correct or remove it").cast("int64")
    )


def _refuse_years(column: Column, years: object) -> None:
    year = as_numpy(years)
    why = f"is not between the years {YEARS[0]} and {YEARS[1]}; correct or remove it"
    column.refuse_where((year < YEARS[0]) | (year > YEARS[1]), why)


def _numbers(column: Column) -> Numbers:
    """Whole numbers to the last digit, where all are."""
    import pyarrow as pa
    import pyarrow.compute as pc

    floats = column.numbers("a time")
    column.refuse_where(np.abs(floats) > PER_S["ns"] * MAX_SECONDS, "is more than 272 years; give seconds")
    try:
        return as_numpy(pc.cast(column.values, "int64"))  # type: ignore[no-any-return]
    except pa.ArrowInvalid:
        return floats


def certain_unit(column: Column, values: Numbers, told: str | None, fixed: str | None) -> tuple[str, str]:
    """The unit of the column's values, and how it is known.

    Args:
        told: as the user says; None: not said.
        fixed: as the format's documentation says; None: it does not.

    Raises:
        InputError: it is not certain; the sentence asks for it.
    """
    if told is not None:
        return told, "as told"
    _refuse_mixture(column, values)
    low, high = float(values.min()), float(values.max())
    since_1970 = next((u for u, per in PER_S.items() if EPOCH_S[0] * per <= low and high < EPOCH_S[1] * per), None)
    named = unit_in(column.name)
    known, why = (fixed, "as the format has it") if fixed is not None else (named, "by its name")
    if known is not None and since_1970 in (None, known):
        return known, why
    if known is not None:
        raise InputError(
            f"{column.path}: the times in {column.name}, from {values.min()}, are in {known}, {why}, and in "
            f"{since_1970} since 1970, by their size: give time_unit (--time-unit)"
        )
    if since_1970 is not None:
        return since_1970, "since 1970"
    if low == high:
        return "s", "all equal"
    per_s = (len(values) - 1) / (high - low)
    rates = " and ".join(f"{number(per_s * PER_S[unit])} with {unit}" for unit in ("s", "ms"))
    raise InputError(
        f"{column.path}: the times in {column.name}, {values.min()} to {values.max()}, may be s, ms, us or ns: give "
        f"time_unit (--time-unit); requests per second would be {rates}"
    )


def _refuse_mixture(column: Column, values: Numbers) -> None:
    """Refuse times since 1970 of which some are in another unit than the first."""
    units = np.full(len(values), "", dtype="<U2")
    for unit, per in PER_S.items():
        units[(EPOCH_S[0] * per <= values) & (values < EPOCH_S[1] * per)] = unit
    if (units != "").all() and (units != units[0]).any():
        why = f"is in {units[units != units[0]][0]} since 1970, and times before it are in {units[0]}; give one unit"
        column.refuse_where(units != units[0], why)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
