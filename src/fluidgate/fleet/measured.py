"""`Measured`: what gauges say of replicas, held against what the gate believes was so when they were measured."""

from __future__ import annotations

from collections import deque
from math import inf, isnan, nan
from typing import NamedTuple

from fluidgate.fleet import forecasts, paces
from fluidgate.fleet.books import Books
from fluidgate.fleet.replica import Gauges

REMEMBERED_S = 120.0
"""How old gauges may be, to be held against what was believed then."""

TOLERANCE = 0.01
"""Share of a KV cache by which gauges and books may differ: prompts in chunks, blocks that are not full."""

SHARED_WEIGHT = 0.1
"""Of the latest gauges in what is known of shared prompts."""

MOST_EVICTED = 1000
"""Evictions between two gauges of a replica that are learned from: more say nothing more."""


class _Left(NamedTuple):
    """A request that has left its replica."""

    left_s: float
    sent_s: float
    prompt_tokens: int
    generated_tokens: int
    streamed: bool


class Measured:
    """What others hold, what prompts share, and evictions, by replica; all of it goes into the books' table."""

    def __init__(self, books: Books) -> None:
        self.books = books
        self._left: list[deque[_Left]] = []  # by replica, who left it lately
        self._preemptions: dict[int, float] = {}

    def add_replica(self) -> None:
        """There is one more."""
        self._left.append(deque())

    def note(self, k: int, gauges: Gauges, now_s: float) -> None:
        """Gauges of a replica have come. Those that are older than others that came before tell of evictions alone."""
        replica = self.books.fleet.table[k]
        evicted = gauges.preemptions - self._preemptions.get(k, nan)
        self._preemptions[k] = gauges.preemptions
        if evicted > 0:
            forecasts.tell_evictions(self.books.fleet, k, int(min(evicted, MOST_EVICTED)), now_s)
        if gauges.measured_s <= replica.measured_s or gauges.measured_s < now_s - REMEMBERED_S:
            return
        held, streaming, count = self._believed(k, gauges.measured_s, now_s)
        measured, slack = gauges.kv_use * replica.capacity, TOLERANCE * replica.capacity
        replica.measured_s, replica.mine_kv, replica.mine = gauges.measured_s, held, count
        replica.others_kv = measured - held if measured > held + slack else 0.0
        replica.others = max(0.0, gauges.running + gauges.waiting - count)
        if gauges.waiting == 0:
            self._learn_shared(k, streaming - measured if measured < streaming - slack else 0.0)
        replica.renewed_s, replica.closed = -inf, 0

    def _learn_shared(self, k: int, shared: float) -> None:
        """Prompts that share blocks hold fewer than they would one by one. A single gauge may be wrong: one ended."""
        replica, rows = self.books.fleet.table[k], self.books.rows
        prompts = max(1.0, float(rows.prompt_tokens[self.books.at_replica(k)].sum()))
        now = min(1.0, replica.unshared - shared / prompts if shared > 0 else replica.unshared + SHARED_WEIGHT)
        replica.unshared += SHARED_WEIGHT * (max(0.05, now) - replica.unshared)

    def left(self, row: int, now_s: float) -> None:
        """A request leaves its replica: what it held is kept, for gauges that were measured before."""
        rows = self.books.rows
        left = self._left[rows.replica[row]]
        lengths = int(rows.prompt_tokens[row]), int(rows.generated_tokens[row])
        left.append(_Left(now_s, float(rows.sent_s[row]), *lengths, not isnan(rows.seen_s[row])))
        while left[0].left_s < now_s - REMEMBERED_S:
            left.popleft()

    def _believed(self, k: int, time_s: float, now_s: float) -> tuple[float, float, float]:
        """What ours held at a replica at a time: KV tokens, those of the ones that streamed, and how many they were."""
        replica = self.books.fleet.table[k]
        held, streaming, count = paces.held_then(self.books.fleet, k, time_s, now_s)
        for one in reversed(self._left[k]):
            if one.left_s <= time_s:
                break
            if one.sent_s <= time_s:
                since = (one.left_s - time_s) / replica.pace_s if replica.pace_s > 0 else 0.0
                tokens = replica.unshared * one.prompt_tokens + max(0.0, one.generated_tokens - since)
                held, count = held + tokens + 0.5 * (replica.block_size - 1), count + 1
                streaming += tokens if one.streamed and one.generated_tokens > since else 0.0
        return held, streaming, count
