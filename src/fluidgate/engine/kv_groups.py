"""Blocks of several groups of layers: what each takes, forgets, publishes and finds again, in vLLM's order.

Source: vLLM 0.32, `v1/core/single_type_kv_cache_manager.py` (the managers of full attention, sliding window, chunked
local attention and Mamba in mode "align") and `v1/core/kv_cache_coordinator.py` (HybridKVCacheCoordinator). Of windows
and states vLLM keeps for prefix hits what ends where a repeated prompt resumes, and where a shared prefix was seen to
end (`prefix_cache_retention_interval` 0, its default). Entry 0 of a table is the null block: nothing is held there.
"""

from __future__ import annotations

from typing import NamedTuple

from fluidgate.arrays import IntArray
from fluidgate.engine.content import content_key
from fluidgate.engine.group_layout import (
    CHUNKED,
    FORGOTTEN,
    FULL,
    HELD,
    KIND,
    MOST,
    NEEDED,
    OFFSET,
    PUBLISHED,
    REACH,
    SLIDING,
    STATE,
    TOKENS,
)
from fluidgate.engine.kv_cache import ABSENT, publish, put_free, take_hit, take_new
from fluidgate.engine.layout import Records
from fluidgate.kernel import inlined_kernel, kernel


class GroupState(NamedTuple):
    """What of a `State` the kernels of groups need: to compile one that takes the whole costs a second or two."""

    prompt_tokens: IntArray
    output_tokens: IntArray
    prefix_ids: IntArray
    prefix_offsets: IntArray
    generated: IntArray
    computed: IntArray
    rows: Records
    preemptions: IntArray
    hits: IntArray
    kv_group: IntArray
    group_table: IntArray
    junction: IntArray
    fresh_keys: IntArray
    run: Records
    setting: Records


@inlined_kernel
def group_state(state):
    """The part of a `State` that this module's kernels take, as views. In its order: compiled code knows no names."""
    return GroupState(
        state.prompt_tokens,
        state.output_tokens,
        state.prefix_ids,
        state.prefix_offsets,
        state.generated,
        state.computed,
        state.rows,
        state.preemptions,
        state.hits,
        state.kv_group,
        state.group_table,
        state.junction,
        state.fresh_keys,
        state.run,
        state.setting,
    )


@inlined_kernel
def outside(kind, reach, computed):
    """Tokens at the beginning that the next one does not need (get_num_skipped_tokens)."""
    if kind == SLIDING:
        return max(0, computed - reach + 1)
    if kind == CHUNKED:
        return computed // reach * reach
    return max(0, computed - 1) if kind == STATE else 0


@inlined_kernel
def give_back(cache, block, front):
    """Give back one of several blocks; those without content go to the front, behind `front`, the last one there."""
    cache.references[block] -= 1
    if cache.references[block] > 0:
        return front
    if cache.prev_same[block] != ABSENT:
        put_free(cache, block, cache.prev_free[0])
        return front
    put_free(cache, block, front)
    return block


@kernel
def release_groups(state, cache, slot):
    """Give back all of a resident's blocks, group by group, tails first (KVCacheCoordinator.free)."""
    for g in range(state.setting[0].kv_groups):
        table, offset = state.group_table[slot, g], state.kv_group[g, OFFSET]
        front = 0
        for i in range(table[HELD] - 1, table[FORGOTTEN] - 1, -1):
            block = cache.table[slot, offset + i]
            if block != 0:
                front = give_back(cache, block, front)
        table[HELD] = table[PUBLISHED] = table[FORGOTTEN] = 0


