"""Batch formation: which requests run in an iteration, with how many tokens, and who loses its KV for it.

Source for mode `vllm`: vLLM 0.30 to 0.33, `v1/core/sched/scheduler.py` (Scheduler.schedule) and
`v1/core/kv_cache_manager.py` (allocate_slots). `sarathi` follows Sarathi-Serve (Agrawal et al., OSDI'24),
`prefill-first` vLLM V0 (`core/scheduler.py` before 0.8, without chunked prefill).
"""

from __future__ import annotations

from fluidgate.engine.kv_cache import ABSENT, lookup, publish, release, take_hit, take_new
from fluidgate.engine.queue import first_allowed, join, leave
from fluidgate.engine.state import (
    BLOCK_SIZE,
    COMPUTED_TOKENS,
    CUT_LONE_PREFILL,
    FREE_SLOTS,
    FUTILE,
    KEY_STRIDE,
    LONG_PREFILL,
    NOW,
    OFFLOAD,
    PREEMPTIONS,
    PREFIX_BLOCK_TOKENS,
    PREFIX_CACHING,
    RESERVE_FULL_PROMPT,
    RESTART,
    RUNNING,
    SCHEDULED,
    SEATS,
    SHARED_KEYS,
    TOKEN_BUDGET,
    VICTIMS,
    WAITING,
    WATERMARK_BLOCKS,
)
from fluidgate.kernel import inlined_kernel, kernel


@kernel
def has_shared_prefix(state, row):
    """Whether the trace names content that other requests may share."""
    return state.setting[PREFIX_BLOCK_TOKENS] > 0 and state.prefix_offsets[row + 1] > state.prefix_offsets[row]


