"""`Gate`: a policy beside a live scheduler. It keeps the books the policy sees and turns decisions into names.

Nothing here knows vLLM. The scheduler reports what happened (`joined`, `book`, `left`) and asks what may happen
(`decide`). Books are arrays kept up to date request by request, so a step costs a few array operations, whatever the
number waiting.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fluidgate.engine.compiled import load_program, new_params
from fluidgate.engine.loop import HAS_ADMIT, HAS_ADVANCE, HAS_CLASSIFY, HAS_OBSERVE, NO_LIMIT
from fluidgate.kernel import entry_kernel
from fluidgate.policies import Policy
from fluidgate.policies.protocol import (
    ABORTED,
    ADMITTED,
    ARRIVED,
    FINISHED,
    FIRST_TOKEN,
    PREEMPTED,
    Event,
    Request,
    View,
)

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

NONE = -1
FIRST_ROWS = 1024

COLUMNS = (
    *("prompt", "generated", "computed", "output", "class_id", "group", "start", "high_water"),
    *("next", "previous", "sequence"),
)

MOST_IDLE_S = 0.1
"""Longest time for which a policy may idle an engine with work; then residents run and the first request enters."""


@dataclass(frozen=True)
class Limits:
    """What the engine told at its start: blocks (without the null block), tokens per block and per iteration, seats."""

    total_blocks: int
    block_size: int
    token_budget: int
    max_num_seqs: int


@dataclass(frozen=True)
class Decision:
    """What a policy decided for one iteration.

    Attributes:
        admit: how many waiting requests may enter; None where the policy sets no limit.
        only: names of the requests that may enter, where classes have different quotas; None otherwise.
        paused: names of the residents that skip the iteration.
    """

    admit: int | None = None
    only: Sequence[str] | None = None
    paused: Sequence[str] = ()


@dataclass
class Totals:
    """What happened since the start; read by the metrics."""

    admitted: int = 0
    resumed: int = 0
    preempted: int = 0
    held_steps: int = 0
    held_s: float = 0.0
    paused: int = 0
    computed_tokens: int = 0
    recomputed_tokens: int = 0
    forced: int = 0
    longest_silence_s: float = 0.0


class Books:
    """Columns by row, and the waiting queues as linked lists. Rows are used again once a request has left."""

    def __init__(self, num_classes: int) -> None:
        self.row_of: dict[str, int] = {}
        self.name_of: list[str] = [""] * FIRST_ROWS
        self.free_rows = list(range(FIRST_ROWS - 1, -1, -1))
        self.arrival_s = np.zeros(FIRST_ROWS)
        self.last_token_s = np.full(FIRST_ROWS, np.nan)
        self.ints = {name: np.zeros(FIRST_ROWS, np.int64) for name in COLUMNS}
        self.is_resident = np.zeros(FIRST_ROWS, np.bool_)
        self.residents = np.zeros(FIRST_ROWS, np.int64)
        self.num_residents = 0
        self.head = np.full(num_classes, NONE, np.int64)
        self.tail = np.full(num_classes, NONE, np.int64)
        self.waiting = np.zeros(num_classes, np.int64)
        self.num_waiting = 0
        self._front, self._back = 0, 0

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
        for column in ("arrival_s", "last_token_s", "is_resident", "residents"):
            setattr(self, column, np.concatenate((getattr(self, column), np.zeros_like(getattr(self, column)))))
        self.ints = {name: np.concatenate((column, np.zeros_like(column))) for name, column in self.ints.items()}

    def queue(self, row: int, *, front: bool) -> None:
        """Put a row at an end of its class's queue."""
        group = self.ints["group"][row]
        end, other = (self.head, self.tail) if front else (self.tail, self.head)
        neighbour = end[group]
        towards, back = ("previous", "next") if front else ("next", "previous")
        self.ints[back][row] = neighbour
        self.ints[towards][row] = NONE
        if neighbour == NONE:
            other[group] = row
        else:
            self.ints[towards][neighbour] = row
        end[group] = row
        self.waiting[group] += 1
        self.num_waiting += 1
        self._front -= front
        self._back += not front
        self.ints["sequence"][row] = self._front if front else self._back

    def unqueue(self, row: int) -> None:
        """Take a row out of its queue, wherever it stands."""
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

    def forget(self, name: str) -> None:
        """Free a request's row."""
        row = self.row_of.pop(name)
        self.name_of[row] = ""
        self.free_rows.append(row)