@kernel
def forget_outside(state, cache, slot, computed):
    """Give back what the tokens after `computed` ones do not need, nor those in flight (remove_skipped_blocks)."""
    for g in range(state.setting[0].kv_groups):
        group, table = state.kv_group[g], state.group_table[slot, g]
        end = min(outside(group[KIND], group[REACH], computed) // group[TOKENS], table[HELD])
        front = 0
        for i in range(end - 1, table[FORGOTTEN] - 1, -1):
            block = cache.table[slot, group[OFFSET] + i]
            if block != 0:
                front = give_back(cache, block, front)
                cache.table[slot, group[OFFSET] + i] = 0
        table[FORGOTTEN] = max(table[FORGOTTEN], end)


@inlined_kernel
def keeps_within(state, start, end, place):
    """Whether a chunk from `start` to `end` can keep the state at `place` (is_mamba_prefill_checkpoint_valid)."""
    size = state.setting[0].state_tokens
    inner = (end + size - 1) // size - 2 > (start - 1) // size
    return state.setting[0].state_within != 0 and start % size == 0 and inner and start + size <= place < end


@kernel
def new_states(state, row, start, end):
    """States that a chunk from `start` to `end` leaves: one where it ends, and the last whole one of a prompt."""
    size = state.setting[0].state_tokens
    prompt = state.prompt_tokens[row]
    if size > 0 and end >= max(prompt, prompt + state.generated[row] - 1):
        return 1 + keeps_within(state, start, end, (end - 1) // size * size)
    return 1


@kernel
def blocks_to_grow(state, row, end):
    """New blocks that a resident needs for the tokens up to `end`, over all groups."""
    slot = state.rows[row].slot
    total = 0
    for g in range(state.setting[0].kv_groups):
        size = state.kv_group[g, TOKENS]
        more = max(0, (end + size - 1) // size - state.group_table[slot, g, HELD])
        if state.kv_group[g, KIND] == STATE:
            more = min(more, new_states(state, row, state.computed[row], end))
        total += more
    return total


@kernel
def grow(state, cache, row, tokens):
    """Give a resident the blocks for `tokens` tokens (allocate_new_blocks); states take only those that are left."""
    slot = state.rows[row].slot
    for g in range(state.setting[0].kv_groups):
        group, table = state.kv_group[g], state.group_table[slot, g]
        end = (tokens + group[TOKENS] - 1) // group[TOKENS]
        start = table[HELD]
        if end <= start:
            continue
        if group[KIND] == STATE:
            first = max(start, end - new_states(state, row, state.computed[row], tokens))
            for i in range(start, first):
                cache.table[slot, group[OFFSET] + i] = 0
            start = first
        take_new(cache, slot, group[OFFSET] + start, end - start)
        table[HELD] = end


@inlined_kernel
def group_key(state, row, g, i):
    """What the i-th block of a group holds: equal keys mean equal content up to its end, in layers of one group."""
    pieces = state.kv_group[g, TOKENS] // state.setting[0].hash_tokens
    return content_key(state, row, (i + 1) * pieces - 1, state.setting[0].hash_tokens) * state.setting[0].kv_groups + g


@inlined_kernel
def ends_before(place, group, state, i):
    """Whether a hit of the longest length up to `place` tokens needs the i-th block of a window or a state."""
    end = place // state.setting[0].hit_tokens * state.setting[0].hit_tokens // group[TOKENS]
    return end - (group[NEEDED] if group[KIND] == SLIDING else 1) <= i < end


@inlined_kernel
def is_kept(state, row, g, i):
    """Whether vLLM keeps the i-th block for prefix hits (reachable_block_mask)."""
    group = state.kv_group[g]
    if group[KIND] == FULL or group[KIND] == CHUNKED:
        return True
    if ends_before(state.prompt_tokens[row] - 1, group, state, i):
        return True
    return state.junction[row] > 0 and ends_before(state.junction[row], group, state, i)


@kernel
def publish_groups(state, cache, row, tokens):
    """Let lookups find the full blocks of `tokens` tokens that are kept for them (cache_blocks)."""
    slot = state.rows[row].slot
    whole = tokens // state.setting[0].hit_tokens * state.setting[0].hit_tokens
    for g in range(state.setting[0].kv_groups):
        group, table = state.kv_group[g], state.group_table[slot, g]
        end = whole // group[TOKENS]
        for i in range(table[PUBLISHED], end):
            block = cache.table[slot, group[OFFSET] + i]
            if block != 0 and is_kept(state, row, g, i):
                key = group_key(state, row, g, i)
                if cache.prev_same[block] == ABSENT:
                    publish(cache, block, key)
                if group[KIND] == STATE:
                    add_fresh_key(state, key)
        table[PUBLISHED] = max(table[PUBLISHED], end)
        if group[KIND] == STATE:
            publish_prompt_state(state, cache, row, g, whole if state.setting[0].kv_groups > 1 else tokens)


@kernel
def publish_prompt_state(state, cache, row, g, tokens):
    """Note the state where a repeated prompt resumes, as long as it lies there (_cache_partial_tail_block)."""
    group, slot = state.kv_group[g], state.rows[row].slot
    if tokens == 0 or tokens != (state.prompt_tokens[row] - 1) // group[TOKENS] * group[TOKENS]:
        return
    i = tokens // group[TOKENS] - 1
    if i < state.group_table[slot, g, HELD]:
        block = cache.table[slot, group[OFFSET] + i]
        if block != 0:
            key = group_key(state, row, g, i)
            if cache.prev_same[block] == ABSENT:
                publish(cache, block, key)
            add_fresh_key(state, key)


@inlined_kernel
def add_fresh_key(state, key):
    """Note a state that is computed in this iteration: others cannot start from it yet (cached_blocks_this_step)."""
    state.fresh_keys[state.run[0].fresh_keys] = key
    state.run[0].fresh_keys += 1


@kernel
def hits_are_fresh(state, cache, hit):
    """Whether a hit of `hit` tokens starts from a state that is only computed in this iteration."""
    for g in range(state.setting[0].kv_groups):
        group = state.kv_group[g]
        if group[KIND] == STATE and hit >= group[TOKENS]:
            key = cache.key[state.hits[group[OFFSET] + hit // group[TOKENS] - 1]]
            for k in range(state.run[0].fresh_keys):
                if state.fresh_keys[k] == key:
                    return True
    return False


@kernel
def blocks_to_enter(state, cache, row, tokens, hit, reserved):
    """Free blocks that a request takes for `tokens` tokens, `hit` of which lie in the hits, over all groups.

    `reserved`: for a whole prompt, of which windows let go as they move on.
    """
    total = 0
    for g in range(state.setting[0].kv_groups):
        group = state.kv_group[g]
        needed = (tokens + group[TOKENS] - 1) // group[TOKENS]
        if reserved:
            needed = min(needed, group[MOST])
        found = hit // group[TOKENS]
        more = max(0, needed - found)
        total += min(more, new_states(state, row, hit, tokens)) if group[KIND] == STATE else more
        for i in range(outside(group[KIND], group[REACH], hit) // group[TOKENS], found):
            block = state.hits[group[OFFSET] + i]
            if block != 0 and cache.references[block] == 0:
                total += 1
    return total


@kernel
def take_hits(state, cache, slot, hit):
    """Share the blocks of the hits (add_local_computed_blocks), without those outside the windows."""
    for g in range(state.setting[0].kv_groups):
        group, table = state.kv_group[g], state.group_table[slot, g]
        found = hit // group[TOKENS]
        start = outside(group[KIND], group[REACH], hit) // group[TOKENS]
        for i in range(start):
            cache.table[slot, group[OFFSET] + i] = 0
        for i in range(start, found):
            block = state.hits[group[OFFSET] + i]
            if block == 0:
                cache.table[slot, group[OFFSET] + i] = 0
            else:
                take_hit(cache, slot, group[OFFSET] + i, block)
        table[HELD] = table[PUBLISHED] = found
        table[FORGOTTEN] = start
