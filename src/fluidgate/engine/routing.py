"""Routers choose the replica of a request at its arrival, from what can be seen then.

Every router follows one rule: of the replicas it asks it takes the least loaded, the first among equals. They differ in
which replicas they ask and in what they call load:

- `round-robin` asks one, each in turn;
- `least-loaded` asks all for their requests (waiting and resident);
- `least-kv` asks all for their KV tokens (blocks in use, and what waiting requests will need to start);
- `power-of-two` asks two at random for their requests (Mitzenmacher, IEEE TPDS 12 (10), 2001).

Those that ask all begin with the replica whose turn it is in a round, so that ties, an idle fleet's above all, do not
fall on the first replica. A replica is asked for its state at the exact time of the arrival: an iteration under way has
taken its blocks and given no token yet. What no router asks for is simulated later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fluidgate.arrays import IntArray
from fluidgate.bounds import MAX_REPLICAS, check_whole
from fluidgate.engine.loop import UNKNOWN_CLASS, run_loop
from fluidgate.engine.replicas import replica_cache, replica_state
from fluidgate.engine.state import (
    BLOCK_SIZE,
    LAST_FINISH,
    LAST_FINISHED,
    LAST_FREED,
    NEXT_ARRIVAL,
    NOW,
    RUNNING,
    TOTAL_BLOCKS,
    WAITING,
    WAITING_TOKENS,
)
from fluidgate.errors import InputError
from fluidgate.kernel import entry_kernel, inlined_kernel
from fluidgate.workload._random import random_streams

ROUTERS = ("round-robin", "least-loaded", "least-kv", "power-of-two")

WITHOUT_LIMIT = 1 << 62


@dataclass(frozen=True)
class Fleet:
    """Replicas of one engine behind a router; each has its own queue, KV cache and policy.

    Attributes:
        replicas: how many.
        router: a name in `ROUTERS`; the module says what they do.
        seed: of `power-of-two`'s draws.
    """

    replicas: int = 1
    router: str = "round-robin"
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("replicas", self.replicas, 1, MAX_REPLICAS)
        if self.router not in ROUTERS:
            raise InputError(f"router {self.router!r} is not one of {', '.join(ROUTERS)}")
        random_streams(self.seed, 1)


class Turns(NamedTuple):
    """Which replicas a router asks: request i asks `first[i]`, `first[i] + stride[i]`, … (modulo their number)."""

    first: IntArray
    stride: IntArray
    asked: int
    by_kv: bool


def turns_of(fleet: Fleet, requests: int) -> Turns:
    """The router's choices for every request, shape (requests,); random ones by Philox, which counts."""
    first, stride = np.arange(requests) % fleet.replicas, np.ones(requests, np.int64)
    if fleet.router == "round-robin":
        return Turns(first, stride, 1, False)
    if fleet.router == "power-of-two":
        draw = np.random.Generator(np.random.Philox(random_streams(fleet.seed, 1)[0]))
        first = draw.integers(fleet.replicas, size=requests)
        stride = draw.integers(1, max(2, fleet.replicas), size=requests)
        return Turns(first, stride, min(2, fleet.replicas), False)
    return Turns(first, stride, fleet.replicas, fleet.router == "least-kv")


@inlined_kernel
def load(state, cache, time_s, by_kv):
    """A replica's load at `time_s`, in requests or in KV tokens; it has begun all that it begins before then."""
    requests = state.counter[RUNNING] + state.counter[WAITING]
    tokens = state.counter[WAITING_TOKENS]
    blocks = state.setting[TOTAL_BLOCKS] - cache.free[0]
    if state.clock[LAST_FINISH] > time_s:  # at the end of an iteration that is under way: not visible yet
        requests += state.counter[LAST_FINISHED]
        blocks += state.counter[LAST_FREED]
    row = state.counter[NEXT_ARRIVAL]
    while row < len(state.arrival_s):  # sent here during that iteration
        requests += 1
        tokens += state.prompt_tokens[row]
        row = state.following[row]
    return blocks * state.setting[BLOCK_SIZE] + tokens if by_kv else requests


@inlined_kernel
def send(states, k, row, last_sent):
    """Let `row` arrive at replica `k`, after what was sent there before."""
    if states.counter[k, NEXT_ARRIVAL] == len(states.arrival_s):
        states.counter[k, NEXT_ARRIVAL] = row
    else:
        states.following[last_sent[k]] = row
    last_sent[k] = row


@entry_kernel
def route(
    states, caches, log, classify, rank, admit, advance, observe, hooks, params, memories, turns, start, last_sent, to
):
    """Send the requests from `start` on, as many as `to` has room for, and write the replica of each there.

    `last_sent` holds the last row that each replica was sent. False if the policy has put a request into a class that
    does not exist.
    """
    replicas = len(last_sent)
    for row in range(start, start + len(to)):
        time_s = states.arrival_s[row]
        chosen = turns.first[row]
        least = -1
        for j in range(turns.asked if turns.asked > 1 else 0):
            k = (turns.first[row] + j * turns.stride[row]) % replicas
            state, cache, memory = replica_state(states, k), replica_cache(caches, k), memories[k]
            if state.clock[NOW] < time_s:
                status = run_loop(
                    *(state, cache, log, classify, rank, admit, advance, observe, hooks, params, memory),
                    *(WITHOUT_LIMIT, time_s),
                )
                if status == UNKNOWN_CLASS:
                    return False
            asked_load = load(state, cache, time_s, turns.by_kv)
            if least < 0 or asked_load < least:
                chosen, least = k, asked_load
        send(states, chosen, row, last_sent)
        to[row - start] = chosen
    return True
