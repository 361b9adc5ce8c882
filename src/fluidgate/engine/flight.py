"""Batches in flight: what a batch computes and how long it takes at its launch, what it gives when it lands.

A synchronous engine lands a batch before it forms the next one. An asynchronous one, as vLLM is by default, forms batch
k + 1 as soon as batch k - 1 has landed, while k still runs. What k will give is known by then but for the tokens'
content: its requests count as if they had those tokens (`generated`), and a request whose last token is in flight runs
no more. It keeps its seat and its blocks until that token lands.
"""

from __future__ import annotations

from fluidgate.arrays import NONE
from fluidgate.engine.arrivals import departed
from fluidgate.engine.batch_time import batch_seconds, book_gap
from fluidgate.engine.decode_group import (
    drop_finished,
    gather_decodes,
    longest_tick_s,
    note_tick,
    refresh_member,
    retire_members,
    tick,
)
from fluidgate.engine.layout import NO_TOKEN, REPEATED_TOKEN, TOKEN
from fluidgate.engine.patience import abort_overdue, has_left, is_overdue
from fluidgate.engine.policy_hooks import HAS_OBSERVE, make_event
from fluidgate.engine.queue import add_hold_time, leave
from fluidgate.engine.step import end_residency, settle
from fluidgate.kernel import inlined_kernel
from fluidgate.policies.protocol import FINISHED, FIRST_TOKEN


@inlined_kernel
def launch(state):
    """Send the batch that has been formed on its way; returns its flight, whose times are set."""
    run, flight = state.run[0], state.flights[state.run[0].launched % 2]
    chunk = 0  # prefill tokens
    chunk_kv = 0
    pairs = 0
    decodes = run.ticked
    decode_kv = 0
    moves_all = decodes > 0 or run.decodes == 0
    if decodes > 0:
        tick(state)
        decode_kv = run.group_kv
    for k in range(run.scheduled):
        entry = state.batch[run.launched % 2 * len(state.free_slots) + k]
        row, new = entry.row, entry.tokens
        before, generated = state.computed[row], state.generated[row]
        after = before + new
        whole = state.prompt_tokens[row] + generated
        state.computed[row] = after
        state.rows[row].computing += new
        state.rows[row].settled = min(after, whole - state.rows[row].in_flight)
        if new > 1 or after != whole or (generated == 0 and not state.setting[0].prompts_arrive):
            chunk += new
            chunk_kv += after
            pairs += new * before + new * (new + 1) // 2
        else:
            decodes += 1
            decode_kv += after
        entry.gives = NO_TOKEN
        if after == whole:
            entry.gives = TOKEN if after > state.rows[row].high_water else REPEATED_TOKEN
            entry.number = generated + 1
            state.generated[row] = generated + 1
            state.rows[row].in_flight += 1
            if moves_all and entry.gives == TOKEN:
                state.seats[state.rows[row].slot].steady_at = run.launched + 1
    sequences = run.scheduled + run.ticked
    flight.start_s = max(run.now_s, run.busy_until_s)
    flight.seconds = batch_seconds(state, decodes, decode_kv, chunk, chunk_kv, pairs, sequences)
    flight.end_s = flight.start_s + flight.seconds
    flight.tokens = decodes + chunk
    flight.scheduled, flight.ticked, flight.tick, flight.moves_all = run.scheduled, run.ticked, run.tick, moves_all
    run.busy_until_s = flight.end_s
    run.launched += 1
    run.flying += 1
    if run.first_walked < run.ordered:
        gather_decodes(state)
    return flight


@inlined_kernel
def land(state, cache, observe, hooks, params, memory):
    """Let time pass to the end of the batch launched first, and give its tokens; returns how many requests finished."""
    run = state.run[0]
    flight = state.flights[(run.launched - run.flying) % 2]
    add_hold_time(state, flight.end_s - run.now_s)
    run.now_s = flight.end_s
    if is_overdue(state, False):
        abort_overdue(state, cache, observe, hooks, params, memory, False)
    finished = deliver_tokens(state, cache, observe, hooks, params, memory)
    run.flying -= 1
    run.last_step_end_s = run.now_s
    return finished


