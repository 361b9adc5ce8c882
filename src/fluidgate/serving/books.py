"""`Books`: what a gate knows of every request, in columns by row, and the waiting queues as linked lists.

Columns are kept up to date request by request, so a step costs a few array operations, whatever the number waiting.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fluidgate.arrays import NONE, FloatArray, IntArray
from fluidgate.kernel import entry_kernel

FIRST_ROWS = 1024

COLUMNS = (
    *("prompt", "generated", "computed", "output", "class_id", "group", "start", "high_water"),
    *("next", "previous", "sequence"),
)


class Books:
    """Columns by row, and the waiting queues as linked lists. Rows are used again once a request has left.

    `aside` holds the rows that wait but are in no queue: the engine would pass over them now.
    """

    def __init__(self, num_classes: int) -> None:
        self.row_of: dict[str, int] = {}
        self.name_of: list[str] = [""] * FIRST_ROWS
        self.free_rows = list(range(FIRST_ROWS - 1, -1, -1))
        self.arrival_s = np.zeros(FIRST_ROWS)
        self.last_token_s = np.full(FIRST_ROWS, np.nan)
        self.timeout_s = np.full(FIRST_ROWS, np.inf)
        self.ttft_timeout_s = np.full(FIRST_ROWS, np.inf)
        self.ints = {name: np.zeros(FIRST_ROWS, np.int64) for name in COLUMNS}
        self.is_resident = np.zeros(FIRST_ROWS, np.bool_)
        self.residents = np.zeros(FIRST_ROWS, np.int64)
        self.num_residents = 0
        self.head = np.full(num_classes, NONE, np.int64)
        self.tail = np.full(num_classes, NONE, np.int64)
        self.waiting = np.zeros(num_classes, np.int64)
        self.num_waiting = 0
        self.aside: set[int] = set()
        self._front, self._back = 0, 0

    @property
    def is_empty(self) -> bool:
        """Whether no request is left: true whenever the engine is idle."""
        return not self.row_of and self.num_residents == 0 and self.num_waiting == 0

    def new_row(self, name: str) -> int:
        """A free row for a request; the columns grow when there is none."""
        if not self.free_rows:
            self._grow()
        row = self.free_rows.pop()
        self.row_of[name] = row
        self.name_of[row] = name
        return row

    def _grow(self) -> None:
        size = len(self.name_of)
        self.free_rows = list(range(2 * size - 1, size - 1, -1))
        self.name_of += [""] * size
        for column in ("arrival_s", "last_token_s", "timeout_s", "ttft_timeout_s", "is_resident", "residents"):
            setattr(self, column, np.concatenate((getattr(self, column), np.zeros_like(getattr(self, column)))))
        self.ints = {name: np.concatenate((column, np.zeros_like(column))) for name, column in self.ints.items()}

    def queue(self, row: int, *, front: bool) -> None:
        """Put a row at an end of its class's queue."""
        group = self.ints["group"][row]
        before, after = (NONE, self.head[group]) if front else (self.tail[group], NONE)
        self._front -= front
        self._back += not front
        self.ints["sequence"][row] = self._front if front else self._back
        self._link(row, before, after)

    def set_aside(self, row: int) -> None:
        """Take a row out of its queue; `put_back` finds its place again."""
        self._unlink(row)
        self.aside.add(row)

    def put_back(self, row: int) -> None:
        """Return a row that was set aside to its place in its queue."""
        self.aside.discard(row)
        sequence, following = self.ints["sequence"], self.ints["next"]
        group = self.ints["group"][row]
        after = self.head[group]
        while after != NONE and sequence[after] < sequence[row]:
            after = following[after]
        before = self.tail[group] if after == NONE else self.ints["previous"][after]
        self._link(row, before, after)

    def unqueue(self, row: int) -> None:
        """Take a row out of its queue, wherever it stands."""
        if row in self.aside:
            self.aside.discard(row)
        else:
            self._unlink(row)

    def _link(self, row: int, before: int, after: int) -> None:
        group = self.ints["group"][row]
        self.ints["previous"][row], self.ints["next"][row] = before, after
        if before == NONE:
            self.head[group] = row
        else:
            self.ints["next"][before] = row
        if after == NONE:
            self.tail[group] = row
        else:
            self.ints["previous"][after] = row
        self.waiting[group] += 1
        self.num_waiting += 1

    def _unlink(self, row: int) -> None:
        group = self.ints["group"][row]
        before, after = self.ints["previous"][row], self.ints["next"][row]
        if before == NONE:
            self.head[group] = after
        else:
            self.ints["next"][before] = after
        if after == NONE:
            self.tail[group] = before
        else:
            self.ints["previous"][after] = before
        self.waiting[group] -= 1
        self.num_waiting -= 1

    def seat(self, row: int) -> None:
        """Make a row the last resident."""
        self.residents[self.num_residents] = row
        self.num_residents += 1
        self.is_resident[row] = True

    def drop_residents(self, rows: Sequence[int]) -> None:
        """Take rows out of the running order."""
        if not rows:
            return
        self.is_resident[list(rows)] = False
        current = self.residents[: self.num_residents]
        kept = current[self.is_resident[current]]
        self.residents[: len(kept)] = kept
        self.num_residents = len(kept)

    def reseat(self, row: int) -> None:
        """Make a resident the last one."""
        self.drop_residents([row])
        self.seat(row)

    def clear_order(self) -> None:
        """Forget which requests wait and which are resident, and their order; rows and columns stay."""
        self.is_resident[:] = False
        self.num_residents = self.num_waiting = self._front = self._back = 0
        self.head[:] = self.tail[:] = NONE
        self.waiting[:] = 0
        self.aside.clear()

    def forget(self, name: str) -> None:
        """Free a request's row."""
        row = self.row_of.pop(name)
        self.name_of[row] = ""
        self.free_rows.append(row)


@entry_kernel
def book_tokens(
    now_s: float,
    rows: IntArray,
    tokens: IntArray,
    prompt: IntArray,
    generated: IntArray,
    computed: IntArray,
    last_token_s: FloatArray,
) -> tuple[int, float, int]:
    """Advance the scheduled requests; returns (tokens computed, longest gap between two tokens, first tokens).

    The rows that get their first token are moved to the front of `rows`.
    """
    total = 0
    longest_s = 0.0
    first = 0
    for k in range(len(rows)):
        row = rows[k]
        total += tokens[k]
        computed[row] += tokens[k]
        if computed[row] >= prompt[row] + generated[row]:
            generated[row] += 1
            last_s = last_token_s[row]
            last_token_s[row] = now_s
            if last_s != last_s:  # nan: none yet
                rows[k] = rows[first]
                rows[first] = row
                first += 1
            else:
                longest_s = max(longest_s, now_s - last_s)
    return total, longest_s, first
