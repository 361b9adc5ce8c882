"""Batch formation: which requests run in an iteration, with how many tokens, and who loses its KV for it.

Source for mode `vllm`: vLLM 0.30 to 0.33, `v1/core/sched/scheduler.py` (Scheduler.schedule) and
`v1/core/kv_cache_manager.py` (allocate_slots). `sarathi` follows Sarathi-Serve (Agrawal et al., OSDI'24),
`prefill-first` vLLM V0 (`core/scheduler.py` before 0.8, without chunked prefill).
"""

from __future__ import annotations

from fluidgate.arrays import NONE
from fluidgate.engine.cadence import is_prefilling
from fluidgate.engine.content import block_key, has_shared_prefix, named_tokens
from fluidgate.engine.counted_blocks import give_blocks, take_blocks, take_kept_blocks
from fluidgate.engine.decode_group import (
    close_ranks,
    dissolve_group,
    is_member,
    leave_group,
    members_in_need,
    needs_block,
)
from fluidgate.engine.group_layout import HELD
from fluidgate.engine.kv_cache import ABSENT, lookup, publish, release, take_hit, take_new
from fluidgate.engine.kv_groups import group_state, publish_groups, release_groups
from fluidgate.engine.modes import PREFILL_FIRST, SARATHI, VLLM
from fluidgate.engine.queue import first_allowed, join, leave
from fluidgate.kernel import inlined_kernel, kernel


@kernel
def publish_full_blocks(state, cache, row, start, end, include_own):
    """Let lookups find blocks [start, end): shared content at once, a request's own once it is preempted."""
    slot = state.rows[row].slot
    for i in range(start, end):
        block = cache.table[slot, i]
        key = block_key(state, row, i)
        if cache.prev_same[block] == ABSENT and (include_own or key <= state.setting[0].shared_keys):
            publish(cache, block, key)


