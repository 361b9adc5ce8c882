"""The step loop: arrivals, decisions, a batch, its duration, its tokens; over and over, in virtual time."""

from __future__ import annotations

from fluidgate.arrays import NONE
from fluidgate.engine.arrivals import next_arrival_s, take_arrival
from fluidgate.engine.batch import form_batch
from fluidgate.engine.by_address import by_address
from fluidgate.engine.decode_group import dissolve_group, show_members
from fluidgate.engine.flight import land, launch
from fluidgate.engine.layout import LOG_NOTHING
from fluidgate.engine.patience import abort_overdue, book_shares, is_overdue, next_deadline_s, shed_requests, watch
from fluidgate.engine.policy_hooks import (
    HAS_ADMIT,
    HAS_ADVANCE,
    HAS_CLASSIFY,
    HAS_OBSERVE,
    HAS_RANK,
    HAS_SHED,
    NO_LIMIT,
    REFUSALS_STAND,
    make_event,
    make_view,
)
from fluidgate.engine.queue import add_hold_time, first_allowed, join
from fluidgate.engine.quiet import is_quiet, run_quietly
from fluidgate.engine.step_log import log_has_room, write_log
from fluidgate.kernel import entry_kernel, inlined_kernel, kernel
from fluidgate.policies.protocol import ADMITTED, ARRIVED, PREEMPTED, Request

DONE, MORE, LOG_FULL, STUCK, FUTILE_RUN, UNKNOWN_CLASS, PAUSED = range(7)
"""Why the loop came back: all requests that arrived have finished; iterations used up; the log needs room; nothing can
happen unless a request arrives; residents evict each other without progress; `classify` named a class that the policy
does not have; nothing begins before the time it was to reach."""


@inlined_kernel
def receive_arrivals(state, classify, rank, observe, hooks, params, memory):
    """Queue every request that has arrived by now; False if the last one's class does not exist."""
    while next_arrival_s(state) <= state.run[0].now_s:
        row = take_arrival(state)
        if hooks & (HAS_CLASSIFY | HAS_RANK):
            request = Request(
                row, state.arrival_s[row], state.prompt_tokens[row], state.shown_output[row], state.class_id[row]
            )
            if hooks & HAS_CLASSIFY:
                state.rows[row].group = classify(params, request)
                if not 0 <= state.rows[row].group < state.setting[0].num_classes:
                    return False  # the queues are arrays: compiled code would write beside them
            if hooks & HAS_RANK:
                state.rows[row].rank = rank(params, request)
        join(state, row, False)
        if state.setting[0].patience:
            watch(state, row)
        state.run[0].futile = 0
        if hooks & HAS_OBSERVE:
            observe(params, memory, make_event(state, ARRIVED, row))
    return True


@inlined_kernel
def sooner(state, wake_s, asked_s):
    """The earlier of two times to ask again; one that is past, or not a number, does not count."""
    return asked_s if state.run[0].now_s < asked_s < wake_s else wake_s


@inlined_kernel
def refusal_stands(state):
    """Whether the policy would let nobody in again: it did not, and nothing has changed since."""
    run = state.run[0]
    return run.refused_at == run.changes and run.now_s < run.ask_again_s


@inlined_kernel
def decide(state, cache, admit, advance, shed, observe, hooks, params, memory):
    """Ask the policy; fills `state.quota` and `state.mask` and returns when to ask again (s)."""
    wake_s = float("inf")
    stands = refusal_stands(state)
    if hooks & HAS_SHED and state.run[0].waiting > 0:
        show_members(state)
        wake_s = sooner(state, wake_s, shed_requests(state, cache, shed, observe, hooks, params, memory))
    if not stands:
        for group in range(state.setting[0].num_classes):
            state.quota[group] = NO_LIMIT
    if hooks & HAS_ADVANCE and state.run[0].running > 0:  # without it the mask stays all ones
        show_members(state)
        for i in range(state.run[0].running):
            state.mask[i] = 1
        wake_s = sooner(state, wake_s, advance(params, memory, make_view(state, cache), state.mask))
        for i in range(state.run[0].first_walked):
            if state.mask[i] == 0:
                dissolve_group(state)
                break
    if stands:
        wake_s = sooner(state, wake_s, state.run[0].ask_again_s)
    elif hooks & HAS_ADMIT and state.run[0].waiting > 0:
        show_members(state)
        asked_s = admit(params, memory, make_view(state, cache), state.quota)
        wake_s = sooner(state, wake_s, asked_s)
        if hooks & REFUSALS_STAND:
            state.run[0].refused_at = state.run[0].changes if first_allowed(state) == NONE else NONE
            state.run[0].ask_again_s = asked_s
    return wake_s


