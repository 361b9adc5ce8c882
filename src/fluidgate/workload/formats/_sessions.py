"""Sessions in JSON lines: `session_id`, `timestamp` and `delay`, as aiperf and dynamo write them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fluidgate.arrays import FloatArray, IntArray
from fluidgate.bounds import MAX_SECONDS
from fluidgate.words import shown
from fluidgate.workload.formats._files import refuse
from fluidgate.workload.logs import PER_S


@dataclass(frozen=True, eq=False)
class Turns:
    """The turns of a file, by row, shape (n,) each.

    Attributes:
        time: the earliest time of each, in the file's unit; where there is no timestamp, `delay` after the turn before.
        after: row of the turn before, −1 for the first.
        delay: from the reply before it, in the same unit.
    """

    time: FloatArray
    after: IntArray
    delay: FloatArray


def read_turns(path: Path, rows: list[dict[str, Any]]) -> Turns | None:
    """The sessions of a file; None if it has none.

    Raises:
        InputError: a turn without a time, or before the one that it follows; a time that is not a number.
    """
    if not any("session_id" in row for row in rows):
        return None
    n = len(rows)
    turns = Turns(np.zeros(n), np.full(n, -1, np.int64), np.zeros(n))
    last: dict[str, int] = {}
    for i, row in enumerate(rows):
        _read_turn(path, i, row, turns, last)
    return turns


def _read_turn(path: Path, i: int, row: dict[str, Any], turns: Turns, last: dict[str, int]) -> None:
    """Fill row i of `turns`; `last` has the row of the last turn of each session."""
    session = row.get("session_id")
    if session is not None and type(session) not in (str, int):
        refuse(path, i + 1, f"session_id = {shown(session)} is not a name; correct or remove the line")
    before = -1 if session is None else last.get(str(session), -1)
    delay = _number(path, i, row, "delay")
    time = _number(path, i, row, "timestamp")
    if before < 0:
        if time is None:
            refuse(path, i + 1, "no 'timestamp' in this request, and it is no later turn of a session; add it")
        turns.time[i] = time
    else:
        earliest = turns.time[before] + (delay or 0.0)
        if time is None and delay is None:
            refuse(path, i + 1, "no 'delay' and no 'timestamp' in this turn; add one of them")
        if time is not None and time < turns.time[before]:
            refuse(path, i + 1, "timestamp is before that of the turn before it; put turns in order")
        turns.time[i] = earliest if time is None else time
        turns.after[i], turns.delay[i] = before, delay or 0.0
    if session is not None:
        last[str(session)] = i


def _number(path: Path, i: int, row: dict[str, Any], key: str) -> float | None:
    value: Any = row.get(key)
    if value is None:  # some writers give every key
        return None
    if type(value) not in (int, float) or not abs(value) <= PER_S["ns"] * MAX_SECONDS or (key == "delay" and value < 0):
        refuse(path, i + 1, f"{key} = {shown(value)} is not a number of milliseconds; correct or remove the line")
    return float(value)
