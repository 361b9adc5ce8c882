"""Clients that give up: deadlines, and what happens when one passes.

A request's first deadline is the earlier of its two timeouts; once its first token has come, only that of its last one
counts. Deadlines lie in a pairing heap (Fredman, Sedgewick, Sleator, Tarjan, Algorithmica 1, 1986) whose links are
columns by request, so that replicas share them. Entries are checked when they come to the top: one of a finished
request is dropped, one of a first token that came in time is put back with the later deadline.

A client leaves at its deadline, and the engine learns of it where vLLM's does (0.30 to 0.33, `v1/engine/core.py`): when
an iteration has been computed and before its tokens are given (`_process_aborts_queue`), and before the next batch is
formed. So no token is given after a deadline; one that comes at the deadline itself was in time. An iteration that is
under way is never cut short.

A policy may shed requests (`Policy.shed`): they are dropped in the same way, before a batch is formed.
"""

from __future__ import annotations

from fluidgate.arrays import NONE
from fluidgate.engine.arrivals import departed
from fluidgate.engine.policy_hooks import HAS_OBSERVE, make_event, make_view
from fluidgate.engine.queue import leave
from fluidgate.engine.step import end_residency
from fluidgate.kernel import kernel
from fluidgate.policies.protocol import ABORTED, SHED, SHED_AT_ONCE


@kernel
def melded(state, a, b):
    """The root of two heaps' union; NONE is an empty heap. Equal deadlines are in order of arrival."""
    if a == NONE or b == NONE:
        return b if a == NONE else a
    a_s, b_s = state.watched[a].deadline_s, state.watched[b].deadline_s
    if b_s < a_s or (b_s == a_s and b < a):
        a, b = b, a
    state.watched[b].next = state.watched[a].child
    state.watched[a].child = b
    return a


@kernel
def push(state, row, deadline_s):
    """Watch a request until `deadline_s`."""
    state.watched[row].deadline_s = deadline_s
    state.watched[row].child = NONE
    state.watched[row].next = NONE
    state.run[0].first_deadline = melded(state, state.run[0].first_deadline, row)


@kernel
def pop(state):
    """Take the first deadline out: the heaps below it are melded in pairs, then the pairs into one, the last first."""
    row = state.watched[state.run[0].first_deadline].child
    pairs = NONE
    while row != NONE:
        other = state.watched[row].next
        following = state.watched[other].next if other != NONE else NONE
        pair = melded(state, row, other)
        state.watched[pair].next = pairs
        pairs = pair
        row = following
    root = NONE
    while pairs != NONE:
        following = state.watched[pairs].next
        state.watched[pairs].next = NONE
        root = melded(state, root, pairs)
        pairs = following
    state.run[0].first_deadline = root


@kernel
def watch(state, row):
    """Watch a request that has just arrived, if its client ever gives up."""
    deadline_s = state.arrival_s[row] + min(state.watched[row].timeout_s, state.watched[row].ttft_timeout_s)
    if deadline_s < float("inf"):
        push(state, row, deadline_s)


@kernel
def has_left(state, row):
    """Whether a request was dropped: its client had given up, or the policy shed it."""
    return state.setting[0].patience != 0 and state.watched[row].left_s == state.watched[row].left_s  # not nan


@kernel
def is_here(state, row):
    """Whether a request that has arrived is neither finished nor dropped."""
    return state.generated[row] - state.rows[row].in_flight != state.output_tokens[row] and not has_left(state, row)


@kernel
def first_deadline_s(state):
    """The first deadline of a request that is still here, infinity if there is none; its row is `first_deadline`."""
    while state.run[0].first_deadline != NONE:
        row = state.run[0].first_deadline
        last_s = state.arrival_s[row] + state.watched[row].timeout_s
        streams = state.first_token_s[row] == state.first_token_s[row]  # not nan
        stays = is_here(state, row)
        if stays and not (streams and state.watched[row].deadline_s < last_s):
            return state.watched[row].deadline_s
        pop(state)
        if stays and last_s < float("inf"):
            push(state, row, last_s)
    return float("inf")