@inlined_kernel
def settle(state, cache, row):
    """All of a resident's tokens but those in flight are known: let lookups find the blocks that they fill."""
    before, known = state.rows[row].settled, state.computed[row] - state.rows[row].in_flight
    state.rows[row].settled = known
    size = state.setting[0].block_size
    if state.setting[0].kv_groups > 0:
        later = state.setting[0].prefix_caching and state.setting[0].depth > 1  # else they were as it took its blocks
        if later and state.group_table[state.rows[row].slot, 0, HELD] > 0:  # it holds none where vLLM keeps them
            publish_groups(group_state(state), cache, row, known)
        return
    listed = state.setting[0].prefix_caching
    has_blocks = state.rows[row].blocks > 0  # none where vLLM keeps them
    fills_named = listed and has_blocks and known // size > before // size and before < named_tokens(state, row)
    if fills_named and has_shared_prefix(state, row):
        publish_full_blocks(state, cache, row, before // size, known // size, False)


@inlined_kernel
def end_residency(state, cache, row, may_return):
    """Free a resident's blocks and slot and book what it computed, again or for the first time.

    `may_return`: it was evicted, and may find its own blocks again.
    """
    computed = state.computed[row]
    start = state.rows[row].residency_start
    state.run[0].changes += 1
    state.run[0].computed_tokens += computed - start
    state.recomputed_tokens[row] += max(0, min(computed, state.rows[row].high_water) - start)
    state.rows[row].high_water = max(computed, state.rows[row].high_water)
    full = state.rows[row].settled // state.setting[0].block_size if state.setting[0].prefix_caching else 0
    if state.setting[0].kv_groups > 0:
        release_groups(group_state(state), cache, state.rows[row].slot)
    elif state.setting[0].counted:
        give_blocks(state.run[0], state.rows, cache.free, row, full, may_return)
    else:
        release(cache, state.rows[row].slot, state.rows[row].blocks, full)
    state.free_slots[state.run[0].free_slots] = state.rows[row].slot
    state.run[0].free_slots += 1
    state.rows[row].slot = -1
    state.rows[row].blocks = 0


@inlined_kernel
def evict(state, cache, row):
    """Put a request that has left the running order back to the front of its queue, with nothing computed.

    Where it starts again from nothing, the KV of its prompt arrives once more, if it did.
    """
    end_residency(state, cache, row, True)
    state.computed[row] = 0
    if state.setting[0].restart:
        state.generated[row] = 0
        state.computed[row] = state.setting[0].prompts_arrive * (state.prompt_tokens[row] - 1)
    state.preemptions[row] += 1
    state.run[0].preemptions += 1
    state.run[0].futile += 1
    state.victims[state.run[0].victims] = row
    state.run[0].victims += 1
    join(state, row, True)


@inlined_kernel
def last_resident(state):
    """The resident admitted last; empty places behind it are dropped."""
    while state.running[state.run[0].ordered - 1] == NONE:
        state.run[0].ordered -= 1
        state.run[0].first_walked -= 1
        state.run[0].empty_places -= 1
    return state.running[state.run[0].ordered - 1]


@kernel
def preempt_last(state, cache):
    """Evict the resident admitted last; returns its row."""
    row = last_resident(state)
    state.run[0].ordered -= 1
    state.run[0].running -= 1
    if state.run[0].first_walked > state.run[0].ordered:
        state.run[0].first_walked = state.run[0].ordered
        if is_member(state, row):
            leave_group(state, row)
    listed = state.setting[0].kv_groups == 0 and not state.setting[0].counted  # groups have published theirs already
    if state.setting[0].prefix_caching and listed:
        publish_full_blocks(state, cache, row, 0, state.rows[row].settled // state.setting[0].block_size, True)
    evict(state, cache, row)
    return row


@inlined_kernel
def put_in_batch(state, row, tokens):
    """Schedule `tokens` of a request for this iteration."""
    run = state.run[0]
    entry = state.batch[run.launched % 2 * len(state.free_slots) + run.scheduled]
    entry.row, entry.tokens = row, tokens
    run.scheduled += 1


@inlined_kernel
def continue_resident(state, cache, row, tokens):
    """Give a resident the blocks for `tokens` more, preempting from the back; False if it was evicted itself."""
    size = state.setting[0].block_size
    computed = state.computed[row]
    blocks = state.rows[row].blocks
    spare = 1 if state.setting[0].spare_block and not is_prefilling(state, row) else 0
    if computed + tokens > blocks * size or spare > cache.free[0]:  # most decodes stay within a block: no division
        need = max((computed + tokens + size - 1) // size - blocks, 0)
        while max(need, spare) > cache.free[0]:
            if preempt_last(state, cache) == row:
                return False
        if state.setting[0].counted:
            take_blocks(state.run[0], state.rows, cache.free, need)
        else:
            take_new(cache, state.rows[row].slot, blocks, need)
        state.rows[row].blocks = blocks + need
    named = computed < named_tokens(state, row)
    if named and state.setting[0].prefix_caching and has_shared_prefix(state, row):
        known = state.prompt_tokens[row] + state.generated[row] - state.rows[row].in_flight
        publish_full_blocks(
            state, cache, row, state.rows[row].settled // size, min(computed + tokens, known) // size, False
        )
    put_in_batch(state, row, tokens)
    return True


@inlined_kernel
def schedule_group(state, cache):
    """Schedule every member of the decode group, preempting from the back for their blocks; returns how many run.

    Blocks go to members in running order, so whoever lacks one stands before whoever is evicted for it, or is the same.
    """
    need = members_in_need(state) if state.run[0].decodes > 0 else 0
    while need > 0:
        taken = min(need, cache.free[0])
        take_blocks(state.run[0], state.rows, cache.free, taken)
        need -= taken
        if need > 0:
            row = last_resident(state)
            if state.run[0].first_walked == state.run[0].ordered and is_member(state, row) and needs_block(state, row):
                need -= 1
            preempt_last(state, cache)
    state.run[0].ticked = state.run[0].decodes
    return state.run[0].decodes


@kernel
def find_hits(state, cache, row, tokens):
    """Cached blocks at the start of a request: how many, and how many of them other residents hold.

    The last token is always computed again, for its logits (KVCacheManager.get_computed_blocks).
    """
    hits = 0
    held = 0
    if state.setting[0].prefix_caching and (state.preemptions[row] > 0 or has_shared_prefix(state, row)):
        for i in range((tokens - 1) // state.setting[0].block_size):
            block = lookup(cache, block_key(state, row, i))
            if block == 0:
                break
            state.hits[i] = block
            hits += 1
            held += cache.references[block] > 0
    return hits, held


@inlined_kernel
def offloaded_tokens(state, row):
    """Tokens that an evicted request finds again; as with cached ones, the last token is computed again."""
    if state.setting[0].offload == 0 or state.preemptions[row] == 0:
        return 0
    return min(state.rows[row].high_water, state.prompt_tokens[row] + state.generated[row] - 1)


@inlined_kernel
def admit_one(state, cache, row, budget, threshold):
    """Try to admit the request at the head of the queue; returns its tokens in this iteration, 0 if it must wait.

    In mode vllm it takes the blocks of its first chunk, in the others those of its whole prompt.
    """
    whole_prompt = state.setting[0].mode != VLLM
    size = state.setting[0].block_size
    tokens = state.prompt_tokens[row] + state.generated[row]
    all_blocks = (tokens + size - 1) // size
    available = cache.free[0] - (state.setting[0].watermark_blocks if state.run[0].running > 0 else 0)
    reserve = whole_prompt or state.setting[0].reserve_full_prompt != 0
    if reserve and all_blocks > available and not has_shared_prefix(state, row):
        return 0  # hits on the request's own old blocks free nothing: skip looking for them
    if state.setting[0].counted:
        hits, held = state.rows[row].kept_blocks, 0  # all of them: a token follows those that were computed
    else:
        hits, held = find_hits(state, cache, row, tokens)
    if reserve and all_blocks - held > available:
        return 0
    cached = max(hits * size, offloaded_tokens(state, row), state.computed[row])  # the last: what arrives with it
    new = tokens - cached
    if new > 1 and state.run[0].prefills_held:
        return 0
    if 0 < threshold < new:
        new = threshold
    new = min(new, budget)
    blocks = all_blocks if whole_prompt else (cached + new + size - 1) // size
    if blocks - held > available:
        return 0
    seat_with_blocks(state, cache, row, hits, cached, blocks, new)
    return new


@inlined_kernel
def seat(state, row, cached):
    """Make a waiting request resident, with `cached` tokens of its content found in the cache."""
    leave(state, row)
    state.quota[state.rows[row].group] -= 1
    state.run[0].free_slots -= 1
    state.rows[row].slot = state.free_slots[state.run[0].free_slots]
    state.seats[state.rows[row].slot].row = row
    state.seats[state.rows[row].slot].heap_place = NONE
    state.computed[row] = cached
    state.rows[row].residency_start = cached
    state.rows[row].settled = cached
    if state.preemptions[row] == 0:
        state.cached_tokens[row] = cached
        state.first_scheduled_s[row] = state.run[0].now_s
    if state.run[0].ordered == len(state.running):
        close_ranks(state)
    state.running[state.run[0].ordered] = row
    state.run[0].ordered += 1
    state.run[0].running += 1


@inlined_kernel
def seat_with_blocks(state, cache, row, hits, cached, blocks, new):
    """Seat a request on `hits` shared blocks and new ones up to `blocks`, `cached` tokens done, `new` scheduled."""
    size = state.setting[0].block_size
    seat(state, row, cached)
    if state.setting[0].counted:
        take_kept_blocks(state.rows, cache.free, row)
        take_blocks(state.run[0], state.rows, cache.free, blocks - hits)
    else:
        slot = state.rows[row].slot
        for i in range(hits):
            take_hit(cache, slot, i, state.hits[i])
        take_new(cache, slot, hits, blocks - hits)
    state.rows[row].blocks = blocks
    if state.setting[0].prefix_caching and has_shared_prefix(state, row):
        publish_full_blocks(state, cache, row, hits, (cached + new) // size, False)
    put_in_batch(state, row, new)


@inlined_kernel
def admit_waiting(state, cache, budget, threshold):
    """Admit in queueing order until budget, seats, quota or blocks run out; the first that does not fit ends it."""
    run, setting = state.run[0], state.setting[0]
    longest = 0  # with `pad_prompts`, of the prompts of this batch
    while budget > 0 and run.running < setting.seats:
        row = first_allowed(state)
        if row < 0:
            break
        if setting.mode == PREFILL_FIRST:
            tokens = state.prompt_tokens[row] + state.generated[row] - state.computed[row]
            if setting.pad_prompts:
                longest = max(longest, tokens)
                if (run.scheduled + 1) * longest > setting.token_budget:
                    break
            elif tokens > budget:
                break
        new = admit_one(state, cache, row, budget, threshold)
        if new == 0:
            break
        budget -= new


@inlined_kernel
def continue_residents(state, cache, threshold):
    """Schedule residents in running order; returns what is left of the token budget.

    In mode vllm all run under the budget. In sarathi every decode runs, and a last chunk of one token with them; then
    chunks of prompts share what is left. Mode prefill-first has computed all prompts before it decodes.
    """
    run, mode = state.run[0], state.setting[0].mode
    budget = state.setting[0].token_budget
    short = state.setting[0].spare_block and run.decodes > 0 and members_in_need(state) >= cache.free[0]
    if short or (mode == VLLM and run.decodes > budget):
        dissolve_group(state)
    budget -= schedule_group(state, cache)
    for turn in range(2 if mode == SARATHI else 1):
        i = run.first_walked
        while i < run.ordered and (budget > 0 or mode != VLLM):
            row = state.running[i]
            new = state.prompt_tokens[row] + state.generated[row] - state.computed[row]
            runs = state.mask[i] != 0 and (mode != SARATHI or (new > 1) == (turn == 1))
            runs = runs and state.generated[row] < state.output_tokens[row]  # else its last token is in flight
            runs = runs and not (run.prefills_held and is_prefilling(state, row))
            if mode == VLLM and 0 < threshold < new:
                new = threshold
            if mode == VLLM or turn == 1:
                new = min(new, budget)
            if runs and new > 0:
                if not continue_resident(state, cache, row, new):
                    break
                budget -= new
            i += 1
    return budget
