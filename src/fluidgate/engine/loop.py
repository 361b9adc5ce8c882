"""The step loop: arrivals, decisions, a batch, its duration, its tokens; over and over, in virtual time."""

from __future__ import annotations

import numpy as np

from fluidgate.engine.modes import PREFILL_FIRST, SARATHI, VLLM
from fluidgate.engine.queue import add_hold_time, join, next_arrival_s
from fluidgate.engine.state import (
    BLOCK_SECONDS,
    BLOCK_SIZE,
    BUSY,
    EMPTY_ITERATIONS,
    FINISHED_REQUESTS,
    FUTILE,
    GAP_FIRST_EXPONENT,
    GAP_SUBBINS_LOG2,
    GAP_SUM,
    ITERATION,
    LAST_FINISH,
    LAST_FINISHED,
    LAST_FREED,
    LAST_STEP_END,
    LOG_DECISIONS,
    LOG_FREE_BLOCKS,
    LOG_LEVEL,
    LOG_NOTHING,
    LOG_PREEMPTED,
    LOG_ROWS,
    LOG_RUNNING,
    LOG_SCHEDULED,
    LOG_STEPS,
    LOG_TOKENS,
    LOG_VICTIMS,
    LOG_WAITING,
    MAX_FUTILE,
    MAX_NUM_SEQS,
    MODE,
    NEARLY_FULL,
    NEXT_ARRIVAL,
    NOW,
    NUM_CLASSES,
    PEAK_BLOCKS,
    RUNNING,
    SCHEDULED,
    TOKEN_BUDGET,
    TOTAL_BLOCKS,
    VICTIMS,
    WAITING,
    WAKE,
)
from fluidgate.engine.step import end_residency, schedule_prefill_first, schedule_sarathi, schedule_vllm
from fluidgate.hardware.grid_kernel import grid_step_s
from fluidgate.kernel import entry_kernel, inlined_kernel, kernel
from fluidgate.policies.protocol import (
    ADMITTED,
    ARRIVED,
    FINISHED,
    FIRST_TOKEN,
    PREEMPTED,
    Event,
    Request,
    View,
)

DONE, MORE, LOG_FULL, STUCK, FUTILE_RUN, UNKNOWN_CLASS, PAUSED = range(7)
"""Why the loop came back: all requests that arrived have finished; iterations used up; the log needs room; nothing can
happen unless a request arrives; residents evict each other without progress; `classify` named a class that the policy
does not have; nothing begins before the time it was to reach."""

HAS_CLASSIFY, HAS_RANK, HAS_ADMIT, HAS_ADVANCE, HAS_OBSERVE = 1, 2, 4, 8, 16

NO_LIMIT = 1 << 40


@kernel
def make_view(state, cache):
    """What a policy sees (`policies.protocol.View`)."""
    return View(
        state.clock[NOW],
        state.counter[ITERATION],
        cache.free[0],
        state.setting[TOTAL_BLOCKS],
        state.setting[BLOCK_SIZE],
        state.setting[TOKEN_BUDGET],
        state.setting[MAX_NUM_SEQS],
        state.running[: state.counter[RUNNING]],
        state.head,
        state.waiting,
        state.next_waiting,
        state.arrival_s,
        state.prompt_tokens,
        state.generated,
        state.computed,
        state.shown_output,
        state.class_id,
    )


@kernel
def make_event(state, kind, row):
    """What `observe` gets (`policies.protocol.Event`)."""
    return Event(
        kind,
        state.clock[NOW],
        row,
        state.arrival_s[row],
        state.prompt_tokens[row],
        state.generated[row],
        state.computed[row],
        state.class_id[row],
        state.group[row],
    )