@kernel
def next_deadline_s(state):
    """When the next client gives up, seconds; infinity if none will."""
    nothing_here = state.run[0].running == 0 and state.run[0].waiting == 0
    return float("inf") if nothing_here else first_deadline_s(state)


@kernel
def is_overdue(state, tokens_given):
    """Whether the client of `first_deadline` has given up: before now, or by now if the tokens of now are given."""
    if state.run[0].first_deadline == NONE:
        return False
    now = state.run[0].now_s
    if state.watched[state.run[0].first_deadline].deadline_s > now:
        return False
    deadline_s = first_deadline_s(state)
    return deadline_s <= now if tokens_given else deadline_s < now


@kernel
def drop(state, cache, row):
    """Drop a request, wherever it is (vLLM's `finish_requests` with FINISHED_ABORTED)."""
    free, tokens = cache.free[0], state.run[0].waiting_tokens
    if state.rows[row].slot == NONE:
        leave(state, row)
    else:
        end_residency(state, cache, row, False)
        drop_resident(state, row)
    state.watched[row].left_s = state.run[0].now_s
    departed(state, row)
    state.run[0].aborted_requests += 1
    if state.run[0].last_abort_s != state.run[0].now_s:
        state.run[0].last_abort_s = state.run[0].now_s
        state.run[0].last_aborted = state.run[0].last_abort_blocks = state.run[0].last_abort_tokens = 0
    state.run[0].last_aborted += 1
    state.run[0].last_abort_blocks += cache.free[0] - free
    state.run[0].last_abort_tokens += tokens - state.run[0].waiting_tokens


@kernel
def drop_resident(state, row):
    """Take a request out of the running order; the others keep theirs."""
    kept = 0
    for i in range(state.run[0].ordered):
        if state.running[i] != row:
            state.running[kept] = state.running[i]
            kept += 1
    state.run[0].running = state.run[0].ordered = kept


@kernel
def abort_overdue(state, cache, observe, hooks, params, memory, tokens_given):
    """Abort the requests whose clients have given up, in order of their deadlines."""
    while is_overdue(state, tokens_given):
        row = state.run[0].first_deadline
        pop(state)
        drop(state, cache, row)
        tell_dropped(state, observe, hooks, params, memory, ABORTED, row)


@kernel
def tell_dropped(state, observe, hooks, params, memory, kind, row):
    """Tell the policy; tokens on their way are not given."""
    if hooks & HAS_OBSERVE:
        observe(params, memory, make_event(state, kind, row))
    state.generated[row] -= state.rows[row].in_flight
    state.run[0].futile = 0


@kernel
def shed_requests(state, cache, shed, observe, hooks, params, memory):
    """Drop what the policy gives up; returns when to ask it again (s)."""
    while True:
        state.shed_rows[:] = NONE
        ask_again_s = shed(params, memory, make_view(state, cache), state.shed_rows)
        dropped = 0
        for row in state.shed_rows:
            if row != NONE and is_here(state, row):  # a policy may name one twice
                drop(state, cache, row)
                state.watched[row].shed = 1
                tell_dropped(state, observe, hooks, params, memory, SHED, row)
                dropped += 1
        if dropped < SHED_AT_ONCE:
            return ask_again_s


@kernel
def book_shares(state, flight):
    """Charge the time of the batch just launched to its requests, by the tokens computed for each.

    By tokens, for then shares add up to the iteration on any hardware, table or law.
    """
    first = (state.run[0].launched - 1) % 2 * len(state.free_slots)
    for k in range(flight.scheduled):
        entry = state.batch[first + k]
        state.watched[entry.row].spent_tokens += entry.tokens
        state.watched[entry.row].spent_s += flight.seconds * entry.tokens / flight.tokens
