"""The forecast of `fluid` for every replica of a fleet, and which of them a request enters.

Laws of output lengths are those of one `fluid` policy, learned from all replicas together. Behind its memory lie the
forecast of what is in flight anywhere, per KV token that it holds now, and for each replica the forecast of what is in
flight there, and a margin in closed loop. A forecast is made again when it is asked for: after something has left, and
where it is stale.

What other clients of a replica hold is known from its gauges alone. It is taken to become what our own becomes.
"""

from __future__ import annotations

import numpy as np

from fluidgate.arrays import FloatArray, IntArray
from fluidgate.fleet.layout import Fleet, Held
from fluidgate.fluid.stability import COHERENT
from fluidgate.kernel import entry_kernel, kernel
from fluidgate.policies import fluid
from fluidgate.policies.parts.fluid_laws import laws_are_due, learn_laws
from fluidgate.policies.parts.fluid_memory import (
    CLASS_SIZE,
    CLASSES,
    COHERENCE,
    EVICTED_SHARE,
    GRID,
    LAWS,
    LOOP,
    READY,
    TRIAL,
    in_time_at,
    law_at,
)
from fluidgate.policies.parts.forecast import FORECAST_SIZE, add_request, add_requests, copy_forecast, peak
from fluidgate.policies.parts.in_time import latest_age_s, note_announced, set_need
from fluidgate.policies.parts.length_law import PROMPT, SHARE, TIMES, table_row
from fluidgate.policies.parts.margin import (
    COMPLETED,
    HELD,
    MARGIN,
    SPREAD,
    allowance,
    doubt,
    note_completion,
    note_eviction,
    usable_share,
)
from fluidgate.policies.parts.residents import forecast_residents, kv_tokens
from fluidgate.policies.protocol import FINISHED, PREEMPTED, Event

TRUSTED_S = 60.0
"""Seconds over which what gauges said of others fades to what is expected of them without gauges."""


observe = kernel(fluid.Fluid.observe)


@kernel
def _held(rows, residents, block_size, total_blocks, token_budget, seats, iteration):
    """Some requests as `fluid` looks at them. Clients say when they leave, not when they must have the first token."""
    lengths = rows.prompt_tokens, rows.generated_tokens, rows.class_id
    never_first = rows.timeout_s[:0]
    return Held(
        residents, *lengths, block_size, total_blocks, token_budget, seats, iteration, rows.timeout_s, never_first
    )


@kernel
def _those(rows, residents, block_size):
    return _held(rows, residents, block_size, 1, 1, 1, 0.0)


@kernel
def _guess_ages(fleet, k, now_s):
    """Where no token was seen, an age follows from the time since it was sent."""
    rows, pace_s = fleet.rows, fleet.table[k].pace_s
    for i in range(fleet.table[k].count):
        row = fleet.residents[k, i]
        if rows.seen_s[row] != rows.seen_s[row] and pace_s > 0.0:
            rows.generated_tokens[row] = int((now_s - rows.sent_s[row]) / pace_s)


@kernel
def held_tokens(fleet, k):
    """KV tokens of ours at a replica."""
    rows, replica, held = fleet.rows, fleet.table[k], 0.0
    for i in range(replica.count):
        row = fleet.residents[k, i]
        held += replica.unshared * rows.prompt_tokens[row] + rows.generated_tokens[row]
        held += 0.5 * (replica.block_size - 1)
    return held


@kernel
def _add_others(fleet, k, held, now_s):
    """Add to the forecast of a replica what others hold there, where ours hold so many tokens.

    What gauges said of them stays, and is more by what ours became more since, for each other gate: all see the same
    room, and each takes its share of it. What nobody has measured is taken to be as much as ours for each other gate,
    and as uncertain as all of them together, because it is not made up for where it is too much.
    """
    memory, replica, others = fleet.memory, fleet.table[k], fleet.gates - 1.0
    trust = np.exp((replica.measured_s - now_s) / TRUSTED_S)
    measured, requests = 0.0, (1.0 - trust) * others * replica.count
    if trust > 0.0:
        measured = trust * (replica.others_kv + others * max(0.0, held - replica.mine_kv))
        requests += trust * (replica.others + others * max(0.0, replica.count - replica.mine))
    assumed = (1.0 - trust) * others * held
    replica.outside = requests
    for j in range(TIMES if measured + assumed > 0.0 else 0):
        memory[replica.at + j] += (measured + assumed) * memory[fleet.template + j]
        memory[replica.at + TIMES + j] += (measured + (fleet.gates + 1.0) * assumed) * memory[
            fleet.template + TIMES + j
        ]


@kernel
def _renew(fleet, k, now_s):
    """Make the forecast of a replica."""
    memory, replica = fleet.memory, fleet.table[k]
    _guess_ages(fleet, k, now_s)
    residents = _those(fleet.rows, fleet.residents[k, : replica.count], replica.block_size)
    laws = int(fleet.params[LAWS])
    forecast_residents(memory, replica.at, GRID, residents, replica.unshared, CLASSES, laws, CLASS_SIZE)
    held = held_tokens(fleet, k)
    _add_others(fleet, k, held, now_s)
    replica.renewed_s = now_s


