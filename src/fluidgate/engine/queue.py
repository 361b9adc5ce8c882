"""Waiting queues: one per policy class, ordered by (rank, sequence). Joining in order and leaving cost O(1)."""

from __future__ import annotations

from fluidgate.arrays import NONE
from fluidgate.kernel import inlined_kernel


@inlined_kernel
def goes_before(state, row, other):
    """Whether `row` is ahead of `other` in the queueing order."""
    if state.rows[row].rank != state.rows[other].rank:
        return state.rows[row].rank < state.rows[other].rank
    return state.rows[row].sequence < state.rows[other].sequence


@inlined_kernel
def join(state, row, to_front):
    """Put a request into its queue; among equal ranks at the front (a preempted one) or at the back."""
    if to_front:
        state.run[0].front -= 1
        state.rows[row].sequence = state.run[0].front
    else:
        state.run[0].back += 1
        state.rows[row].sequence = state.run[0].back
    group = state.rows[row].group
    after = state.head[group]
    if after != NONE and not goes_before(state, row, after):
        before = state.queues[group].tail
        while goes_before(state, row, before):
            before = state.rows[before].prev_waiting
        after = state.next_waiting[before]
        state.next_waiting[before] = row
    else:
        before = NONE
        state.head[group] = row
    state.rows[row].prev_waiting = before
    state.next_waiting[row] = after
    if after == NONE:
        state.queues[group].tail = row
    else:
        state.rows[after].prev_waiting = row
    state.waiting[group] += 1
    state.run[0].changes += 1
    state.run[0].waiting += 1
    state.run[0].waiting_tokens += state.prompt_tokens[row] + state.generated[row]
    state.rows[row].hold_mark_s = state.queues[group].hold_clock_s


@inlined_kernel
def leave(state, row):
    """Take a request out of its queue."""
    group = state.rows[row].group
    before, after = state.rows[row].prev_waiting, state.next_waiting[row]
    if before == NONE:
        state.head[group] = after
    else:
        state.next_waiting[before] = after
    if after == NONE:
        state.queues[group].tail = before
    else:
        state.rows[after].prev_waiting = before
    state.waiting[group] -= 1
    state.run[0].changes += 1
    state.run[0].waiting -= 1
    state.run[0].waiting_tokens -= state.prompt_tokens[row] + state.generated[row]
    state.held_s[row] += state.queues[group].hold_clock_s - state.rows[row].hold_mark_s


@inlined_kernel
def first_allowed(state):
    """The first waiting request among the classes with quota left, NONE if there is none."""
    best = NONE
    for group in range(state.setting[0].num_classes):
        row = state.head[group]
        if row != NONE and state.quota[group] > 0 and (best == NONE or goes_before(state, row, best)):
            best = row
    return best


@inlined_kernel
def add_hold_time(state, seconds):
    """Charge `seconds` to every class whose waiting requests the policy, and nothing else, keeps out."""
    if seconds > 0.0:
        for group in range(state.setting[0].num_classes):
            if state.head[group] != NONE and state.quota[group] <= 0:
                state.queues[group].hold_clock_s += seconds
