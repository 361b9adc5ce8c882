"""Batch formation of mode `vllm` where groups of layers have blocks of their own (`engine.kv_groups`)."""

from __future__ import annotations

from fluidgate.engine.cadence import is_prefilling
from fluidgate.engine.group_hits import find_group_hits
from fluidgate.engine.kv_groups import (
    blocks_to_enter,
    blocks_to_grow,
    forget_outside,
    group_state,
    grow,
    hits_are_fresh,
    keeps_within,
    publish_groups,
    take_hits,
)
from fluidgate.engine.queue import first_allowed
from fluidgate.engine.step import preempt_last, put_in_batch, seat
from fluidgate.kernel import kernel


@kernel
def up_to_a_state(part, row, start, new):
    """Of `new` tokens after `start`, those that a chunk may have: it ends where a state is to be kept, for prefix hits.

    Source: vLLM 0.32, Scheduler._mamba_block_aligned_split.
    """
    size = part.setting[0].state_tokens
    tokens = part.prompt_tokens[row] + part.generated[row]
    prefill_end = max(part.prompt_tokens[row], tokens - 1)
    if size == 0 or start >= prefill_end:
        return new
    end = start + new
    last = (tokens - 1) // size * size
    if end >= prefill_end and keeps_within(part, start, end, (prefill_end - 1) // size * size):
        last = 0  # that state is kept all the same
    if end < prefill_end:
        most = part.setting[0].token_budget
        if part.setting[0].long_prefill > 0:
            most = min(most, part.setting[0].long_prefill)
        aligned = end // size * size
        if aligned > start or size <= most:
            end = aligned
    stop = end
    if start % size != 0:
        stop = sooner_stop(start, stop, (start // size + 1) * size)
    stop = sooner_stop(start, stop, last)
    junction = part.junction[row]
    if start < junction < end:
        stop = sooner_stop(start, stop, start + (junction - start) // size * size)
    return max(0, stop - start)


@kernel
def sooner_stop(start, stop, other):
    """The earlier of two ends of a chunk, if the other one is after its start."""
    return other if start < other < stop else stop


@kernel
def take_more(part, cache, row, tokens):
    """Give a resident the blocks for `tokens` more, and let lookups find those that are full."""
    end = part.computed[row] + tokens
    grow(part, cache, row, end)
    if part.setting[0].prefix_caching:
        known = part.prompt_tokens[row] + part.generated[row] - part.rows[row].in_flight
        publish_groups(part, cache, row, min(end, known))


@kernel
def continue_in_groups(state, part, cache, row, tokens):
    """Give a resident the blocks for `tokens` more, preempting from the back; False if it was evicted itself."""
    forget_outside(part, cache, part.rows[row].slot, part.computed[row] - part.rows[row].computing)
    while blocks_to_grow(part, row, part.computed[row] + tokens) > cache.free[0]:
        if preempt_last(state, cache) == row:
            return False
    take_more(part, cache, row, tokens)
    put_in_batch(state, row, tokens)
    return True


@kernel
def try_to_enter(part, cache, row, budget, threshold):
    """(tokens in this iteration, 0 if it must wait; tokens found in the cache) of the request at the queue's head."""
    tokens = part.prompt_tokens[row] + part.generated[row]
    available = cache.free[0] - (part.setting[0].watermark_blocks if part.run[0].running > 0 else 0)
    hit = find_group_hits(part, cache, row, tokens)
    new = tokens - hit
    if new > 1 and part.run[0].prefills_held:
        return 0, hit
    if 0 < threshold < new:
        new = threshold
    new = up_to_a_state(part, row, hit, min(new, budget))
    if new == 0 or hits_are_fresh(part, cache, hit):
        return 0, hit
    if part.setting[0].reserve_full_prompt and blocks_to_enter(part, cache, row, tokens, hit, True) > available:
        return 0, hit
    if blocks_to_enter(part, cache, row, hit + new, hit, False) > available:
        return 0, hit
    return new, hit


@kernel
def schedule_groups(state, cache, threshold):
    """vLLM V1 as `continue_residents` has it; a chunk that would end before the next place for a state waits."""
    part, run = group_state(state), state.run[0]
    run.fresh_keys = 0
    budget = state.setting[0].token_budget
    i = 0
    while i < run.ordered and budget > 0:
        row = state.running[i]
        if state.mask[i] != 0 and not (run.prefills_held and is_prefilling(state, row)):
            new = state.prompt_tokens[row] + state.generated[row] - state.computed[row]
            if 0 < threshold < new:
                new = threshold
            new = up_to_a_state(part, row, state.computed[row], min(new, budget))
            if new > 0 and state.generated[row] < state.output_tokens[row]:  # else its last token is in flight
                if not continue_in_groups(state, part, cache, row, new):
                    break
                budget -= new
        i += 1
    while run.victims == 0 and budget > 0 and run.running < state.setting[0].seats:
        row = first_allowed(state)
        if row < 0:
            break
        new, hit = try_to_enter(part, cache, row, budget, threshold)
        if new == 0:
            break
        seat(state, row, hit)
        take_hits(part, cache, state.rows[row].slot, hit)
        take_more(part, cache, row, new)
        put_in_batch(state, row, new)
        budget -= new