@kernel
def _room(fleet, k, row):
    """The share of a replica's capacity that is left at the peak with a request, and the standard deviation there."""
    params, memory, replica = fleet.params, fleet.memory, fleet.table[k]
    copy_forecast(memory, replica.at, TRIAL)
    _add(fleet, k, TRIAL, row)
    margin = memory[replica.loop + MARGIN]
    predicted, spread = peak(memory, TRIAL, margin)
    usable = usable_share(memory, replica.loop, margin, params[EVICTED_SHARE], False)
    return usable - predicted / replica.capacity, spread / replica.capacity


@kernel
def _add(fleet, k, at, row):
    rows, replica = fleet.rows, fleet.table[k]
    kv = kv_tokens(_those(rows, fleet.residents[k, :0], replica.block_size), row, replica.unshared)
    law = law_at(fleet.params, rows.class_id[row])
    add_request(fleet.memory, at, GRID, law, kv, rows.generated_tokens[row])


@kernel
def _is_empty(replica):
    return replica.count + replica.outside < 0.5


@kernel
def _first_room(fleet, k, row):
    """The room at a replica by the forecast that there is; -infinity where the request cannot go there."""
    replica, rows = fleet.table[k], fleet.rows
    if replica.takes == 0 or replica.closed != 0 or replica.count + replica.outside >= replica.seats:
        return -np.inf
    if rows.prompt_tokens[row] > replica.capacity:
        return -np.inf
    room, _ = _room(fleet, k, row)
    return room


@kernel
def _best(fleet: Fleet, turn: int) -> int:
    """The replica with the most room, in turn among equals; -1: none has any."""
    best, most, count = -1, -np.inf, len(fleet.table)
    for i in range(count):
        k = (turn + i) % count
        if fleet.table[k].room > most:
            best, most = k, fleet.table[k].room
    return best


@entry_kernel
def choose(fleet: Fleet, row: int, now_s: float, stale_s: float, turn: int, preferred: int, loss: float) -> int:
    """The replica that a request may enter now, -1: none; those that have no room are closed until something changes.

    Args:
        stale_s: age from which a forecast is made again before it decides, seconds.
        turn: the replica whose turn it is where several have equal room.
        preferred: the one where its prefix may be cached, -1: none; taken if it has at most `loss` less room, as a
            share of its capacity.
    """
    table, memory = fleet.table, fleet.memory
    for k in range(len(table)):
        if table[k].renewed_s == -np.inf and table[k].takes != 0:  # it may have more room than it seems
            _renew(fleet, k, now_s)
        table[k].room = _first_room(fleet, k, row)
    while True:
        best = _best(fleet, turn)
        if best < 0:
            return -1
        if now_s - table[best].renewed_s > stale_s:
            _renew(fleet, best, now_s)
            table[best].room = _first_room(fleet, best, row)
            continue
        if preferred >= 0 and preferred != best and table[preferred].room >= max(0.0, table[best].room - loss):
            if now_s - table[preferred].renewed_s > stale_s:
                _renew(fleet, preferred, now_s)
                table[preferred].room = _first_room(fleet, preferred, row)
                continue
            best = preferred
        if table[best].room >= 0.0 or _is_empty(table[best]):
            return best
        if _may_go_beyond(fleet):
            fleet.rows.beyond[row] = 1
            return best
        memory[table[best].loop + HELD] = 1.0
        _, memory[table[best].loop + SPREAD] = _room(fleet, best, row)
        table[best].closed = 1
        table[best].room = -np.inf


@kernel
def _may_go_beyond(fleet):
    """Whether the start without a prior lets one more in than the forecast does."""
    allowed = allowance(fleet.memory, LOOP, fleet.params[EVICTED_SHARE])
    if allowed > 0.0:
        for k in range(len(fleet.table)):
            allowed -= fleet.table[k].beyond
    return allowed > 0.0


@entry_kernel
def enter(fleet: Fleet, k: int, row: int, now_s: float) -> None:
    """Book a request as sent to a replica."""
    replica, rows = fleet.table[k], fleet.rows
    fleet.residents[k, replica.count] = row
    replica.count += 1
    replica.beyond += rows.beyond[row]
    rows.replica[row], rows.sent_s[row] = k, now_s
    _add(fleet, k, replica.at, row)
    if fleet.gates > 1.0:  # the others are taken to have done as much
        replica.renewed_s = -np.inf


@entry_kernel
def leave(fleet: Fleet, row: int) -> None:
    """Take a request out of its replica, whose forecast must be made again."""
    k = fleet.rows.replica[row]
    replica, kept = fleet.table[k], 0
    for i in range(replica.count):
        other = fleet.residents[k, i]
        if other != row:
            fleet.residents[k, kept] = other
            kept += 1
    replica.count = kept
    replica.beyond -= fleet.rows.beyond[row]
    replica.closed = 0
    replica.renewed_s = -np.inf