@inlined_kernel
def deliver_tokens(state, cache, observe, hooks, params, memory):
    """Give the tokens of the batch that lands, and free the requests that have all of theirs."""
    run = state.run[0]
    free = cache.free[0]
    finished = _deliver_to_group(state, cache, observe, hooks, params, memory)
    finished += _deliver_to_walked(state, cache, observe, hooks, params, memory)
    if finished > 0:
        run.finished_requests += finished
        run.last_finished = finished
        run.last_freed = cache.free[0] - free
        run.last_finish_s = run.now_s
    return finished


@inlined_kernel
def _deliver_to_group(state, cache, observe, hooks, params, memory):
    """The tokens of the decode group; returns how many of its members finished."""
    run = state.run[0]
    flight = state.flights[(run.launched - run.flying) % 2]
    since_s = run.last_tick_s
    if flight.moves_all:
        run.last_tick_s = run.now_s
    if flight.ticked == 0:
        return 0
    gap_s = run.now_s - since_s
    run.futile = 0
    note_tick(state, flight.tick, gap_s)
    book_gap(state, gap_s, flight.ticked)
    if run.flying == 1:  # else they retired when the next batch was formed
        retire_members(state)
    retired = run.retired
    for k in range(retired):
        row = state.retired[k].row
        state.last_token_s[row] = run.now_s
        longest_s = longest_tick_s(state, state.retired[k].since)
        state.longest_gap_s[row] = max(state.longest_gap_s[row], longest_s)
        slot = state.rows[row].slot
        if slot != NONE:
            state.rows[row].settled = state.computed[row]
            state.running[state.seats[slot].place] = NONE
            run.empty_places += 1
        finish(state, cache, row, observe, hooks, params, memory)
    run.retired = 0
    return retired


@inlined_kernel
def _deliver_to_walked(state, cache, observe, hooks, params, memory):
    """The tokens of requests that were scheduled one by one; returns how many of them finished."""
    run, oldest = state.run[0], (state.run[0].launched - state.run[0].flying) % 2
    now, last_end = run.now_s, run.last_step_end_s
    steady = 0  # streams whose last token came at the end of the last batch: they share one gap
    finished = 0
    for k in range(state.flights[oldest].scheduled):
        entry = state.batch[oldest * len(state.free_slots) + k]
        row = entry.row
        state.rows[row].computing -= entry.tokens
        if entry.gives == NO_TOKEN:
            continue
        request = state.rows[row]
        request.in_flight -= 1
        if has_left(state, row):
            continue
        if request.slot != NONE:
            settle(state, cache, row)
        if entry.gives == TOKEN:
            last = state.last_token_s[row]
            state.last_token_s[row] = now
            run.futile = 0
            if last != last:  # nan: the first token
                state.first_token_s[row] = now
                if hooks & HAS_OBSERVE:
                    refresh_member(state, row)
                    observe(params, memory, make_event(state, FIRST_TOKEN, row))
            else:
                gap = now - last
                state.longest_gap_s[row] = max(state.longest_gap_s[row], gap)
                if last == last_end:
                    steady += 1
                else:
                    book_gap(state, gap, 1)
        if entry.number == state.output_tokens[row]:
            finished += 1
            finish(state, cache, row, observe, hooks, params, memory)
    if steady > 0:
        book_gap(state, now - last_end, steady)
    if finished > 0:
        drop_finished(state)
    return finished


@inlined_kernel
def finish(state, cache, row, observe, hooks, params, memory):
    """Let a request that has all its tokens go; one that was evicted with the last one in flight leaves its queue."""
    if state.rows[row].slot == NONE:
        leave(state, row)
    else:
        end_residency(state, cache, row, False)
        state.run[0].running -= 1
    departed(state, row)
    if hooks & HAS_OBSERVE:
        observe(params, memory, make_event(state, FINISHED, row))
