"""`AskedGate`: a `FleetGate` for a router that has a queue of its own, and asks for one request at a time."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from fluidgate.errors import InputError
from fluidgate.fleet import forecasts
from fluidgate.fleet.gate import FleetGate
from fluidgate.fleet.replica import Answer, Refuse, Replica, Wait
from fluidgate.policies import Fluid
from fluidgate.policies.protocol import SHED


class AskedGate(FleetGate):
    """Such a router may ask for any that waits, send it elsewhere than it is told, and hear of lengths after ends.

    Arguments are those of `FleetGate`.
    """

    def __init__(self, replicas: Iterable[Replica] = (), policy: Fluid | None = None, *, gates: int = 1) -> None:
        super().__init__(replicas, policy, gates=gates)
        self._left_s: dict[int, float] = {}  # when those left their replica of whom the end is not known

    def ask(self, name: str, now_s: float) -> Answer:
        """Whether a request that waits may go now, before any that came earlier: for a router with its own order."""
        row = self._known(name)
        if row not in self.waiting:
            raise InputError(f"request {name!r} does not wait; it was let in already")
        self._pass(now_s)
        if self.books.rows.prompt_tokens[row] > self.books.largest_tokens:
            self._end(row, SHED, now_s)
            return Refuse(inf)
        if self._is_late(row, now_s):
            return self._refuse(row, self.expected_s(len(self.waiting)), now_s)
        if next(iter(self.waiting)) != row:
            self._open()  # a smaller one may have room where the first has none
        k = self._choose(row, now_s)
        return self._send(row, k, now_s) if k >= 0 else Wait(self.expected_s(1))

    def note_sent(self, name: str, replica: str, now_s: float) -> None:
        """A router has sent a request to this replica, whatever the gate has answered."""
        row, k = self._known(name), self._at(replica)
        self._pass(now_s)
        fleet, rows = self.books.fleet, self.books.rows
        if rows.replica[row] == k or row in self._left_s:
            return
        if fleet.table[k].count >= fleet.residents.shape[1]:
            self.books.more_seats()
        if rows.replica[row] < 0:
            self._send(row, k, now_s)
        else:
            forecasts.leave(self.books.fleet, row)
            forecasts.enter(self.books.fleet, k, row, now_s)

    def note_left(self, name: str, now_s: float) -> None:
        """A request in flight holds nothing any more; what became of it is told by `note_end` or `note_failure`."""
        row = self._known(name)
        if self.books.rows.replica[row] < 0:
            raise InputError(f"request {name!r} waits, and holds nothing; tell `note_failure` that its client has left")
        if row not in self._left_s:
            self._pass(now_s)
            super()._leave(row, now_s)
            self._left_s[row] = now_s

    def _learn_pace(self, row: int, left_s: float) -> None:
        super()._learn_pace(row, self._left_s.get(row, left_s))

    def _leave(self, row: int, now_s: float) -> None:
        if self._left_s.pop(row, None) is None:
            super()._leave(row, now_s)
