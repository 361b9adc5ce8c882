"""Columns of a log as requests: which column is what, which requests failed, and what was taken for what."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fluidgate.arrays import BoolArray, FloatArray, IntArray
from fluidgate.errors import InputError
from fluidgate.words import listed
from fluidgate.workload.logs.columns import Column, Log
from fluidgate.workload.logs.names import KNOWN, NEEDED, NONE, check_quantities, matches
from fluidgate.workload.logs.served import arrival_order, drop_failed
from fluidgate.workload.logs.times import read_times

_MANY = 40
"""Columns that an error lists."""


_PARTS = {
    "time": ("time", "date", "ts", "when"),
    "prompt": ("prompt", "in", "req", "ctx"),
    "output": ("out", "comp", "gen", "resp"),
}
"""Parts of the names that a column of the quantity may have, for a proposal."""


@dataclass(frozen=True)
class Layout:
    """What a documented log has.

    Attributes:
        columns: per quantity, its columns, the one to take first.
        unit: of numbers in the column of times.
    """

    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unit: str | None = None


ANY = Layout()


@dataclass(frozen=True, eq=False)
class Requests:
    """Requests of a log, by row; arrays of shape (n,).

    Attributes:
        time_s: seconds after the earliest; None: the log has no times.
        prompt_tokens, output_tokens: lengths.
        rows: of the log, kept or not.
        classes: (class_id, class_names).
        timeouts: columns of a `Workload` that say how long clients wait.
        after: row of the turn before, −1 for none; None without sessions.
        said: what was taken for what, and left out.
    """

    time_s: FloatArray | None
    prompt_tokens: IntArray
    output_tokens: IntArray
    rows: int
    classes: tuple[IntArray, tuple[str, ...]] | None
    timeouts: dict[str, FloatArray]
    after: IntArray | None
    said: tuple[str, ...]


def read_requests(
    log: Log,
    layout: Layout = ANY,
    *,
    columns: Mapping[str, str] | None = None,
    time_unit: str | None = None,
    failed: str = "stop",
    failures: Sequence[str] = (),
) -> Requests:
    """The requests of a log.

    Args:
        columns: names of columns by quantity, a key of `KNOWN`, in place of those that would be found; "none": no such
            column.
        time_unit: "s", "ms", "us" or "ns", of numbers in the column of times; None: as is certain, else refused.
        failed: "stop" at a request without output or with a failure, or "drop" such requests.
        failures: why a row failed, empty where it did not; none: nothing is known.

    Raises:
        InputError: a column that is needed is not found, a unit is not certain, or a value cannot be used.
    """
    chosen = _chosen(log, layout, dict(columns or {}))
    loaded = log.columns([name for name in chosen.values() if name != NONE])
    found = {quantity: loaded[name] for quantity, name in chosen.items() if name != NONE}
    prompt, output = found["prompt"].tokens(), found["output"].tokens()
    keep, remarks = _served(log, found["output"], output, failed, failures)
    rows = np.flatnonzero(keep)
    kept = {quantity: column.kept(rows) for quantity, column in found.items()}
    prompt, output = prompt[rows], output[rows]
    kept["prompt"].refuse_where(~(prompt >= 1), "must be at least 1 token; correct or remove it")
    time_s, clock = read_times(kept["time"], time_unit, layout.unit) if "time" in kept else (None, "")
    if time_s is None and time_unit is not None:
        raise InputError(
            f"{log.path}: has no column of times, whose unit could be told; leave time_unit (--time-unit) out"
        )
    taken = [f"{quantity} = {name}" for quantity, name in chosen.items()]
    if time_s is not None:
        taken[0] += f" ({clock})"
    return Requests(
        time_s=time_s,
        prompt_tokens=prompt.astype(np.int64),
        output_tokens=output.astype(np.int64),
        rows=len(keep),
        classes=kept["class"].labels() if "class" in kept else None,
        timeouts={f"{name}_s": _patience(kept[name]) for name in ("timeout", "ttft_timeout") if name in kept},
        after=_turns(kept["session"], time_s) if "session" in kept else None,
        said=(f"columns {', '.join(taken)}", *remarks),
    )


def in_order(found: Requests) -> dict[str, Any]:
    """The fields of a `Workload` with these requests, in order of arrival, the first at 0."""
    arrival_s = np.zeros(len(found.prompt_tokens)) if found.time_s is None else found.time_s
    order, _ = arrival_order(arrival_s)
    fields: dict[str, Any] = {
        "arrival_s": arrival_s[order] - arrival_s[order[0]],
        "prompt_tokens": found.prompt_tokens[order],
        "output_tokens": found.output_tokens[order],
    }
    if found.classes is not None:
        fields |= {"class_id": found.classes[0][order], "class_names": found.classes[1]}
    fields |= {name: seconds[order] for name, seconds in found.timeouts.items()}
    if found.after is not None:
        after = found.after[order]
        fields |= {"after": np.where(after < 0, -1, np.argsort(order)[after]), "delay_s": np.zeros(len(after))}
    return fields


def _chosen(log: Log, layout: Layout, given: dict[str, str]) -> dict[str, str]:
    """The column of each quantity that the log has."""
    check_quantities(given)
    for quantity, name in given.items():
        if name != NONE and name not in log.names:
            raise InputError(f"{log.path}: has no column {name!r:.60} ({quantity}); it has {_names(log)}")
        if name == NONE and quantity in ("prompt", "output"):
            raise InputError(f"{log.path}: {quantity}=none: every request needs its {quantity} tokens; name a column")
    chosen = dict(given)
    free = [name for name in dict.fromkeys(log.names) if name not in given.values()]
    for quantity in KNOWN:
        if quantity in given:
            continue
        known = [name for name in layout.columns.get(quantity, ()) if name in free][:1] or matches(quantity, free)
        if len(known) > 1:
            raise InputError(
                f"{log.path}: {listed(known[:4])} could all be the {quantity}: choose by columns "
                f"(--columns {quantity}={shlex.quote(known[0])})"
            )
        if known:
            chosen[quantity] = known[0]
            free.remove(known[0])
    absent = [quantity for quantity in NEEDED if quantity not in chosen]
    if absent and (absent != ["time"] or free):
        raise _not_understood(log, absent, free, given)
    return {quantity: chosen[quantity] for quantity in KNOWN if quantity in chosen}


def _not_understood(log: Log, absent: list[str], free: list[str], given: dict[str, str]) -> InputError:
    """Which columns were found, which are needed, and the command that would do."""
    guess = dict(given)
    for quantity in absent:
        left = [name for name in free if name not in guess.values()]
        guess[quantity] = _likely(quantity, left) or next(iter(left), "COLUMN")
    asked = shlex.quote(",".join(f"{quantity}={name}" for quantity, name in guess.items()))
    command = f"fluidgate trace info {shlex.quote(str(log.path))} --columns {asked}"
    without = "; time=none where there are no times" if "time" in absent else ""
    return InputError(
        f"{log.path}: has columns {_names(log)}; needed are time, prompt and output, and by their names "
        f"{listed(absent)} cannot be told{without}. Say which they are: "
        f"{f'columns={guess}' if log.in_memory else command}"
    )


def _likely(quantity: str, free: list[str]) -> str | None:
    """A column to propose: its name holds a part of a word for the quantity."""
    return next((name for part in _PARTS[quantity] for name in free if part in name.lower()), None)


def _names(log: Log) -> str:
    more = f" and {len(log.names) - _MANY} more" if len(log.names) > _MANY else ""
    return ", ".join(name[:40] or "(unnamed)" for name in log.names[:_MANY]) + more


def _served(
    log: Log, column: Column, output: FloatArray, failed: str, failures: Sequence[str]
) -> tuple[BoolArray, list[str]]:
    """The requests to keep, and what to say of the others."""
    stated = np.array([bool(why) for why in failures]) if len(failures) else np.zeros(len(output), bool)
    bad = stated | np.isnan(output) | (output == 0)
    first = int(np.argmax(bad))
    why = f"failed ({failures[first]:.80})" if stated[first] else f"{column.name} says no output"
    return drop_failed(log.path, failed, bad, log.place(first), why)


def _patience(column: Column) -> FloatArray:
    """Seconds that clients wait; infinite where there is no value."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_string(column.values.type):
        waits = pc.is_in(pc.utf8_lower(column.values), pa.array(["inf", "infinity"]))
        column = column.without(waits)
    seconds = column.numbers("a number of seconds")
    column.refuse_where(seconds <= 0, "is not a number of seconds above 0; leave the field empty for a patient client")
    return np.where(np.isnan(seconds), np.inf, seconds)


def _turns(column: Column, time_s: FloatArray | None) -> IntArray:
    """Row of the turn before each, of the same session, in order of time; a row without a session follows none."""
    if time_s is None:
        raise InputError(f"{column.path}: sessions need times; name their column too")
    names: list[Any] = column.values.to_pylist()
    after, last = np.full(len(names), -1, np.int64), dict[Any, int]()
    for row in np.argsort(time_s, kind="stable").tolist():
        if names[row] is not None:
            after[row] = last.get(names[row], -1)
            last[names[row]] = row
    return after