@inlined_kernel
def book_memory(state, cache, seconds):
    """KV use during an iteration."""
    used = state.setting[0].total_blocks - cache.free[0]
    state.run[0].peak_blocks = max(state.run[0].peak_blocks, used)
    state.run[0].busy_s += seconds
    state.run[0].block_seconds += used * seconds
    if 10 * used > 9 * state.setting[0].total_blocks:
        state.run[0].nearly_full_s += seconds


@kernel
def sleep(state, until_s):
    """Let time pass to the next arrival, deadline or `wake_s`, if that is before `until_s`; MORE, or why not."""
    time_s = min(next_arrival_s(state), state.run[0].wake_s)
    if state.setting[0].patience:
        time_s = min(time_s, next_deadline_s(state))
    if time_s == float("inf"):
        return DONE if state.run[0].running == 0 and state.run[0].waiting == 0 else STUCK
    if time_s >= until_s:
        return PAUSED
    add_hold_time(state, time_s - state.run[0].now_s)
    state.run[0].now_s = time_s
    return MORE


@entry_kernel
def run_loop(
    whole_state,
    whole_cache,
    log,
    classify,
    rank,
    admit,
    advance,
    shed,
    observe,
    hooks,
    params,
    memory,
    max_iterations,
    until_s,
):
    """Simulate until everything has finished, or for `max_iterations`; returns one of the codes above.

    `hooks` says which of the six decision functions the policy has; the others are placeholders. Nothing begins at or
    after `until_s`: calls with rising times, and the requests that arrive at each of them handed in between, give the
    same bits as one call with all of them.
    """
    state, cache = by_address(whole_state), by_address(whole_cache)
    run = state.run[0]
    for _ in range(max_iterations):
        if not log_has_room(state, log):
            return LOG_FULL
        if run.wake_s > run.now_s:
            slept = sleep(state, until_s)
            if slept != MORE:
                return slept
            run.wake_s = 0.0
        elif run.now_s >= until_s:
            return PAUSED
        if not receive_arrivals(state, classify, rank, observe, hooks, params, memory):
            return UNKNOWN_CLASS
        if is_overdue(state, True):
            abort_overdue(state, cache, observe, hooks, params, memory, True)
            continue  # in a closed loop others are sent in their place, now
        if run.futile > state.setting[0].max_futile:
            return FUTILE_RUN
        if run.running == 0 and run.waiting == 0 and run.flying == 0:
            run.wake_s = float("inf")
            continue
        wake_s = decide(state, cache, admit, advance, shed, observe, hooks, params, memory)
        residents = run.running
        form_batch(state, cache)
        if hooks & HAS_OBSERVE:
            for k in range(run.victims):
                observe(params, memory, make_event(state, PREEMPTED, state.victims[k]))
            admitted = run.running - (residents - run.victims)
            for i in range(run.ordered - admitted, run.ordered):
                observe(params, memory, make_event(state, ADMITTED, state.running[i]))
        if run.ticked + run.scheduled > 0:
            flight = launch(state)
            run.iteration += 1
            book_memory(state, cache, flight.seconds)
            if state.setting[0].patience:
                book_shares(state, flight)
            if state.setting[0].log_level != LOG_NOTHING:
                write_log(state, cache, log, flight.start_s, flight.end_s, flight.tokens)
            if run.flying < state.setting[0].depth:
                continue
        elif run.victims > 0:  # the only resident evicted itself; it comes back at once
            run.iteration += 1
            run.empty_iterations += 1
            if state.setting[0].log_level != LOG_NOTHING:
                at_s = max(run.now_s, run.busy_until_s)
                write_log(state, cache, log, at_s, at_s, 0)
        elif run.flying == 0:
            run.wake_s = wake_s
        if run.flying > 0:
            finished = land(state, cache, observe, hooks, params, memory)
            stands = refusal_stands(state)
            unasked = hooks & HAS_ADVANCE == 0 and (run.waiting == 0 or hooks & (HAS_ADMIT | HAS_SHED) == 0 or stands)
            if finished == 0 and unasked and is_quiet(state):
                run_quietly(state, cache, min(until_s, run.ask_again_s) if stands else until_s, stands)
    return MORE
