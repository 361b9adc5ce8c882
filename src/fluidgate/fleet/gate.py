"""`FleetGate`: one queue before several engines that stay as they are. It says which request goes where, and when.

It does no I/O and has no clock: a proxy tells it what happens, with the time, and does what it answers. From what it
lets in, sees streamed, and sees end it learns output lengths and the pace of every replica, and forecasts their KV; a
request is sent where the forecast leaves most room, and waits where none has any. Gauges correct what it believes.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from math import inf, isnan, nan

import numpy as np

from fluidgate.arrays import IntArray
from fluidgate.bounds import MAX_COUNT, check_number, check_whole
from fluidgate.errors import InputError, unknown
from fluidgate.fleet import forecasts, paces
from fluidgate.fleet.books import Books
from fluidgate.fleet.measured import Measured
from fluidgate.fleet.replica import Admit, Answer, FleetState, Gauges, Refuse, Replica, ReplicaState, Wait
from fluidgate.policies import Fluid
from fluidgate.policies.parts.fluid_laws import ESTIMATE_COMPLETIONS
from fluidgate.policies.protocol import ABORTED, ADMITTED, ARRIVED, FINISHED, SHED

STALE_S = 0.25
"""A forecast of this age is made again before it decides. An iteration takes 10 to 100 ms."""

LOOK_S = 0.25
"""How often the pace of replicas is taken."""

ASK_AGAIN_S = 5.0
"""A replica without room is asked again after this time even where nothing has changed."""

STARTS = 64
"""Requests that started while others waited, over which the time between two starts is taken."""

KEYS = 100_000
"""Prefixes whose replica is remembered."""


class FleetGate:
    """Admission for a fleet. Times are seconds on one clock, and never fall.

    Args:
        replicas: those that take requests; more by `add_replica`.
        policy: the length laws that it begins with and the evictions that are acceptable. Without one lengths are
            learned from nothing.
        gates: how many such gates send requests to these replicas.
        affinity_loss: the share of a KV cache by which a replica that may hold a request's prefix may have less room
            than the best and yet be chosen.
        most_waiting: requests that wait at most; more are refused.

    Raises:
        InputError: numbers that cannot be, two replicas of one name.
    """

    def __init__(
        self,
        replicas: Iterable[Replica] = (),
        policy: Fluid | None = None,
        *,
        gates: int = 1,
        affinity_loss: float = 0.05,
        most_waiting: float = inf,
    ) -> None:
        check_whole("gates", gates, 1, 1000)
        check_number("affinity_loss", affinity_loss, 0.0, 1.0, "of the KV cache")
        self.policy = policy or Fluid()
        self.affinity_loss, self.most_waiting = affinity_loss, most_waiting
        self.books = Books(self.policy, gates)
        self.waiting: OrderedDict[int, str] = OrderedDict()  # row: its prefix
        self._prefix_at: OrderedDict[str, int] = OrderedDict()
        self._measured = Measured(self.books)
        self._completions, self._due = 0, ESTIMATE_COMPLETIONS
        self._in_doubt = True
        self._iteration = 0.0
        self._turn = self._token_budget = 0
        self._clock_s = self._next_look_s = -inf
        self._looked_s = 0.0
        self._learned_s = -inf
        self._opened_s = -inf
        self._between_s: deque[float] = deque(maxlen=STARTS)  # starts while others waited
        self._started_s = nan  # the last of them; NaN: nobody has waited since
        for replica in replicas:
            self.add_replica(replica, -inf)

    # Requests

    def arrive(
        self,
        name: str,
        prompt_tokens: int,
        class_id: int = 0,
        *,
        now_s: float,
        timeout_s: float = inf,
        prefix: str = "",
        again: bool = False,
    ) -> Answer:
        """A request has come. One that no replica's KV cache holds is refused for good.

        Args:
            timeout_s: how long its client waits for the last token; where it does not say, what the policy assumes.
            prefix: what its prompt begins with (a session, a system prompt), where a replica may have it cached.
            again: it was in flight at a replica that died; it goes before those that wait.
        """
        books = self.books
        if name in books.row_of:
            raise InputError(f"request {name!r} is at the gate already; give every request a name of its own")
        check_whole("prompt_tokens", prompt_tokens)
        self._pass(now_s)
        if prompt_tokens > books.largest_tokens:
            return Refuse(inf)
        row = books.new_row(name, prompt_tokens, class_id, now_s, timeout_s)
        self._tell(ARRIVED, row, now_s)
        self.waiting[row] = prefix
        if again:
            self.waiting.move_to_end(row, last=False)
        if len(self.waiting) == 1 or again:
            k = self._choose(row, now_s)
            if k >= 0:
                return self._send(row, k, now_s)
        expected_s = self.expected_s(1 if again else len(self.waiting))
        if len(self.waiting) > self.most_waiting or self._is_late(row, now_s + (expected_s if expected_s > 0 else 0.0)):
            return self._refuse(row, expected_s, now_s)
        return Wait(expected_s)

    def released(self, now_s: float) -> list[tuple[str, Admit | Refuse]]:
        """The requests that waited and need not wait any more, each with its answer, in order."""
        self._pass(now_s)
        out: list[tuple[str, Admit | Refuse]] = []
        while self.waiting:
            row = next(iter(self.waiting))
            name = self.books.name_of[row]
            if self._is_late(row, now_s) or self.books.rows.prompt_tokens[row] > self.books.largest_tokens:
                out.append((name, self._refuse(row, self.expected_s(len(self.waiting)), now_s)))
                continue
            k = self._choose(row, now_s)
            if k < 0:
                break
            out.append((name, self._send(row, k, now_s)))
        return out

    def _is_late(self, row: int, start_s: float) -> bool:
        """Whether a request that starts at this time has hardly a chance to end before its client leaves."""
        rows, fleet = self.books.rows, self.books.fleet
        if (rows.timeout_s[row] == inf and not self.policy.sheds) or len(fleet.table) == 0:
            return False
        latest_s = forecasts.latest_start_s(fleet, row, self.pace_s, self._token_budget)
        return start_s - float(rows.arrival_s[row]) > min(latest_s, float(rows.timeout_s[row]))

    def _refuse(self, row: int, expected_s: float, now_s: float) -> Refuse:
        timeout_s = float(self.books.rows.timeout_s[row])
        self._end(row, SHED, now_s)
        return Refuse(1.0 if isnan(expected_s) else max(1.0, expected_s - (0.0 if timeout_s == inf else timeout_s)))

    def row_of(self, name: str) -> int:
        """The number of a request, for `note_tokens_of`: its own from its arrival to its end."""
        return self.books.row_of[name]

    def note_tokens(self, name: str, generated: int, now_s: float) -> None:
        """A request has so many tokens now."""
        row, rows = self._known(name), self.books.fleet.rows
        if generated < 0:
            raise InputError(f"request {name!r} cannot have {generated} tokens; count those that it has got")
        rows.generated_tokens[row], rows.seen_s[row] = generated, now_s

    def note_tokens_of(self, rows: IntArray, generated: IntArray, now_s: float) -> None:
        """`note_tokens` of many: their numbers by `row_of`, and their tokens, each at least 1."""
        columns = self.books.fleet.rows
        if len(generated) and generated.min() < 0:
            raise InputError(f"a request cannot have {generated.min()} tokens; count those that it has got")
        columns.generated_tokens[rows], columns.seen_s[rows] = generated, now_s

    def note_end(self, name: str, now_s: float, generated: int | None = None) -> None:
        """A request has all its tokens: so many, or as many as were seen."""
        row = self._known(name)
        if generated is not None:
            self.books.rows.generated_tokens[row] = max(0, generated)
        complete = self.books.rows.replica[row] >= 0 and self.books.rows.generated_tokens[row] > 0
        self._end(row, FINISHED if complete else ABORTED, now_s)

    def note_failure(self, name: str, now_s: float) -> None:
        """A request has failed, or its client has left, wherever it was."""
        self._end(self._known(name), ABORTED, now_s)

    def _known(self, name: str) -> int:
        if name not in self.books.row_of:
            raise InputError(f"request {name!r} is not at the gate; it has ended, or never came")
        return self.books.row_of[name]

    def _end(self, row: int, kind: int, now_s: float) -> None:
        self._pass(now_s)
        books = self.books
        if books.rows.replica[row] < 0:
            was_first = next(iter(self.waiting)) == row
            del self.waiting[row]
            self._started_s = self._started_s if self.waiting else nan
            if was_first:
                self._open()
        else:
            self._learn_pace(row, now_s)
            self._leave(row, now_s)
        self._tell(kind, row, now_s)
        self._completions += kind == FINISHED
        books.forget(row)

    def _leave(self, row: int, now_s: float) -> None:
        """It holds nothing any more at its replica."""
        self._measured.left(row, now_s)
        forecasts.leave(self.books.fleet, row)

    def _learn_pace(self, row: int, left_s: float) -> None:
        """Where no token was seen, what an iteration takes follows from the whole time of a request."""
        rows = self.books.rows
        generated = int(rows.generated_tokens[row])
        if isnan(rows.seen_s[row]) and generated > 0:
            seconds = (left_s - float(rows.sent_s[row])) / generated
            paces.note_pace(self.books.fleet, int(rows.replica[row]), seconds, float(generated))

    def _send(self, row: int, k: int, now_s: float) -> Admit:
        if not isnan(self._started_s):
            self._between_s.append(now_s - self._started_s)
        prefix = self.waiting.pop(row)
        self._started_s = now_s if self.waiting else nan
        forecasts.enter(self.books.fleet, k, row, now_s)
        self._tell(ADMITTED, row, now_s)
        self._turn = (k + 1) % len(self.books.names)
        if prefix:
            self._prefix_at[prefix] = k
            self._prefix_at.move_to_end(prefix)
            if len(self._prefix_at) > KEYS:
                self._prefix_at.popitem(last=False)
        return Admit(self.books.names[k])

    def _choose(self, row: int, now_s: float) -> int:
        self._learn(now_s)
        preferred = self._prefix_at.get(self.waiting[row], -1)
        return forecasts.choose(self.books.fleet, row, now_s, STALE_S, self._turn, preferred, self.affinity_loss)

    # Replicas

    def add_replica(self, replica: Replica, now_s: float) -> None:
        """A replica takes requests from now on; one of a name that has died begins anew."""
        at = self.books.replica_at.get(replica.name)
        if at is not None and self.books.fleet.table[at].takes:
            raise InputError(f"replica {replica.name!r} is in the fleet already; give every replica a name of its own")
        self.books.add_replica(replica)
        self._due = ESTIMATE_COMPLETIONS * len(self.books.names)
        self._token_budget = max(self._token_budget, replica.token_budget)
        self._measured.add_replica()

    def drain_replica(self, name: str, now_s: float) -> None:
        """A replica takes no more requests, and serves what it has."""
        self.books.set_takes(self._at(name), False)

    def resume_replica(self, name: str, now_s: float) -> None:
        """A replica that was drained takes requests again, with what it still has."""
        self.books.set_takes(self._at(name), True)
        self._open()

    def resize_replica(self, name: str, total_blocks: int) -> None:
        """A replica has so many KV blocks, the null block not counted, whatever was said of it before."""
        check_whole("total_blocks", total_blocks, 1, MAX_COUNT)
        k, table = self._at(name), self.books.fleet.table
        table[k].capacity, table[k].renewed_s = total_blocks * table[k].block_size, -inf
        self.books.set_takes(k, bool(table[k].takes))
        self._open()

    def replica_died(self, name: str, now_s: float) -> list[str]:
        """A replica is gone; returns what was in flight there, which the gate knows no more."""
        self._pass(now_s)
        k, books = self._at(name), self.books
        books.set_takes(k, False)
        lost = [books.name_of[row] for row in books.at_replica(k)]
        for lost_name in lost:
            self._end(books.row_of[lost_name], ABORTED, now_s)
        return lost

    def _at(self, name: str) -> int:
        if name not in self.books.replica_at:
            raise unknown("replica", name, self.books.names)
        return self.books.replica_at[name]

    def note_gauges(self, name: str, gauges: Gauges, now_s: float) -> None:
        """Gauges of a replica have come, of whatever age."""
        k = self._at(name)
        self._measured.note(k, gauges, now_s)

    # Time

    def _pass(self, now_s: float) -> None:
        """Let time pass: look at the replicas now and then, and ask those without room again."""
        if now_s < self._clock_s:
            raise InputError(f"time went back from {self._clock_s} s to {now_s} s; give the gate one rising clock")
        if now_s >= self._next_look_s:
            self._look(now_s)
        if now_s >= self._opened_s + ASK_AGAIN_S:
            self._open()
            self._opened_s = now_s
        self._clock_s = now_s

    def _look(self, now_s: float) -> None:
        paces.note_paces(self.books.fleet)
        pace_s = self.pace_s
        if pace_s > 0:
            self._iteration += (now_s - self._looked_s) / pace_s
        self._looked_s, self._next_look_s = now_s, now_s + LOOK_S

    @property
    def pace_s(self) -> float:
        """Mean seconds of an iteration over the replicas that have served; 0 where none has."""
        paces_s = self.books.fleet.table.pace_s
        return float(paces_s[paces_s > 0].mean()) if (paces_s > 0).any() else 0.0

    def _open(self) -> None:
        self.books.fleet.table.closed = 0

    def _learn(self, now_s: float) -> None:
        """Estimate the laws where that is due: replicas together as often as one engine does alone."""
        if self._completions < self._due and now_s < self._learned_s + 1.0 and not self._in_doubt:
            return
        fleet = self.books.fleet
        among = np.zeros(int(fleet.table["count"].sum()), np.int64)
        if forecasts.learn(fleet, among, float(self._due), self._iteration, now_s):
            self._completions = 0
        self._learned_s, self._in_doubt = now_s, forecasts.in_doubt(fleet.memory) > 0.0

    def _tell(self, kind: int, row: int, now_s: float) -> None:
        forecasts.tell(self.books.fleet, kind, row, now_s)

    # What is known

    def expected_s(self, place: int) -> float:
        """How long the request at this place of the queue waits, seconds; NaN where nothing tells."""
        return place * sum(self._between_s) / len(self._between_s) if self._between_s else nan

    def state(self, now_s: float) -> FleetState:
        """What the gate knows now, for metrics and for people."""
        self._pass(now_s)
        books, each = self.books, []
        for k, name in enumerate(books.names):
            held, peak = forecasts.predicted(books.fleet, k, now_s)
            one = books.fleet.table[k]
            measured_s = float(one.measured_s)
            each.append(
                ReplicaState(
                    name,
                    bool(one.takes),
                    int(one["count"]),
                    held,
                    peak,
                    float(one.outside),
                    float(one.pace_s),
                    now_s - measured_s if measured_s > -inf else nan,
                )
            )
        return FleetState(len(self.waiting), self.expected_s(len(self.waiting) + 1), tuple(each))
