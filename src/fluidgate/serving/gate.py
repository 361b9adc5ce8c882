"""`Gate`: a policy beside a live scheduler. It keeps the books the policy sees and turns decisions into names.

Nothing here knows vLLM. The scheduler reports what happened (`joined`, `book`, `left`) and asks what may happen
(`decide`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

from fluidgate.arrays import NONE
from fluidgate.engine.compiled import load_program, new_params
from fluidgate.engine.policy_hooks import HAS_ADMIT, HAS_ADVANCE, HAS_CLASSIFY, HAS_OBSERVE, HAS_SHED, NO_LIMIT
from fluidgate.hardware import KvLaw
from fluidgate.policies import Policy
from fluidgate.policies.protocol import (
    ABORTED,
    ADMITTED,
    ARRIVED,
    FINISHED,
    FIRST_TOKEN,
    PREEMPTED,
    SHED,
    SHED_AT_ONCE,
    Event,
    Request,
    View,
)
from fluidgate.serving.books import FIRST_ROWS, Books, book_tokens
from fluidgate.serving.counted_pool import CountedPool

_NONE_KNOWN = np.zeros(0)


@dataclass(frozen=True)
class Limits:
    """What the engine reports at its start: blocks (less the null block), tokens per block and per iteration, seats.

    `law` says how many blocks a request holds; None: one for each `block_size` tokens.
    """

    total_blocks: int
    block_size: int
    token_budget: int
    max_num_seqs: int
    law: KvLaw | None = None


@dataclass(frozen=True)
class Room:
    """The KV cache and the seats before an iteration; requests outside the books hold `outside_blocks` and seats."""

    free_blocks: int
    outside_blocks: int = 0
    outside_seats: int = 0


@dataclass(frozen=True)
class Standing:
    """Where a request stands in the engine, as far as a policy may know; from it books are rebuilt.

    `timeout_s` and `ttft_timeout_s` say how long after its arrival its client waits for the last and the first token.
    """

    name: str
    prompt_tokens: int
    output_tokens: int
    class_id: int
    generated_tokens: int = 0
    computed_tokens: int = 0
    timeout_s: float = inf
    ttft_timeout_s: float = inf


@dataclass(frozen=True)
class Entry:
    """A request that became resident: tokens found in the prefix cache, and tokens generated before."""

    cached_tokens: int
    generated_tokens: int


@dataclass(frozen=True)
class Decision:
    """What a policy decided for one iteration.

    Attributes:
        admit: how many waiting requests may enter; None where the policy sets no limit.
        only: names of the requests that may enter, where a number does not tell them; None otherwise.
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
    shed: int = 0
    preempted: int = 0
    held_steps: int = 0
    held_s: float = 0.0
    paused: int = 0
    computed_tokens: int = 0
    recomputed_tokens: int = 0
    forced: int = 0
    longest_silence_s: float = 0.0