@kernel
def block_key(state, row, i):
    """What the i-th block of a request holds: a key of shared content, or one of the request's own."""
    size, unit = state.setting[BLOCK_SIZE], state.setting[PREFIX_BLOCK_TOKENS]
    if unit > 0 and (i + 1) * size <= state.prompt_tokens[row]:
        part = state.prefix_offsets[row] + (i * size) // unit
        if part < state.prefix_offsets[row + 1]:
            return state.prefix_ids[part] * (unit // size) + (i * size % unit) // size + 1
    return state.setting[SHARED_KEYS] + row * state.setting[KEY_STRIDE] + i + 1


@kernel
def publish_full_blocks(state, cache, row, start, end, include_own):
    """Let lookups find blocks [start, end): shared content at once, a request's own once it is preempted."""
    slot = state.slot[row]
    for i in range(start, end):
        block = cache.table[slot, i]
        key = block_key(state, row, i)
        if cache.prev_same[block] == ABSENT and (include_own or key <= state.setting[SHARED_KEYS]):
            publish(cache, block, key)


@kernel
def end_residency(state, cache, row):
    """Free a resident's blocks and slot and book what it computed, again or for the first time."""
    computed = state.computed[row]
    start = state.residency_start[row]
    state.counter[COMPUTED_TOKENS] += computed - start
    state.recomputed_tokens[row] += max(0, min(computed, state.high_water[row]) - start)
    state.high_water[row] = max(computed, state.high_water[row])
    full = computed // state.setting[BLOCK_SIZE] if state.setting[PREFIX_CACHING] else 0
    release(cache, state.slot[row], state.blocks[row], full)
    state.free_slots[state.counter[FREE_SLOTS]] = state.slot[row]
    state.counter[FREE_SLOTS] += 1
    state.slot[row] = -1
    state.blocks[row] = 0


@kernel
def evict(state, cache, row):
    """Put a request that has left the running order back to the front of its queue, with nothing computed."""
    end_residency(state, cache, row)
    state.computed[row] = 0
    if state.setting[RESTART]:
        state.generated[row] = 0
    state.preemptions[row] += 1
    state.counter[PREEMPTIONS] += 1
    state.counter[FUTILE] += 1
    state.victims[state.counter[VICTIMS]] = row
    state.counter[VICTIMS] += 1
    join(state, row, True)


@kernel
def preempt_last(state, cache):
    """Evict the resident admitted last; returns its row."""
    state.counter[RUNNING] -= 1
    row = state.running[state.counter[RUNNING]]
    if state.setting[PREFIX_CACHING]:
        publish_full_blocks(state, cache, row, 0, state.computed[row] // state.setting[BLOCK_SIZE], True)
    evict(state, cache, row)
    return row


@inlined_kernel
def put_in_batch(state, row, tokens):
    """Schedule `tokens` of a request for this iteration."""
    k = state.counter[SCHEDULED]
    state.batch_rows[k] = row
    state.batch_tokens[k] = tokens
    state.counter[SCHEDULED] = k + 1


@inlined_kernel
def continue_resident(state, cache, row, tokens):
    """Give a resident the blocks for `tokens` more, preempting from the back; False if it was evicted itself."""
    size = state.setting[BLOCK_SIZE]
    computed = state.computed[row]
    blocks = state.blocks[row]
    if computed + tokens > blocks * size:  # most decodes stay within a block and skip the division
        need = (computed + tokens + size - 1) // size - blocks
        while need > cache.free[0]:
            if preempt_last(state, cache) == row:
                return False
        take_new(cache, state.slot[row], blocks, need)
        state.blocks[row] = blocks + need
    in_prompt = computed < state.prompt_tokens[row]
    if in_prompt and state.setting[PREFIX_CACHING] and has_shared_prefix(state, row):
        publish_full_blocks(state, cache, row, computed // size, (computed + tokens) // size, False)
    put_in_batch(state, row, tokens)
    return True


@kernel
def find_hits(state, cache, row, tokens):
    """Cached blocks at the start of a request: how many, and how many of them other residents hold.

    The last token is always computed again, for its logits (KVCacheManager.get_computed_blocks).
    """
    hits = 0
    held = 0
    if state.setting[PREFIX_CACHING] and (state.preemptions[row] > 0 or has_shared_prefix(state, row)):
        for i in range((tokens - 1) // state.setting[BLOCK_SIZE]):
            block = lookup(cache, block_key(state, row, i))
            if block == 0:
                break
            state.hits[i] = block
            hits += 1
            held += cache.references[block] > 0
    return hits, held


@kernel
def offloaded_tokens(state, row):
    """Tokens that an evicted request finds again; as with cached ones, the last token is computed again."""
    if state.setting[OFFLOAD] == 0 or state.preemptions[row] == 0:
        return 0
    return min(state.high_water[row], state.prompt_tokens[row] + state.generated[row] - 1)


@kernel
def admit_one(state, cache, row, budget, threshold, whole_prompt):
    """Try to admit the request at the head of the queue; returns its tokens in this iteration, 0 if it must wait.

    `whole_prompt`: its blocks are all taken now, and in mode prefill-first its tokens computed now.
    """
    size = state.setting[BLOCK_SIZE]
    tokens = state.prompt_tokens[row] + state.generated[row]
    all_blocks = (tokens + size - 1) // size
    available = cache.free[0] - (state.setting[WATERMARK_BLOCKS] if state.counter[RUNNING] > 0 else 0)
    reserve = whole_prompt or state.setting[RESERVE_FULL_PROMPT] != 0
    if reserve and all_blocks > available and not has_shared_prefix(state, row):
        return 0  # hits on the request's own old blocks free nothing: skip looking for them
    hits, held = find_hits(state, cache, row, tokens)
    if reserve and all_blocks - held > available:
        return 0
    cached = max(hits * size, offloaded_tokens(state, row))
    new = tokens - cached
    if 0 < threshold < new:
        new = threshold
    new = min(new, budget)
    blocks = all_blocks if whole_prompt else (cached + new + size - 1) // size
    if blocks - held > available:
        return 0
    seat_with_blocks(state, cache, row, hits, cached, blocks, new)
    return new


@kernel
def seat(state, row, cached):
    """Make a waiting request resident, with `cached` tokens of its content found in the cache."""
    leave(state, row)
    state.quota[state.group[row]] -= 1
    state.counter[FREE_SLOTS] -= 1
    state.slot[row] = state.free_slots[state.counter[FREE_SLOTS]]
    state.computed[row] = cached
    state.residency_start[row] = cached
    if state.preemptions[row] == 0:
        state.cached_tokens[row] = cached
        state.first_scheduled_s[row] = state.clock[NOW]
    state.running[state.counter[RUNNING]] = row
    state.counter[RUNNING] += 1


@kernel
def seat_with_blocks(state, cache, row, hits, cached, blocks, new):
    """Seat a request on `hits` shared blocks and new ones up to `blocks`, `cached` tokens done, `new` scheduled."""
    size = state.setting[BLOCK_SIZE]
    seat(state, row, cached)
    slot = state.slot[row]
    for i in range(hits):
        take_hit(cache, slot, i, state.hits[i])
    take_new(cache, slot, hits, blocks - hits)
    state.blocks[row] = blocks
    if state.setting[PREFIX_CACHING] and has_shared_prefix(state, row):
        publish_full_blocks(state, cache, row, hits, (cached + new) // size, False)
    put_in_batch(state, row, new)


@kernel
def admit_waiting(state, cache, budget, threshold, whole_prompt):
    """Admit in queueing order until budget, seats, quota or blocks run out; the first that does not fit ends it."""
    while budget > 0 and state.counter[RUNNING] < state.setting[SEATS]:
        row = first_allowed(state)
        if row < 0:
            break
        new = admit_one(state, cache, row, budget, threshold, whole_prompt)
        if new == 0:
            break
        budget -= new


@inlined_kernel
def schedule_vllm(state, cache):
    """vLLM V1: residents in order under one token budget, then admissions unless a request was preempted."""
    budget = state.setting[TOKEN_BUDGET]
    threshold = state.setting[LONG_PREFILL]
    if state.counter[RUNNING] + state.counter[WAITING] <= 1 and not state.setting[CUT_LONE_PREFILL]:
        threshold = 0  # no other request to starve
    i = 0
    while i < state.counter[RUNNING] and budget > 0:
        if state.mask[i] != 0:
            row = state.running[i]
            new = state.prompt_tokens[row] + state.generated[row] - state.computed[row]
            if 0 < threshold < new:
                new = threshold
            new = min(new, budget)
            if not continue_resident(state, cache, row, new):
                break
            budget -= new
        i += 1
    if state.counter[VICTIMS] == 0:
        admit_waiting(state, cache, budget, threshold, False)


@kernel
def schedule_sarathi(state, cache):
    """Sarathi: every decode, then started prefills, then admissions, all under one chunk of tokens.

    Decodes are not limited by the chunk; a prompt's blocks are all taken at admission. A last chunk of one token
    runs with the decodes.
    """
    budget = state.setting[TOKEN_BUDGET]
    for prefills in range(2):
        i = 0
        while i < state.counter[RUNNING]:
            row = state.running[i]
            new = state.prompt_tokens[row] + state.generated[row] - state.computed[row]
            if state.mask[i] != 0 and (new > 1) == (prefills == 1):
                if prefills == 1:
                    new = min(new, budget)
                if new > 0:
                    if not continue_resident(state, cache, row, new):
                        break
                    budget -= new
            i += 1
    if state.counter[VICTIMS] == 0:
        admit_waiting(state, cache, budget, 0, True)


@kernel
def schedule_prefill_first(state, cache):
    """vLLM V0: whole prompts first; an iteration decodes only when no prompt can start."""
    budget = state.setting[TOKEN_BUDGET]
    while state.counter[RUNNING] < state.setting[SEATS]:
        row = first_allowed(state)
        if row < 0 or state.prompt_tokens[row] + state.generated[row] > budget:
            break
        new = admit_one(state, cache, row, budget, 0, True)
        if new == 0:
            break
        budget -= new
    if state.counter[SCHEDULED] == 0:
        i = 0
        while i < state.counter[RUNNING]:
            if state.mask[i] != 0 and not continue_resident(state, cache, state.running[i], 1):
                break
            i += 1