@inlined_kernel
def receive_arrivals(state, classify, rank, observe, hooks, params, memory):
    """Queue every request that has arrived by now; False if the last one's class does not exist."""
    while next_arrival_s(state) <= state.clock[NOW]:
        row = state.counter[NEXT_ARRIVAL]
        state.counter[NEXT_ARRIVAL] = state.following[row]
        if hooks & (HAS_CLASSIFY | HAS_RANK):
            request = Request(
                row, state.arrival_s[row], state.prompt_tokens[row], state.shown_output[row], state.class_id[row]
            )
            if hooks & HAS_CLASSIFY:
                state.group[row] = classify(params, request)
                if not 0 <= state.group[row] < state.setting[NUM_CLASSES]:
                    return False  # the queues are arrays: compiled code would write beside them
            if hooks & HAS_RANK:
                state.rank[row] = rank(params, request)
        join(state, row, False)
        state.counter[FUTILE] = 0
        if hooks & HAS_OBSERVE:
            observe(params, memory, make_event(state, ARRIVED, row))
    return True


@inlined_kernel
def sooner(state, wake_s, asked_s):
    """The earlier of two times to ask again; one that is past, or not a number, does not count."""
    return asked_s if state.clock[NOW] < asked_s < wake_s else wake_s


@inlined_kernel
def decide(state, cache, admit, advance, hooks, params, memory):
    """Ask the policy; fills `state.quota` and `state.mask` and returns when to ask again (s)."""
    wake_s = float("inf")
    for group in range(state.setting[NUM_CLASSES]):
        state.quota[group] = NO_LIMIT
    if hooks & HAS_ADVANCE and state.counter[RUNNING] > 0:  # without it the mask stays all ones
        for i in range(state.counter[RUNNING]):
            state.mask[i] = 1
        wake_s = sooner(state, wake_s, advance(params, memory, make_view(state, cache), state.mask))
    if hooks & HAS_ADMIT and state.counter[WAITING] > 0:
        wake_s = sooner(state, wake_s, admit(params, memory, make_view(state, cache), state.quota))
    return wake_s


@inlined_kernel
def form_batch(state, cache):
    """Fill `state.batch_*` and `state.victims` for this iteration."""
    state.counter[SCHEDULED] = 0
    state.counter[VICTIMS] = 0
    mode = state.setting[MODE]
    if mode == VLLM:
        schedule_vllm(state, cache)
    elif mode == SARATHI:
        schedule_sarathi(state, cache)
    elif mode == PREFILL_FIRST:
        schedule_prefill_first(state, cache)


@inlined_kernel
def compute_batch(state):
    """Advance the batch's computed tokens; returns (seconds the iteration takes, tokens computed in it)."""
    chunk = 0  # prefill tokens
    chunk_kv = 0
    pairs = 0
    decodes = 0
    decode_kv = 0
    for k in range(state.counter[SCHEDULED]):
        row = state.batch_rows[k]
        new = state.batch_tokens[k]
        before = state.computed[row]
        after = before + new
        state.computed[row] = after
        generated = state.generated[row]
        if new > 1 or generated == 0 or after != state.prompt_tokens[row] + generated:
            chunk += new
            chunk_kv += after
            pairs += new * before + new * (new + 1) // 2
        else:
            decodes += 1
            decode_kv += after
    c = state.step_time
    if len(state.shared_s) > 0:
        tables = (state.decode_s, state.decode_attention_s, state.shared_s, state.prefill_attention_s)
        seconds = grid_step_s(tables, decodes, decode_kv, chunk, pairs)
    else:
        seconds = c[0] + c[1] * (decodes + chunk) + c[2] * (decode_kv + chunk_kv) + c[3] * pairs
    return seconds + c[4] * state.counter[SCHEDULED], decodes + chunk