class Gate:
    """A policy with its books, its memory and its compiled decision functions."""

    def __init__(self, policy: Policy, limits: Limits) -> None:
        program = load_program(policy)
        self.policy, self.limits, self.hooks = policy, limits, program.hooks
        self._classify, _, self._admit, self._advance, self._shed, self._observe = program.decisions
        self._params, self._memory = new_params(policy), policy.new_memory()
        self.books = Books(policy.num_classes)
        self.pool = CountedPool(limits.law or KvLaw.full(limits.block_size))
        self.totals = Totals()
        self.published = Totals()  # what the metrics have seen
        self._quota = np.full(policy.num_classes, NO_LIMIT, np.int64)
        self.num_paused = 0
        self.num_held = 0  # waiting requests beyond the quotas of the last decision
        self._mask = np.ones(FIRST_ROWS, np.int64)
        self._shed_rows = np.full(SHED_AT_ONCE, NONE, np.int64)
        self._iteration = 0
        self._held_at_s: float | None = None
        self._formed_nothing = False
        self._book_tokens(0.0, {})  # compiled before the first request comes

    def predicted_peak_share(self) -> float:
        """Share of the KV cache that the residents will need if each generates as many tokens again as it has.

        An age-doubling guess: it needs no output lengths, and for most laws a stream's residual life is about its age.
        """
        books, ints = self.books, self.books.ints
        rows = books.residents[: books.num_residents]
        tokens = int((ints["prompt"][rows] + 2 * ints["generated"][rows]).sum())
        return tokens / (max(1, self.pool.counted(self.limits.total_blocks)) * self.limits.block_size)

    def joined(self, new: Standing, now_s: float) -> None:
        """A request has arrived; its output length is shown only to a policy that asks for it."""
        self._arrive(new, now_s)
        self.pool.arrived(new.prompt_tokens)
        self.books.queue(self.books.row_of[new.name], front=False)

    def _arrive(self, new: Standing, now_s: float) -> None:
        books = self.books
        row = books.new_row(new.name)
        ints = books.ints
        books.arrival_s[row], books.last_token_s[row] = now_s, np.nan
        books.timeout_s[row], books.ttft_timeout_s[row] = new.timeout_s, new.ttft_timeout_s
        ints["prompt"][row], ints["class_id"][row] = new.prompt_tokens, new.class_id
        ints["output"][row] = new.output_tokens if self.policy.needs_output_length else NONE
        for column in ("generated", "computed", "start", "high_water", "group"):
            ints[column][row] = 0
        if self.hooks & HAS_CLASSIFY:
            request = Request(row, now_s, new.prompt_tokens, int(ints["output"][row]), new.class_id)
            ints["group"][row] = self._classify(self._params, request)
        self._tell(ARRIVED, row, now_s)

    def left(
        self, names: Collection[str], now_s: float, aborted: Collection[str] = (), kind_of_aborted: int = ABORTED
    ) -> None:
        """Requests have finished or failed, wherever they were; those in `aborted` were stopped from outside."""
        books = self.books
        rows = {name: books.row_of[name] for name in names if name in books.row_of}
        residents = [row for row in rows.values() if books.is_resident[row]]
        for name, row in rows.items():
            if not books.is_resident[row]:
                books.unqueue(row)
            self._tell(kind_of_aborted if name in aborted else FINISHED, row, now_s)
            self.pool.ended(int(books.ints["prompt"][row]), int(books.ints["generated"][row]))
        self._end_residencies(residents)
        for name in rows:
            books.forget(name)

    def set_aside(self, names: Collection[str], back: Collection[str]) -> None:
        """The engine would pass over `names` now: the policy does not count on them; those in `back` wait again."""
        for name in names:
            self.books.set_aside(self.books.row_of[name])
        for name in back:
            self.books.put_back(self.books.row_of[name])

    def rebuild(self, residents: Sequence[Standing], waiting: Sequence[Standing], now_s: float) -> None:
        """Make the books what the engine says, in its order. What the policy has learned stays.

        Requests keep their rows, and the policy gets the events that it has missed.
        """
        books = self.books
        was_resident = {name for name, row in books.row_of.items() if books.is_resident[row]}
        names = {request.name for request in (*residents, *waiting)}
        books.clear_order()
        for name in [name for name in books.row_of if name not in names]:
            self._tell(ABORTED, books.row_of[name], now_s)
            books.forget(name)
        for request in (*residents, *waiting):
            if request.name not in books.row_of:
                self._arrive(request, now_s)
            row = books.row_of[request.name]
            books.ints["generated"][row] = request.generated_tokens
            books.ints["computed"][row] = request.computed_tokens
        for request in residents:
            row = books.row_of[request.name]
            books.seat(row)
            if request.name not in was_resident:
                self._tell(ADMITTED, row, now_s)
        for request in waiting:
            row = books.row_of[request.name]
            books.queue(row, front=False)
            if request.name in was_resident:
                self._tell(PREEMPTED, row, now_s)

    def give_up(self, now_s: float, room: Room) -> list[str]:
        """Ask the policy which requests it gives up, and take them out of the books; empty: no more."""
        if not self.hooks & HAS_SHED or self.books.num_waiting == 0:
            return []
        self._shed_rows[:] = NONE
        self._shed(self._params, self._memory, self._view(now_s, room), self._shed_rows)
        rows = dict.fromkeys(self._shed_rows[self._shed_rows != NONE].tolist())
        names = [self.books.name_of[row] for row in rows if self.books.name_of[row]]
        self.left(names, now_s, names, SHED)
        self.totals.shed += len(names)
        return names

    def latest_starts_s(self) -> tuple[float, ...]:
        """`Policy.latest_starts_s`, of what it has learned here."""
        return self.policy.latest_starts_s(self._memory)

    def decide(self, now_s: float, room: Room, *, by_name: bool = False) -> Decision:
        """Ask the policy what may happen in the next iteration.

        Args:
            by_name: say who may enter rather than how many: the engine may pass over some of those that wait.
        """
        books = self.books
        self._quota[:] = NO_LIMIT
        self.num_paused = self.num_held = 0
        if self.books.num_waiting == 0 and not (self.hooks & HAS_ADVANCE):
            return Decision()
        view = self._view(now_s, room)
        paused, ask_again_s = self._paused(view)
        if books.num_waiting and self.hooks & HAS_ADMIT:
            asked_s = self._admit(self._params, self._memory, view, self._quota)
            ask_again_s = _sooner(ask_again_s, asked_s, now_s)
            np.maximum(self._quota, 0, out=self._quota)
        if ask_again_s == inf and self._idles(paused):
            paused = []
            self._release_idle_engine()
        self.num_paused = len(paused)
        self.num_held = int(np.maximum(books.waiting - self._quota, 0).sum())
        self.totals.paused += len(paused)
        return self._admission(paused, by_name=by_name)

    def _paused(self, view: View) -> tuple[list[str], float]:
        """The residents that the policy lets skip the iteration, and the time (s) at which it wants to be asked."""
        count = len(view.residents)
        if count == 0 or not self.hooks & HAS_ADVANCE:
            return [], inf
        self._mask[:count] = 1
        asked_s = self._advance(self._params, self._memory, view, self._mask)
        names = [self.books.name_of[row] for row in view.residents[self._mask[:count] == 0]]
        return names, _sooner(inf, asked_s, view.now_s)

    def _idles(self, paused: Sequence[str]) -> bool:
        """Whether the policy lets no resident run and no request enter, or those that may enter found no room."""
        if len(paused) < self.books.num_residents:
            return False
        return not self._quota.any() or (len(paused) > 0 and self._formed_nothing)

    def _release_idle_engine(self) -> None:
        """Let the first request enter and the residents run: nothing else would ever end the hold.

        The simulator ends such a run as `Stalled`; here a client waits for an answer.
        """
        heads = [(self.books.arrival_s[row], group) for group, row in enumerate(self.books.head) if row != NONE]
        if heads:
            first = min(heads)[1]
            self._quota[first] = max(self._quota[first], 1)
        self.totals.forced += 1

    def _admission(self, paused: list[str], *, by_name: bool) -> Decision:
        quota, waiting = self._quota, self.books.waiting
        if len(quota) == 1 and not by_name:
            return Decision(None if quota[0] >= waiting[0] else int(quota[0]), paused=paused)
        if (quota == NO_LIMIT).all() or (not by_name and (quota >= waiting).all()):
            return Decision(paused=paused)
        if not by_name and not quota.any():
            return Decision(admit=0, paused=paused)
        return Decision(only=self._first_allowed(np.minimum(quota, waiting).tolist()), paused=paused)

    def _first_allowed(self, allowed: list[int]) -> list[str]:
        """The first requests of each class, as many as may enter and as there are seats, in queueing order."""
        books, rows = self.books, []
        for group, count in enumerate(allowed):
            row = int(books.head[group])
            for _ in range(min(count, self.limits.max_num_seqs)):
                rows.append(row)
                row = int(books.ints["next"][row])
        return [books.name_of[row] for row in sorted(rows, key=books.ints["sequence"].__getitem__)]

    def loading(self, entered: Mapping[str, Entry], now_s: float) -> None:
        """Requests hold KV that is still being fetched: residents that do not compute yet."""
        for name, entry in entered.items():
            self._enter(self.books.row_of[name], entry, now_s)

    def book(
        self, now_s: float, scheduled: Mapping[str, int], entered: Mapping[str, Entry], evicted: Collection[str] = ()
    ) -> None:
        """An iteration has been formed.

        Args:
            scheduled: tokens by name, in the scheduler's order.
            entered: the requests that have just joined the running ones, in their order.
            evicted: names of preempted requests.
        """
        books, ints = self.books, self.books.ints
        self.evicted(evicted, now_s)
        for name, entry in entered.items():
            row = books.row_of[name]
            if books.is_resident[row]:  # its KV has been fetched
                books.reseat(row)
            else:
                self._enter(row, entry, now_s)
            ints["computed"][row] = ints["start"][row] = entry.cached_tokens
        if len(scheduled):
            self._iteration += 1
            self._book_tokens(now_s, scheduled)
        self._formed_nothing = not scheduled
        self._book_hold(now_s)

    def _enter(self, row: int, entry: Entry, now_s: float) -> None:
        books, ints = self.books, self.books.ints
        books.unqueue(row)
        books.seat(row)
        ints["computed"][row] = ints["start"][row] = entry.cached_tokens
        ints["generated"][row] = entry.generated_tokens
        self.totals.resumed += int(ints["high_water"][row] > 0)
        self.totals.admitted += int(ints["high_water"][row] == 0)
        self._tell(ADMITTED, row, now_s)

    def _book_hold(self, now_s: float) -> None:
        """Count an iteration in which no request may enter, and the time since the one before if it was one too."""
        held = self.books.num_waiting > 0 and not self._quota.any()
        if held:
            self.totals.held_steps += 1
            self.totals.held_s += 0.0 if self._held_at_s is None else now_s - self._held_at_s
        self._held_at_s = now_s if held else None

    def evicted(self, names: Collection[str], now_s: float) -> None:
        """Residents have lost their KV and wait again; vLLM takes them from the end of the running order."""
        if not names:
            return
        books = self.books
        chosen = {books.row_of[name] for name in names if name in books.row_of}  # the others were aborted since
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

    def _view(self, now_s: float, room: Room) -> View:
        books, ints = self.books, self.books.ints
        if len(self._mask) < len(books.residents):
            self._mask = np.ones(len(books.residents), np.int64)
        return View(
            now_s,
            self._iteration,
            self.pool.counted(room.free_blocks),
            max(1, self.pool.counted(self.limits.total_blocks - room.outside_blocks)),
            self.limits.block_size,
            self.limits.token_budget,
            max(1, self.limits.max_num_seqs - room.outside_seats),
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
            books.timeout_s if self.policy.needs_timeouts else _NONE_KNOWN,
            books.ttft_timeout_s if self.policy.needs_timeouts else _NONE_KNOWN,
        )


def _sooner(time_s: float, asked_s: float, now_s: float) -> float:
    """The earlier of two times to ask again; one that is past, or not a number, does not count, as in `engine.loop`."""
    return asked_s if now_s < asked_s < time_s else time_s
