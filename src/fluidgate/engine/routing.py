"""Routers choose the replica of a request at its arrival, from what can be seen then.

Every router follows one rule: of the replicas it asks it takes the least loaded, the first among equals. They differ in
which replicas they ask and in what they call load:

- `round-robin` asks one, each in turn;
- `least-loaded` asks all for their requests (waiting and resident);
- `least-kv` asks all for their KV tokens (blocks in use, and what waiting requests will need to start);
- `power-of-two` asks two at random for their requests (Mitzenmacher, IEEE TPDS 12 (10), 2001);
- `by-class` asks one, that of the request's label: label k goes to replica k modulo their number;
- `gcd-mixing` asks one, each in turn for the requests of every output length (remedy 2 of Ao, Dong, Luo, Simchi-Levi,
  arXiv 2606.15555). So each replica serves all lengths in equal shares, and the greatest common divisor of its lengths
  is that of all of them: no assignment has a smaller one. It is told output lengths, as no other router is.

Those that ask all begin with the replica whose turn it is in a round, so that ties, an idle fleet's above all, do not
fall on the first replica. A replica is asked for its state at the exact time of the arrival: an iteration under way has
taken its blocks and given no token yet. What no router asks for is simulated later.

Where replies decide when requests are sent (`route_closed`), replicas advance together: always the one that is furthest
behind, until nothing can leave any of them before the next request is sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fluidgate.arrays import IntArray
from fluidgate.bounds import MAX_REPLICAS, check_whole
from fluidgate.engine.arrivals import hand_in, next_arrival_s, next_send_s, send_next
from fluidgate.engine.loop import FUTILE_RUN, UNKNOWN_CLASS, run_loop
from fluidgate.engine.outside import Outside
from fluidgate.engine.patience import next_deadline_s
from fluidgate.engine.replicas import replica_cache, replica_state
from fluidgate.errors import unknown
from fluidgate.kernel import entry_kernel, inlined_kernel
from fluidgate.workload import Workload
from fluidgate.workload._random import random_streams

ROUTERS = ("round-robin", "least-loaded", "least-kv", "power-of-two", "by-class", "gcd-mixing")

WITHOUT_LIMIT = 1 << 62


@dataclass(frozen=True)
class Fleet:
    """Replicas of one engine behind a router; each has its own queue, KV cache and policy.

    Attributes:
        replicas: how many.
        router: a name in `ROUTERS`; the module says what they do.
        seed: of `power-of-two`'s draws.
        outside: gates before the replicas in place of the router, for the policy `fluid`, which is then theirs; the
            engines are stock ones. None: every policy is in the engines.
    """

    replicas: int = 1
    router: str = "round-robin"
    seed: int = 0
    outside: Outside | None = None

    def __post_init__(self) -> None:
        check_whole("replicas", self.replicas, 1, MAX_REPLICAS)
        if self.router not in ROUTERS:
            raise unknown("router", self.router, ROUTERS)
        random_streams(self.seed, 1)


class Turns(NamedTuple):
    """Which replicas a router asks: request i those at `first[i]`, `first[i] + stride[i]`, … of `among`, as a ring.

    Requests are counted as they are sent, or `by_row` as the workload has them.
    """

    among: IntArray
    first: IntArray
    stride: IntArray
    asked: int
    by_kv: bool
    by_row: bool = False


def turns_of(fleet: Fleet, workload: Workload) -> Turns:
    """The router's choices for every request, shape (requests,); random ones by Philox, which counts."""
    requests, among = len(workload), np.arange(fleet.replicas)
    first, stride = np.arange(requests) % fleet.replicas, np.ones(requests, np.int64)
    if fleet.router == "round-robin":
        return Turns(among, first, stride, 1, False)
    if fleet.router == "by-class":
        return Turns(among, workload.class_id % fleet.replicas, stride, 1, False, by_row=True)
    if fleet.router == "gcd-mixing":
        return Turns(among, _in_turn_by_length(workload.output_tokens) % fleet.replicas, stride, 1, False, by_row=True)
    if fleet.router == "power-of-two":
        draw = np.random.Generator(np.random.Philox(random_streams(fleet.seed, 1)[0]))
        first = draw.integers(fleet.replicas, size=requests)
        stride = draw.integers(1, max(2, fleet.replicas), size=requests)
        return Turns(among, first, stride, min(2, fleet.replicas), False)
    return Turns(among, first, stride, fleet.replicas, fleet.router == "least-kv")


def _in_turn_by_length(output_tokens: IntArray) -> IntArray:
    """How many requests of the same length came before each, plus the number of lengths seen before that one.

    The second term lets different lengths begin with different replicas.
    """
    _, begins, kind = np.unique(output_tokens, return_index=True, return_inverse=True)
    order = np.argsort(kind, kind="stable")
    counts = np.bincount(kind)
    before = np.empty(len(kind), np.int64)
    before[order] = np.arange(len(kind)) - np.repeat(np.cumsum(counts) - counts, counts)
    return before + np.argsort(np.argsort(begins))[kind]


