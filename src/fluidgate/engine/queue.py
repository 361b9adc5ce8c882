"""Waiting queues: one per policy class, ordered by (rank, sequence). Joining in order and leaving cost O(1)."""

from __future__ import annotations

from fluidgate.arrays import NONE
from fluidgate.engine.state import BACK, FRONT, NEXT_ARRIVAL, NUM_CLASSES, WAITING, WAITING_TOKENS
from fluidgate.kernel import inlined_kernel, kernel


@inlined_kernel
def goes_before(state, row, other):
    """Whether `row` is ahead of `other` in the queueing order."""
    if state.rank[row] != state.rank[other]:
        return state.rank[row] < state.rank[other]
    return state.sequence[row] < state.sequence[other]


@kernel
def join(state, row, to_front):
    """Put a request into its queue; among equal ranks at the front (a preempted one) or at the back."""
    if to_front:
        state.counter[FRONT] -= 1
        state.sequence[row] = state.counter[FRONT]
    else:
        state.counter[BACK] += 1
        state.sequence[row] = state.counter[BACK]
    group = state.group[row]
    after = state.head[group]
    if after != NONE and not goes_before(state, row, after):
        before = state.tail[group]
        while goes_before(state, row, before):
            before = state.prev_waiting[before]
        after = state.next_waiting[before]
        state.next_waiting[before] = row
    else:
        before = NONE
        state.head[group] = row
    state.prev_waiting[row] = before
    state.next_waiting[row] = after
    if after == NONE:
        state.tail[group] = row
    else:
        state.prev_waiting[after] = row
    state.waiting[group] += 1
    state.counter[WAITING] += 1
    state.counter[WAITING_TOKENS] += state.prompt_tokens[row] + state.generated[row]
    state.hold_mark[row] = state.hold_clock[group]


@kernel
def leave(state, row):
    """Take a request, which is the head of its queue, out of it."""
    group = state.group[row]
    after = state.next_waiting[row]
    state.head[group] = after
    if after == NONE:
        state.tail[group] = NONE
    else:
        state.prev_waiting[after] = NONE
    state.waiting[group] -= 1
    state.counter[WAITING] -= 1
    state.counter[WAITING_TOKENS] -= state.prompt_tokens[row] + state.generated[row]
    state.held_s[row] += state.hold_clock[group] - state.hold_mark[row]


@inlined_kernel
def first_allowed(state):
    """The first waiting request among the classes with quota left, NONE if there is none."""
    best = NONE
    for group in range(state.setting[NUM_CLASSES]):
        row = state.head[group]
        if row != NONE and state.quota[group] > 0 and (best == NONE or goes_before(state, row, best)):
            best = row
    return best


@inlined_kernel
def next_arrival_s(state):
    """Time of the next arrival, infinity if none is known."""
    row = state.counter[NEXT_ARRIVAL]
    return state.arrival_s[row] if row < len(state.arrival_s) else float("inf")


@inlined_kernel
def add_hold_time(state, seconds):
    """Charge `seconds` to every class whose waiting requests the policy, and nothing else, keeps out."""
    if seconds > 0.0:
        for group in range(state.setting[NUM_CLASSES]):
            if state.head[group] != NONE and state.quota[group] <= 0:
                state.hold_clock[group] += seconds
