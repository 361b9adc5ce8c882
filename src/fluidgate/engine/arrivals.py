"""When requests are sent: known beforehand in an open loop, decided by what leaves in a closed one and in sessions.

A request is due at its arrival; a turn of a session at the later of its arrival and its delay after the reply before
it. What is due is sent in order of (time due, row) while fewer than the concurrency are in flight, so at the later of
that time and of the time at which a place became free. Where several things happen at one instant, requests leave
first, then others are sent. A client has its reply, and its place is free, the hardware's `overhead_s` after the
engine's last token: that is what HTTP and the tokeniser take of a round trip.

An engine has a list of what was sent to it and has not arrived (`next_arrival`, `following`). In an open loop it holds
all requests, or what a router has sent there. An engine with its own closed loop has none: its source tells.
"""

from __future__ import annotations

from fluidgate.arrays import NONE
from fluidgate.engine.source import CONCURRENCY, DUE, FREED, IN_FLIGHT, KIND, LEFT, OPEN, OVERHEAD, OWN
from fluidgate.kernel import inlined_kernel, kernel


@inlined_kernel
def next_arrival_s(state):
    """Time of the next arrival, infinity if none is known."""
    row = state.run[0].next_arrival
    if row < len(state.arrival_s):
        return state.arrival_s[row]
    return next_send_s(state.source, float("inf")) if state.source.number[KIND] == OWN else float("inf")


@inlined_kernel
def take_arrival(state):
    """The row of the next arrival, which `next_arrival_s` has told of."""
    row = state.run[0].next_arrival
    if row < len(state.arrival_s):
        state.run[0].next_arrival = state.rows[row].following
        return row
    return send_next(state.source, state.arrival_s)


@inlined_kernel
def departed(state, row):
    """Book that a request leaves the engine now: it has all its tokens, or its client has given up."""
    if state.source.number[KIND] != OPEN:
        leave(state.source, row, state.run[0].now_s)


@kernel
def leave(source, row, now_s):
    """`departed` in a closed loop. What follows from it is found in order of time: other replicas may be behind."""
    source.left_s[row] = now_s + source.time_s[OVERHEAD]
    push(source.left, source.left_s, source.number, LEFT, row)


@kernel
def hand_in(state, row):
    """Let `row` arrive after all that was sent to this engine before."""
    if state.run[0].next_arrival == len(state.arrival_s):
        state.run[0].next_arrival = row
    else:
        state.rows[state.run[0].last_sent].following = row
    state.run[0].last_sent = row


@kernel
def next_send_s(source, until_s):
    """When the next request is sent if nothing leaves but what has so far; infinity if none is.

    It must be known who leaves up to `until_s`. Where a send waits for one that leaves later, that time is returned:
    none is sent before.
    """
    while True:
        send_s = float("inf")
        if source.number[DUE] > 0 and source.number[IN_FLIGHT] < source.number[CONCURRENCY]:
            send_s = max(source.due_s[source.due[0]], source.time_s[FREED])
        if source.number[LEFT] == 0 or source.left_s[source.left[0]] > send_s:
            return send_s
        if source.left_s[source.left[0]] > until_s:
            return source.left_s[source.left[0]]
        free_place(source, pop(source.left, source.left_s, source.number, LEFT))


@kernel
def send_next(source, arrival_s):
    """Send the request that is due first, at `next_send_s`; returns its row."""
    time_s = next_send_s(source, float("inf"))
    row = pop(source.due, source.due_s, source.number, DUE)
    source.number[IN_FLIGHT] += 1
    arrival_s[row] = time_s
    return row


@kernel
def free_place(source, row):
    """A request's place is free, and the turns that wait for its reply have a time."""
    left_s = source.left_s[row]
    source.number[IN_FLIGHT] -= 1
    source.time_s[FREED] = left_s
    turn = source.next_turn[row]
    while turn != NONE:
        source.due_s[turn] = max(source.due_s[turn], left_s + source.delay_s[turn])
        push(source.due, source.due_s, source.number, DUE, turn)
        turn = source.sibling[turn]


@kernel
def push(heap, time_s, number, length, row):
    """Add a row to a heap by (time, row) of `number[length]` rows."""
    i = number[length]
    number[length] = i + 1
    while i > 0 and before(time_s, row, heap[(i - 1) // 2]):
        heap[i] = heap[(i - 1) // 2]
        i = (i - 1) // 2
    heap[i] = row


@kernel
def pop(heap, time_s, number, length):
    """Take the first row off such a heap."""
    first = heap[0]
    count = number[length] - 1
    number[length] = count
    row = heap[count]
    i = 0
    while 2 * i + 1 < count:
        child = 2 * i + 1
        if child + 1 < count and before(time_s, heap[child + 1], heap[child]):
            child += 1
        if not before(time_s, heap[child], row):
            break
        heap[i] = heap[child]
        i = child
    heap[i] = row
    return first


@inlined_kernel
def before(time_s, row, other):
    """Whether `row` comes before `other` in order of (time, row)."""
    return time_s[row] < time_s[other] or (time_s[row] == time_s[other] and row < other)