@inlined_kernel
def load(state, cache, time_s, by_kv):
    """A replica's load at `time_s`, in requests or in KV tokens; it has begun all that it begins before then."""
    requests = state.run[0].running + state.run[0].waiting
    tokens = state.run[0].waiting_tokens
    blocks = state.setting[0].total_blocks - cache.free[0]
    if state.run[0].last_finish_s > time_s:  # at the end of an iteration that is under way: not visible yet
        requests += state.run[0].last_finished
        blocks += state.run[0].last_freed
    if state.run[0].last_abort_s > time_s:
        requests += state.run[0].last_aborted
        tokens += state.run[0].last_abort_tokens
        blocks += state.run[0].last_abort_blocks
    row = state.run[0].next_arrival
    while row < len(state.arrival_s):  # sent here during that iteration
        requests += 1
        tokens += state.prompt_tokens[row]
        row = state.rows[row].following
    if not by_kv:
        return requests
    setting = state.setting[0]
    return blocks * setting.view_blocks // setting.total_blocks * setting.block_size + tokens


@inlined_kernel
def least_loaded(states, caches, turns, i, time_s):
    """The replica for the i-th request, sent at `time_s`, where all have begun what they begin before then."""
    chosen = turns.among[turns.first[i]]
    least = -1
    for j in range(turns.asked if turns.asked > 1 else 0):
        k = turns.among[(turns.first[i] + j * turns.stride[i]) % len(turns.among)]
        asked_load = load(replica_state(states, k), replica_cache(caches, k), time_s, turns.by_kv)
        if least < 0 or asked_load < least:
            chosen, least = k, asked_load
    return chosen


@entry_kernel
def route(
    states, caches, log, classify, rank, admit, advance, shed, observe, hooks, params, memories, turns, start, to
):
    """Send the requests from `start` on, as many as `to` has room for, and write the replica of each there.

    False if the policy has put a request into a class that does not exist.
    """
    for row in range(start, start + len(to)):
        time_s = states.arrival_s[row]
        for j in range(turns.asked if turns.asked > 1 else 0):
            k = turns.among[(turns.first[row] + j * turns.stride[row]) % len(turns.among)]
            state, cache, memory = replica_state(states, k), replica_cache(caches, k), memories[k]
            if state.run[0].now_s < time_s:
                status = run_loop(
                    *(state, cache, log, classify, rank, admit, advance, shed, observe, hooks, params, memory),
                    *(WITHOUT_LIMIT, time_s),
                )
                if status == UNKNOWN_CLASS:
                    return False
        chosen = least_loaded(states, caches, turns, row, time_s)
        hand_in(replica_state(states, chosen), row)
        to[row - start] = chosen
    return True


@inlined_kernel
def ready_s(state):
    """When an engine can begin its next iteration at the earliest; infinity: not before a request is sent to it."""
    now_s = state.run[0].now_s
    arrival_s = max(now_s, next_arrival_s(state))
    if state.run[0].wake_s > now_s:
        deadline_s = next_deadline_s(state) if state.setting[0].patience else float("inf")
        return min(state.run[0].wake_s, arrival_s, deadline_s)
    return arrival_s if state.run[0].running + state.run[0].waiting == 0 else now_s


@entry_kernel
def route_closed(
    states,
    caches,
    log,
    classify,
    rank,
    admit,
    advance,
    shed,
    observe,
    hooks,
    params,
    memories,
    turns,
    start,
    ready,
    rows,
    to,
):
    """Send as many requests as `rows` has room for, from the `start`-th on; returns how many were sent, -1 as `route`.

    Their rows in order of sending are written to `rows`, the replica of each to `to`. `ready` holds the `ready_s` of
    each replica, or NaN for one whose residents evict each other for ever. Fewer are sent than there is room for if no
    more can be.
    """
    source = states.source
    sent = 0
    while sent < len(rows):
        behind = 0
        for k in range(1, len(ready)):
            if ready[k] < ready[behind] or ready[behind] != ready[behind]:
                behind = k
        others_s = float("inf")
        for k in range(len(ready)):
            if k != behind and ready[k] < others_s:
                others_s = ready[k]
        known_s = ready[behind] if ready[behind] == ready[behind] else float("inf")
        send_s = next_send_s(source, known_s)
        if ready[behind] < send_s:
            state, cache, memory = replica_state(states, behind), replica_cache(caches, behind), memories[behind]
            status = run_loop(
                *(state, cache, log, classify, rank, admit, advance, shed, observe, hooks, params, memory),
                *(1, max(np.nextafter(known_s, np.inf), min(others_s, send_s))),
            )
            if status == UNKNOWN_CLASS:
                return -1
            ready[behind] = np.nan if status == FUTILE_RUN else ready_s(state)
        elif send_s < float("inf"):
            row = send_next(source, states.arrival_s)
            chosen = least_loaded(states, caches, turns, row if turns.by_row else start + sent, send_s)
            state = replica_state(states, chosen)
            hand_in(state, row)
            if ready[chosen] == ready[chosen]:
                ready[chosen] = ready_s(state)
            rows[sent], to[sent] = row, chosen
            sent += 1
        else:
            break
    return sent
