"""The walk of `fluid` along its queue: who may enter while the forecast of memory leaves its margin."""

from __future__ import annotations

import numpy as np

from fluidgate.fluid.stability import COHERENT
from fluidgate.kernel import kernel
from fluidgate.policies.parts.fluid_memory import (
    COHERENCE,
    CREDIT,
    CURSOR,
    ENTERING,
    EVICTED_SHARE,
    GRID,
    LAWS,
    LOOP,
    OF_RESIDENTS,
    REFUSED,
    TRIAL,
    in_time_at,
    law_at,
    stands,
)
from fluidgate.policies.parts.forecast import add_request, clear_forecast, copy_forecast, peak
from fluidgate.policies.parts.in_time import classes_are_ordered, due_s
from fluidgate.policies.parts.length_law import MEMORY, OUTPUT, TIMES
from fluidgate.policies.parts.margin import MARGIN, SPREAD, usable_share
from fluidgate.policies.parts.residents import kv_tokens

ALL_ENTER, ENOUGH, NO_ROOM = range(3)
"""How a walk along the queue ends: it is empty, the engine takes no more in this iteration, the forecast refuses."""

MAX_TRIED = 64
"""Requests that the forecast is tried on, beyond what one iteration takes, to see whether all fit."""

RESUME = 0.5
"""Share of the margin at which an evicted request of mean size comes back: its stream is silent. The share
grows with its size, up to the whole margin: a large request is expensive to evict again."""


@kernel
def _add(params, memory, view, at, row, unshared):
    law, age = law_at(params, view.class_id[row]), view.generated_tokens[row]
    add_request(memory, at, GRID, law, kv_tokens(view, row, unshared), age)


@kernel
def _usable(params, memory, margin):
    return usable_share(memory, LOOP, margin, params[EVICTED_SHARE], memory[COHERENCE] >= COHERENT)


@kernel
def _fits(params, memory, at, margin, capacity):
    """Whether a forecast leaves a margin below capacity, and its standard deviation at its peak; KV tokens."""
    predicted, spread = peak(memory, at, margin)
    return predicted <= _usable(params, memory, margin) * capacity, spread


@kernel
def all_fit(params, memory, view, unshared):
    """Whether memory suffices for everybody here even if none of them ended: no forecast is higher."""
    longest, margin = memory[GRID + TIMES - 1], memory[LOOP + MARGIN]
    held, squared, waiting = 0.0, 0.0, 0
    for row in view.residents:
        at_end = kv_tokens(view, row, unshared) + longest
        held += at_end
        squared += at_end * at_end
    for head in view.waiting_head:
        row = head
        while row >= 0 and waiting <= MAX_TRIED:
            at_end = kv_tokens(view, row, unshared) + longest
            held += at_end
            squared += at_end * at_end
            waiting += 1
            row = view.next_waiting[row]
    most_spread = 0.5 * np.sqrt(squared)
    capacity = view.total_blocks * view.block_size
    usable = _usable(params, memory, margin) * capacity
    return waiting <= MAX_TRIED and held + max(0.0, margin) * most_spread <= usable


@kernel
def beyond_forecast(params, memory, view, unshared):
    """How many residents the forecast would not have let in. The first always enters."""
    clear_forecast(memory, TRIAL)
    beyond = 0
    for i in range(len(view.residents)):
        _add(params, memory, view, TRIAL, view.residents[i], unshared)
        fits, _ = _fits(params, memory, TRIAL, memory[LOOP + MARGIN], view.total_blocks * view.block_size)
        if i > 0 and not fits:
            beyond += 1
    return beyond


@kernel
def next_in_order(params, memory, view, paced):
    """The first in order among the classes that may enter; -1 if there is none."""
    best, best_queue, at, laws = -1, -1, in_time_at(params), int(params[LAWS])
    for queue in range(len(view.waiting_head)):
        law = law_at(params, queue)
        row = int(memory[law + CURSOR])
        if row < 0:
            continue
        class_law = law_at(params, view.class_id[row])
        if paced and memory[class_law + CREDIT] - memory[class_law + ENTERING] < 1.0:
            continue
        if best < 0 or due_s(memory, at, laws, view, row) < due_s(memory, at, laws, view, best):
            best, best_queue = row, queue
    return best, best_queue


@kernel
def _start_walk(params, memory, view, out_quota):
    for queue in range(len(view.waiting_head)):
        memory[law_at(params, queue) + CURSOR] = view.waiting_head[queue]
        out_quota[queue] = 0
    for c in range(int(params[LAWS])):
        memory[law_at(params, c) + ENTERING] = 0.0
    copy_forecast(memory, OF_RESIDENTS, TRIAL)


@kernel
def _margin_of(params, memory, view, row):
    """The margin at which a waiting request enters."""
    if view.generated_tokens[row] == 0:
        return memory[LOOP + MARGIN]
    law = law_at(params, view.class_id[row])
    mean_held = memory[law + MEMORY] / memory[law + OUTPUT]
    held = view.prompt_tokens[row] + view.generated_tokens[row]
    return memory[LOOP + MARGIN] * min(1.0, RESUME * held / mean_held)


@kernel
def walk(params, memory, view, out_quota, paced, unshared, allowed):
    """Let requests enter in order while the forecast allows it, and `allowed` ones beyond it; returns how it ended.

    Where the token budget ends the iteration the forecast goes on for `MAX_TRIED` requests, to see whether all fit.
    """
    _start_walk(params, memory, view, out_quota)
    residents, in_order = len(view.residents), classes_are_ordered(memory, in_time_at(params))
    capacity = view.total_blocks * view.block_size
    entering, tokens, first_queue = 0, 0, -1
    while (tokens < view.token_budget or entering < MAX_TRIED) and residents + entering < view.max_num_seqs:
        row, queue = next_in_order(params, memory, view, paced)
        if row < 0:
            return ALL_ENTER
        if row == memory[REFUSED] and residents > 0 and entering == 0:
            return NO_ROOM
        first_queue = queue if entering == 0 else first_queue
        if in_order and tokens >= view.token_budget and queue != first_queue:
            return ENOUGH  # the engine takes those that may enter by arrival: no other class may get ahead
        margin = _margin_of(params, memory, view, row)
        _add(params, memory, view, TRIAL, row, unshared)
        fits, spread = _fits(params, memory, TRIAL, margin, capacity)
        if residents + entering > 0 and not fits:
            if allowed <= 0.0:
                memory[LOOP + SPREAD] = spread / capacity
                if entering == 0 or stands(memory):  # once those before it are in, it is the first in order
                    memory[REFUSED] = row
                return NO_ROOM
            allowed -= 1.0
        memory[law_at(params, queue) + CURSOR] = view.next_waiting[row]
        memory[law_at(params, view.class_id[row]) + ENTERING] += 1.0
        out_quota[queue] += 1
        entering += 1
        tokens += view.prompt_tokens[row] + view.generated_tokens[row]
    return ALL_ENTER if next_in_order(params, memory, view, False)[0] < 0 else ENOUGH