@entry_kernel
def tell(fleet: Fleet, kind: int, row: int, now_s: float) -> None:
    """Let `fluid` learn from what happened to a request, and its replica's margin follow."""
    params, memory, rows = fleet.params, fleet.memory, fleet.rows
    prompt, generated = rows.prompt_tokens[row], rows.generated_tokens[row]
    event = Event(kind, now_s, row, rows.arrival_s[row], prompt, generated, 0, rows.class_id[row], 0)
    observe(params, memory, event)
    k = rows.replica[row]
    if kind == FINISHED and k >= 0:
        loop = fleet.table[k].loop
        note_completion(memory, loop, params[EVICTED_SHARE], memory[COHERENCE] >= COHERENT)
        memory[loop + COMPLETED] = memory[LOOP + COMPLETED]  # a start without a prior is that of the fleet


@entry_kernel
def tell_evictions(fleet: Fleet, k: int, count: int, now_s: float) -> None:
    """Let the margins learn from requests that a server has evicted, of which only the number is known."""
    for _ in range(count):
        observe(fleet.params, fleet.memory, Event(PREEMPTED, now_s, -1, now_s, 0, 0, 0, 0, 0))
        note_eviction(fleet.memory, fleet.table[k].loop)


@entry_kernel
def learn(fleet: Fleet, among: IntArray, completions: float, iteration: float, now_s: float) -> bool:
    """Estimate the laws if that is due, after so many completions; `among` has room for all that is in flight.

    Returns whether they were. All replicas count as one engine as large as the largest.
    """
    memory, table, total = fleet.memory, fleet.table, 0
    size, blocks = _largest(table)
    if not laws_are_due(memory, _held(fleet.rows, among[:0], size, blocks, 1, 1, iteration), completions):
        return False
    for k in range(len(table)):
        _guess_ages(fleet, k, now_s)
        for i in range(table[k].count):
            among[total] = fleet.residents[k, i]
            total += 1
    everyone = _held(fleet.rows, among[:total], size, blocks, 1, 1, iteration)
    learn_laws(fleet.params, memory, everyone)
    _set_template(fleet, among[:total], size)
    for k in range(len(table)):
        table[k].closed, table[k].renewed_s = 0, -np.inf
    return True


@kernel
def _largest(table):
    """Block size and blocks of the replica with the largest KV cache."""
    size, blocks = 1, 1
    for k in range(len(table)):
        if table[k].capacity >= blocks * size:
            size = table[k].block_size
            blocks = int(table[k].capacity / size)
    return size, blocks


@entry_kernel
def latest_start_s(fleet: Fleet, row: int, pace_s: float, token_budget: int) -> float:
    """The age at which a waiting request must start at the latest to be worth it, seconds; infinity: no matter when."""
    memory, at, laws = fleet.memory, in_time_at(fleet.params), int(fleet.params[LAWS])
    if memory[READY] == 0.0 or pace_s == 0.0:
        return np.inf
    size, blocks = _largest(fleet.table)
    waiting = _held(fleet.rows, fleet.residents[0, :0], size, blocks, token_budget, fleet.residents.shape[1], 0.0)
    class_id = min(max(fleet.rows.class_id[row], 0), laws - 1)
    note_announced(memory, at, laws, waiting, row)
    set_need(memory, at, laws, class_id, law_at(fleet.params, class_id), waiting, pace_s, False)
    latest_s: float = latest_age_s(memory, at, laws, waiting, row, pace_s, False)
    return latest_s


@kernel
def _set_template(fleet, everyone, size):
    """Forecast what is in flight anywhere, per KV token that it holds now; without anybody, of new requests."""
    params, memory, at, held = fleet.params, fleet.memory, fleet.template, 0.0
    residents, laws = _those(fleet.rows, everyone, size), int(params[LAWS])
    forecast_residents(memory, at, GRID, residents, 1.0, CLASSES, laws, CLASS_SIZE)
    for row in everyone:
        held += kv_tokens(residents, row, 1.0)
    for c in range(laws if len(everyone) == 0 else 0):
        law = law_at(params, c)
        share, prompt = memory[law + SHARE], max(1.0, memory[law + PROMPT])
        add_requests(memory, at, GRID, table_row(memory, law, 0), share, share * prompt, share * prompt * prompt)
        held += share * prompt
    for j in range(FORECAST_SIZE):
        memory[at + j] /= held


@entry_kernel
def predicted(fleet: Fleet, k: int, now_s: float) -> tuple[float, float]:
    """What ours hold of a replica's capacity, and the peak that is forecast of all there, with its margin."""
    _renew(fleet, k, now_s)
    replica = fleet.table[k]
    most, _ = peak(fleet.memory, replica.at, fleet.memory[replica.loop + MARGIN])
    return held_tokens(fleet, k) / replica.capacity, most / replica.capacity


@entry_kernel
def in_doubt(memory: FloatArray) -> float:
    """How much of a start without a prior is left, from 1 to 0."""
    left: float = doubt(memory, LOOP)
    return left