@entry_kernel
def book_tokens(
    now_s: float, rows: Ints, tokens: Ints, prompt: Ints, generated: Ints, computed: Ints, last_token_s: Floats
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


class Gate:
    """A policy with its books, its memory and its compiled decision functions."""

    def __init__(self, policy: Policy, limits: Limits) -> None:
        program = load_program(policy)
        self.policy, self.limits, self.hooks = policy, limits, program.hooks
        self._classify, _, self._admit, self._advance, self._observe = program.decisions
        self._params, self._memory = new_params(policy), policy.new_memory()
        self.books = Books(policy.num_classes)
        self.totals = Totals()
        self.published = Totals()  # what the metrics have seen
        self._quota = np.full(policy.num_classes, NO_LIMIT, np.int64)
        self.num_paused = 0
        self._mask = np.ones(FIRST_ROWS, np.int64)
        self._iteration = 0
        self._held_at_s: float | None = None
        self._idle_since_s: float | None = None
        self._book_tokens(0.0, {})  # compiled before the first request comes

    @property
    def num_held(self) -> int:
        """Waiting requests beyond the quotas of the last decision."""
        return int(np.maximum(self.books.waiting - self._quota, 0).sum())

    def predicted_peak_share(self) -> float:
        """Share of the KV cache that the residents will need if each generates as many tokens again as it has.

        An age-doubling guess: it needs no output lengths, and for most laws a stream's residual life is about its age.
        """
        books, ints = self.books, self.books.ints
        rows = books.residents[: books.num_residents]
        tokens = int((ints["prompt"][rows] + 2 * ints["generated"][rows]).sum())
        return tokens / (self.limits.total_blocks * self.limits.block_size)

    def joined(self, name: str, now_s: float, prompt_tokens: int, *, output_tokens: int, class_id: int = 0) -> None:
        """A request has arrived; `output_tokens` is shown only to a policy that asks for it."""
        books = self.books
        row = books.new_row(name)
        ints = books.ints
        books.arrival_s[row], books.last_token_s[row] = now_s, np.nan
        ints["prompt"][row], ints["class_id"][row] = prompt_tokens, class_id
        ints["output"][row] = output_tokens if self.policy.needs_output_length else NONE
        for column in ("generated", "computed", "high_water", "group"):
            ints[column][row] = 0
        if self.hooks & HAS_CLASSIFY:
            request = Request(row, now_s, prompt_tokens, int(ints["output"][row]), class_id)
            ints["group"][row] = self._classify(self._params, request)
        books.queue(row, front=False)
        self._tell(ARRIVED, row, now_s)

    def left(self, names: Collection[str], now_s: float, aborted: Collection[str] = ()) -> None:
        """Requests have finished or failed, wherever they were; those in `aborted` were stopped from outside."""
        books = self.books
        rows = {name: books.row_of[name] for name in names if name in books.row_of}
        residents = [row for row in rows.values() if books.is_resident[row]]
        for name, row in rows.items():
            if not books.is_resident[row]:
                books.unqueue(row)
            self._tell(ABORTED if name in aborted else FINISHED, row, now_s)
        self._end_residencies(residents)
        for name in rows:
            books.forget(name)

    def decide(self, now_s: float, free_blocks: int) -> Decision:
        """Ask the policy what may happen in the next iteration."""
        books = self.books
        self._quota[:] = NO_LIMIT
        self.num_paused = 0
        if self.books.num_waiting == 0 and not (self.hooks & HAS_ADVANCE):
            return Decision()
        view = self._view(now_s, free_blocks)
        paused = self._paused(view)
        if books.num_waiting and self.hooks & HAS_ADMIT:
            self._admit(self._params, self._memory, view, self._quota)
            np.maximum(self._quota, 0, out=self._quota)
        idle_s = 0.0 if self._idle_since_s is None else now_s - self._idle_since_s
        if idle_s > MOST_IDLE_S and len(paused) == books.num_residents:
            paused = []
            self._release_idle_engine()
        self.num_paused = len(paused)
        self.totals.paused += len(paused)
        return self._admission(paused)

    def _paused(self, view: View) -> list[str]:
        """The residents that the policy lets skip the iteration."""
        count = len(view.residents)
        if count == 0 or not self.hooks & HAS_ADVANCE:
            return []
        self._mask[:count] = 1
        self._advance(self._params, self._memory, view, self._mask)
        return [self.books.name_of[row] for row in view.residents[self._mask[:count] == 0]]

    def _release_idle_engine(self) -> None:
        """Let the first request enter, whatever the policy says; the residents run as well."""
        heads = [(self.books.arrival_s[row], group) for group, row in enumerate(self.books.head) if row != NONE]
        if heads:
            first = min(heads)[1]
            self._quota[first] = max(self._quota[first], 1)
        self._idle_since_s = None
        self.totals.forced += 1

    def _admission(self, paused: list[str]) -> Decision:
        if len(self._quota) == 1:
            quota = int(self._quota[0])
            return Decision(None if quota >= self.books.num_waiting else quota, paused=paused)
        allowed = np.minimum(self._quota, self.books.waiting)
        if (allowed == self.books.waiting).all():
            return Decision(paused=paused)
        if not allowed.any():
            return Decision(admit=0, paused=paused)
        return Decision(only=self._first_allowed(allowed.tolist()), paused=paused)

    def _first_allowed(self, allowed: list[int]) -> list[str]:
        """The first requests of each class, as many as may enter and as there are seats, in queueing order."""
        books, rows = self.books, []
        for group, count in enumerate(allowed):
            row = int(books.head[group])
            for _ in range(min(count, self.limits.max_num_seqs)):
                rows.append(row)
                row = int(books.ints["next"][row])
        return [books.name_of[row] for row in sorted(rows, key=books.ints["sequence"].__getitem__)]

    def book(
        self, now_s: float, scheduled: Mapping[str, int], cached: Mapping[str, int], evicted: Collection[str] = ()
    ) -> None:
        """An iteration has been formed.

        Args:
            scheduled: tokens by name, in the scheduler's order.
            cached: tokens found in the prefix cache, by name, of the requests that have just become resident.
            evicted: names of preempted requests; vLLM takes them from the end of the running order.
        """
        books, ints = self.books, self.books.ints
        self._book_evictions(evicted, now_s)
        for name, tokens in cached.items():
            row = books.row_of[name]
            books.unqueue(row)
            books.seat(row)
            ints["computed"][row] = ints["start"][row] = tokens
            self.totals.resumed += int(ints["high_water"][row] > 0)
            self.totals.admitted += int(ints["high_water"][row] == 0)
            self._tell(ADMITTED, row, now_s)
        if len(scheduled):
            self._iteration += 1
            self._book_tokens(now_s, scheduled)
        self._book_idling(now_s, idle=not scheduled and bool(books.row_of))
        self._book_hold(now_s)

    def _book_idling(self, now_s: float, *, idle: bool) -> None:
        if not idle:
            self._idle_since_s = None
        elif self._idle_since_s is None:
            self._idle_since_s = now_s

    def _book_hold(self, now_s: float) -> None:
        """Count an iteration in which nobody may enter, and the time since the one before if it was one too."""
        held = self.books.num_waiting > 0 and not self._quota.any()
        if held:
            self.totals.held_steps += 1
            self.totals.held_s += 0.0 if self._held_at_s is None else now_s - self._held_at_s
        self._held_at_s = now_s if held else None

    def _book_evictions(self, evicted: Collection[str], now_s: float) -> None:
        if not evicted:
            return
        books = self.books
        chosen = {books.row_of[name] for name in evicted if name in books.row_of}  # the others were aborted since
        rows = [row for row in books.residents[: books.num_residents].tolist()[::-1] if row in chosen]
        self._end_residencies(rows)
        for row in rows:
            books.ints["computed"][row] = 0
            books.queue(row, front=True)
            self.totals.preempted += 1
            self._tell(PREEMPTED, row, now_s)

    def _end_residencies(self, rows: Sequence[int]) -> None:
        """Book what residents computed again, and take them out of the running order."""
        ints = self.books.ints
        for row in rows:
            computed, before = int(ints["computed"][row]), int(ints["high_water"][row])
            self.totals.recomputed_tokens += max(0, min(computed, before) - int(ints["start"][row]))
            ints["high_water"][row] = max(computed, before)
        self.books.drop_residents(rows)

    def _book_tokens(self, now_s: float, scheduled: Mapping[str, int]) -> None:
        books, ints = self.books, self.books.ints
        rows = np.fromiter(map(books.row_of.__getitem__, scheduled), np.int64, len(scheduled))
        tokens = np.fromiter(scheduled.values(), np.int64, len(scheduled))
        computed, silence_s, first = book_tokens(
            now_s, rows, tokens, ints["prompt"], ints["generated"], ints["computed"], books.last_token_s
        )
        self.totals.computed_tokens += computed
        self.totals.longest_silence_s = max(self.totals.longest_silence_s, silence_s)
        for row in rows[:first].tolist():
            self._tell(FIRST_TOKEN, row, now_s)

    def _tell(self, kind: int, row: int, now_s: float) -> None:
        if self.hooks & HAS_OBSERVE:
            ints = self.books.ints
            numbers = (int(ints[name][row]) for name in ("prompt", "generated", "computed", "class_id", "group"))
            event = Event(kind, now_s, row, float(self.books.arrival_s[row]), *numbers)
            self._observe(self._params, self._memory, event)

    def _view(self, now_s: float, free_blocks: int) -> View:
        books, ints = self.books, self.books.ints
        if len(self._mask) < len(books.residents):
            self._mask = np.ones(len(books.residents), np.int64)
        return View(
            now_s,
            self._iteration,
            free_blocks,
            self.limits.total_blocks,
            self.limits.block_size,
            self.limits.token_budget,
            self.limits.max_num_seqs,
            books.residents[: books.num_residents],
            books.head,
            books.waiting,
            ints["next"],
            books.arrival_s,
            ints["prompt"],
            ints["generated"],
            ints["computed"],
            ints["output"],
            ints["class_id"],
        )


def empty_books(gate: Gate) -> bool:
    """Whether no request is left in the books: true whenever the engine is idle."""
    return not gate.books.row_of and gate.books.num_residents == 0 and gate.books.num_waiting == 0
