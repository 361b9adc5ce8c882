"""Requests that wait for their first byte, by the engine's names for them and by their deadlines."""

from __future__ import annotations

import re
from collections import defaultdict
from heapq import heappop, heappush
from itertools import count

from fluidgate.serving.admission.endpoints import Endpoint
from fluidgate.serving.admission.exchange import Exchange
from fluidgate.serving.gate_state import GateState

_CHILD = re.compile(r"^[0-9]+_(?=chatcmpl-|cmpl-|generate-tokens-)")
_RANDOM = re.compile(r"-[0-9a-f]{8}$")
_BEAM = re.compile(r"-[0-9a-f]{32}-beam-[0-9]+$")
_INDEX = re.compile(r"([-_])[0-9]+$")
MOST_UNCLAIMED = 4096
"""Shed requests that are remembered although nobody here is known by their names: those of answers that are still to
say their own, and those of other API servers."""


def forms_of(engine_id: str) -> tuple[str, ...]:
    """What an engine's id may be without what the door does not know, likeliest first; # is a number at its end."""
    plain = _RANDOM.sub("", _CHILD.sub("", engine_id))
    bare = _BEAM.sub("", plain)
    return tuple(dict.fromkeys(form for name in (plain, bare) for form in (name, _INDEX.sub(r"\1#", name))))


class Waiting:
    """The requests that wait for their first byte, and the names of those that go on."""

    def __init__(self) -> None:
        self._by_id: defaultdict[str, list[Exchange]] = defaultdict(list)
        self._due: list[tuple[float, int, Exchange]] = []
        self._order = count()
        self._waiting: set[Exchange] = set()
        self._ids: dict[Exchange, list[str]] = {}
        self._shed_before: frozenset[str] = frozenset()
        self._unclaimed: dict[str, str] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, exchange: Exchange) -> None:
        """One more."""
        self._waiting.add(exchange)
        self._ids[exchange] = []
        for due_s in (exchange.first_byte_due_s, exchange.due_s):
            if due_s is not None:
                heappush(self._due, (due_s, next(self._order), exchange))

    def name(self, exchange: Exchange, name: str) -> str | None:
        """The request is called so in the engine; the reason if it has been shed already."""
        ids = [form.format(name) for form in exchange.endpoint.ids]
        for one in ids:
            self._by_id[one].append(exchange)
        self._ids[exchange] += ids
        return next((self._unclaimed.pop(one) for one in ids if one in self._unclaimed), None)

    def is_nameless(self, exchange: Exchange, *, ends: bool) -> bool:
        """Whether it matters what the request is called; if its answer `ends` with this, only to one already shed."""
        return self._ids.get(exchange) == [] and (bool(self._unclaimed) or not ends)

    def knows(self, endpoint: Endpoint, name: str) -> bool:
        """Whether another request would be called the same in the engine."""
        return any(form.format(name) in self._by_id for form in endpoint.ids)

    def answered(self, exchange: Exchange) -> None:
        """It has its first byte."""
        self._waiting.discard(exchange)

    def remove(self, exchange: Exchange) -> None:
        """It has ended."""
        self._waiting.discard(exchange)
        for one in self._ids.pop(exchange, ()):
            self._by_id[one].remove(exchange)
            if not self._by_id[one]:
                del self._by_id[one]

    def shed(self, state: GateState) -> list[tuple[Exchange, str]]:
        """Those whom a new state says to be shed, and why.

        Where it may be of two, nobody knows whose it was; vLLM answers these.
        """
        before, found = self._shed_before, []
        self._shed_before = frozenset(shed.get("request_id", "") for shed in state.recent_sheds)
        for shed in state.recent_sheds:
            name, reason = shed.get("request_id", ""), shed.get("reason", "it was shed")
            if name in before:
                continue
            forms = forms_of(name)
            owners = next((self._by_id[form] for form in forms if form in self._by_id), [])
            if len(owners) == 1:
                found.append((owners[0], reason))
            elif not owners:
                self._unclaimed[forms[-1]] = reason
        while len(self._unclaimed) > MOST_UNCLAIMED:
            del self._unclaimed[next(iter(self._unclaimed))]
        return found

    def overdue(self, now_s: float) -> list[Exchange]:
        """Those whose deadlines have passed since the last call."""
        found = []
        while self._due and self._due[0][0] <= now_s:
            exchange = heappop(self._due)[2]
            if exchange in self._waiting:
                found.append(exchange)
        return found
