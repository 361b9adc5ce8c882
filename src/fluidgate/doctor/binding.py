"""`Binding`: which limit keeps requests waiting, decided once, so that findings cannot contradict each other."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean

from fluidgate.doctor.facts import Facts
from fluidgate.vllm_metrics.moment import Moment

NEARLY_FULL = 0.9
OFTEN = 0.2
"""A limit binds if it does at this share of the moments with work."""

QUEUE_BESIDE_ROOM = 0.1
"""Requests that wait per running one, from which on a limit other than memory keeps them out: fewer came in a burst."""

SEATS_TAKEN, BUDGET_SPENT = 0.95, 0.8
MANY_PER_REQUEST = 0.1
"""Evictions per finished request from which on room in the cache is what they left."""

SEATS, BUDGET = "--max-num-seqs", "--max-num-batched-tokens"


class Limit(StrEnum):
    """What keeps requests waiting."""

    NONE = "nothing"
    MEMORY = "KV memory"
    SEATS = "seats"
    BUDGET = "the token budget"
    GATE = "fluidgate's scheduler"
    UNKNOWN = "a limit that is not known"


@dataclass(frozen=True)
class Binding:
    """What keeps requests waiting.

    Attributes:
        moments: those at which it does.
        share: of the moments with work.
        by_evictions: whether evictions show it, where the cache has room at those moments: vLLM admits nobody just
            after one.
        possible: flags that may be the limit, where it is not known.
    """

    limit: Limit
    moments: tuple[Moment, ...] = ()
    share: float = 0.0
    by_evictions: bool = False
    possible: tuple[str, ...] = ()

    @property
    def kv_use(self) -> float:
        """Mean share of KV blocks in use at those moments; NaN without any."""
        return fmean(moment.kv_use for moment in self.moments) if self.moments else float("nan")

    @property
    def waiting(self) -> float:
        """Mean requests that wait at those moments; NaN without any."""
        return fmean(moment.waiting for moment in self.moments) if self.moments else float("nan")

    @property
    def running(self) -> float:
        """The most requests that ran at those moments; 0 without any."""
        return max((moment.running for moment in self.moments), default=0.0)


def binding_of(facts: Facts) -> Binding:
    """Which limit binds, by what ran and waited, what was evicted, and the limits that are known."""
    busy = facts.busy
    if not busy or facts.stands_still:
        return Binding(Limit.NONE)
    if facts.gate is not None and facts.gate.held > 0:
        return Binding(Limit.GATE)
    queued = [moment for moment in busy if moment.queued]
    full = tuple(moment for moment in queued if _no_room(moment, facts))
    if len(full) >= OFTEN * len(busy):
        return Binding(Limit.MEMORY, full, len(full) / len(busy))
    room = tuple(
        moment
        for moment in queued
        if not _no_room(moment, facts) and moment.waiting >= QUEUE_BESIDE_ROOM * moment.running
    )
    share = len(room) / len(busy)
    if share < OFTEN:
        return Binding(Limit.NONE)
    if (facts.preemptions_per_request or 0.0) >= MANY_PER_REQUEST:
        return Binding(Limit.MEMORY, room, share, by_evictions=True)
    running = max(moment.running for moment in room)
    tokens = facts.histogram("iteration_tokens_total")
    seats, budget = facts.max_num_seqs, facts.max_num_batched_tokens
    if seats is not None and running >= SEATS_TAKEN * seats:
        return Binding(Limit.SEATS, room, share)
    if budget is not None and tokens is not None and tokens.mean >= BUDGET_SPENT * budget:
        return Binding(Limit.BUDGET, room, share)
    possible = (SEATS,) * (seats is None) + (BUDGET,) * (budget is None and not _budget_is_larger(facts))
    return Binding(Limit.UNKNOWN, room, share, possible=possible)


def _budget_is_larger(facts: Facts) -> bool:
    """Whether single steps had so many tokens that the mean step is far from the budget, whatever it is."""
    tokens = facts.histogram("iteration_tokens_total")
    if tokens is None:
        return False
    largest = float(tokens.lower_edges[tokens.counts > 0][-1])
    return tokens.mean < BUDGET_SPENT * largest


def _no_room(moment: Moment, facts: Facts) -> bool:
    """vLLM admits a request where its whole prompt fits."""
    prompt = facts.histogram("request_prompt_tokens")
    needed = prompt.mean / facts.kv_tokens if prompt and facts.kv_tokens else 0.0
    return moment.kv_use >= NEARLY_FULL or 1.0 - moment.kv_use < needed