@inlined_kernel
def book_gap(state, gap_s, times):
    """Count `times` gaps between tokens in a histogram of constant relative width (2**-10)."""
    state.clock[GAP_SUM] += gap_s * times
    state.gap_scratch[0] = gap_s
    # the bits of a positive float, read as an integer, are its logarithm in steps of 2**-52 of an octave
    bits = state.gap_scratch.view(np.int64)[0] >> (52 - GAP_SUBBINS_LOG2)
    index = bits - ((GAP_FIRST_EXPONENT + 1023) << GAP_SUBBINS_LOG2)
    state.gap_histogram[min(max(index, 0), len(state.gap_histogram) - 1)] += times


@inlined_kernel
def emit_tokens(state, cache, observe, hooks, params, memory):
    """Give a token to every request whose tokens are all computed; free the finished ones."""
    now = state.clock[NOW]
    last_end = state.clock[LAST_STEP_END]
    free = cache.free[0]
    steady = 0  # streams whose last token came at the end of the last iteration: they share one gap
    finished = 0
    for k in range(state.counter[SCHEDULED]):
        row = state.batch_rows[k]
        computed = state.computed[row]
        generated = state.generated[row]
        if computed != state.prompt_tokens[row] + generated:
            continue
        generated += 1
        state.generated[row] = generated
        if computed > state.high_water[row]:  # else the stream has had this token before a restart
            last = state.last_token_s[row]
            state.last_token_s[row] = now
            state.counter[FUTILE] = 0
            if last != last:  # nan: the first token
                state.first_token_s[row] = now
                if hooks & HAS_OBSERVE:
                    observe(params, memory, make_event(state, FIRST_TOKEN, row))
            else:
                gap = now - last
                state.longest_gap_s[row] = max(state.longest_gap_s[row], gap)
                if last == last_end:
                    steady += 1
                else:
                    book_gap(state, gap, 1)
        if generated == state.output_tokens[row]:
            finished += 1
            end_residency(state, cache, row)
            if hooks & HAS_OBSERVE:
                observe(params, memory, make_event(state, FINISHED, row))
    if steady > 0:
        book_gap(state, now - last_end, steady)
    if finished > 0:
        state.counter[FINISHED_REQUESTS] += finished
        state.counter[LAST_FINISHED] = finished
        state.counter[LAST_FREED] = cache.free[0] - free
        state.clock[LAST_FINISH] = now
        drop_finished(state)


@inlined_kernel
def drop_finished(state):
    """Take the requests without a slot out of the running order."""
    kept = 0
    for i in range(state.counter[RUNNING]):
        row = state.running[i]
        if state.slot[row] >= 0:
            state.running[kept] = row
            kept += 1
    state.counter[RUNNING] = kept


@inlined_kernel
def book_memory(state, cache, seconds):
    """KV use during an iteration."""
    used = state.setting[TOTAL_BLOCKS] - cache.free[0]
    state.counter[PEAK_BLOCKS] = max(state.counter[PEAK_BLOCKS], used)
    state.clock[BUSY] += seconds
    state.clock[BLOCK_SECONDS] += used * seconds
    if 10 * used > 9 * state.setting[TOTAL_BLOCKS]:
        state.clock[NEARLY_FULL] += seconds


@kernel
def write_log(state, cache, log, start_s, tokens):
    """Record an iteration and, at the level of decisions, its batch and its victims."""
    step = state.counter[LOG_STEPS]
    number = log.number[step]
    number[LOG_SCHEDULED] = state.counter[SCHEDULED]
    number[LOG_TOKENS] = tokens
    number[LOG_RUNNING] = state.counter[RUNNING]
    number[LOG_WAITING] = state.counter[WAITING]
    number[LOG_FREE_BLOCKS] = cache.free[0]
    number[LOG_PREEMPTED] = state.counter[VICTIMS]
    log.time[step, 0] = start_s
    log.time[step, 1] = state.clock[NOW]
    state.counter[LOG_STEPS] = step + 1
    if state.setting[LOG_LEVEL] == LOG_DECISIONS:
        at = state.counter[LOG_ROWS]
        for k in range(state.counter[SCHEDULED]):
            log.batch[at + k, 0] = state.batch_rows[k]
            log.batch[at + k, 1] = state.batch_tokens[k]
        state.counter[LOG_ROWS] = at + state.counter[SCHEDULED]
        at = state.counter[LOG_VICTIMS]
        for k in range(state.counter[VICTIMS]):
            log.victims[at + k] = state.victims[k]
        state.counter[LOG_VICTIMS] = at + state.counter[VICTIMS]


@inlined_kernel
def log_has_room(state, log):
    """Whether one more iteration of any size fits into the log."""
    if state.setting[LOG_LEVEL] == LOG_NOTHING:
        return True
    most = len(state.running)
    return (
        state.counter[LOG_STEPS] < len(log.number)
        and state.counter[LOG_ROWS] + most <= len(log.batch)
        and state.counter[LOG_VICTIMS] + most <= len(log.victims)
    )


@kernel
def sleep(state, until_s):
    """Let time pass to the next arrival or to WAKE, if that is before `until_s`; MORE, or why not."""
    time_s = min(next_arrival_s(state), state.clock[WAKE])
    if time_s == float("inf"):
        return DONE if state.counter[RUNNING] == 0 and state.counter[WAITING] == 0 else STUCK
    if time_s >= until_s:
        return PAUSED
    add_hold_time(state, time_s - state.clock[NOW])
    state.clock[NOW] = time_s
    return MORE


@entry_kernel
def run_loop(
    state, cache, log, classify, rank, admit, advance, observe, hooks, params, memory, max_iterations, until_s
):
    """Simulate until everything has finished, or for `max_iterations`; returns one of the codes above.

    `hooks` says which of the five decision functions the policy has; the others are placeholders. Nothing begins at or
    after `until_s`: calls with rising times, and the requests that arrive at each of them handed in between, give the
    same bits as one call with all of them.
    """
    for _ in range(max_iterations):
        if not log_has_room(state, log):
            return LOG_FULL
        if state.clock[WAKE] > state.clock[NOW]:
            slept = sleep(state, until_s)
            if slept != MORE:
                return slept
            state.clock[WAKE] = 0.0
        elif state.clock[NOW] >= until_s:
            return PAUSED
        if not receive_arrivals(state, classify, rank, observe, hooks, params, memory):
            return UNKNOWN_CLASS
        if state.counter[FUTILE] > state.setting[MAX_FUTILE]:
            return FUTILE_RUN
        if state.counter[RUNNING] == 0 and state.counter[WAITING] == 0:
            state.clock[WAKE] = float("inf")
            continue
        wake_s = decide(state, cache, admit, advance, hooks, params, memory)
        residents = state.counter[RUNNING]
        form_batch(state, cache)
        if hooks & HAS_OBSERVE:
            for k in range(state.counter[VICTIMS]):
                observe(params, memory, make_event(state, PREEMPTED, state.victims[k]))
            for i in range(residents - state.counter[VICTIMS], state.counter[RUNNING]):
                observe(params, memory, make_event(state, ADMITTED, state.running[i]))
        if state.counter[SCHEDULED] == 0 and state.counter[VICTIMS] == 0:
            state.clock[WAKE] = wake_s
            continue
        start_s = state.clock[NOW]
        seconds, tokens = compute_batch(state)
        if state.counter[SCHEDULED] == 0:
            seconds = 0.0  # the only resident evicted itself; it comes back at once
            state.counter[EMPTY_ITERATIONS] += 1
        state.clock[NOW] = start_s + seconds
        state.counter[ITERATION] += 1
        add_hold_time(state, seconds)
        book_memory(state, cache, seconds)
        if state.setting[LOG_LEVEL] != LOG_NOTHING:
            write_log(state, cache, log, start_s, tokens)
        emit_tokens(state, cache, observe, hooks, params, memory)
        state.clock[LAST_STEP_END] = state.clock[NOW]
    return MORE
