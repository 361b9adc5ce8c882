"""Prefix hits that all groups of layers agree on (vLLM 0.32, HybridKVCacheCoordinator.find_longest_cache_hit)."""

from __future__ import annotations

from fluidgate.engine.content import has_shared_prefix
from fluidgate.engine.group_layout import CHUNKED, FULL, KIND, LIKE, NEEDED, OFFSET, REACH, SLIDING, TOKENS
from fluidgate.engine.kv_cache import lookup
from fluidgate.engine.kv_groups import group_key, outside
from fluidgate.kernel import kernel


@kernel
def find_block(state, cache, row, first, i):
    """Look up the i-th block in all groups like `first`; fills `state.hits` and is True if all have it."""
    for g in range(first, state.setting[0].kv_groups):
        if state.kv_group[g, LIKE] == first and lookup(cache, group_key(state, row, g, i)) == 0:
            return False
    for g in range(first, state.setting[0].kv_groups):
        if state.kv_group[g, LIKE] == first:
            state.hits[state.kv_group[g, OFFSET] + i] = lookup(cache, group_key(state, row, g, i))
    return True


@kernel
def find_full(state, cache, row, first, longest):
    """The longest hit of at most `longest` tokens in groups that keep every token."""
    size = state.kv_group[first, TOKENS]
    found = 0
    while found < longest // size and find_block(state, cache, row, first, found):
        found += 1
    return found * size // state.setting[0].hit_tokens * state.setting[0].hit_tokens


@kernel
def find_window(state, cache, row, first, longest):
    """The longest hit with the whole window before its end; or one from the beginning on."""
    size, unit = state.kv_group[first, TOKENS], state.setting[0].hit_tokens
    run = 0
    for i in range(longest // size - 1, -1, -1):
        if not find_block(state, cache, row, first, i):
            run = 0
        elif run > 0 or (i + 1) * size % unit == 0:
            run += 1
            if run >= state.kv_group[first, NEEDED]:
                return (i + run) * size
    return run * size // unit * unit


@kernel
def find_chunk(state, cache, row, first, longest):
    """The longest hit from the beginning of the chunk in which `longest` tokens end; what is before is not needed."""
    size = state.kv_group[first, TOKENS]
    found = outside(CHUNKED, state.kv_group[first, REACH], longest) // size
    while found < longest // size and find_block(state, cache, row, first, found):
        found += 1
    return found * size


@kernel
def find_state(state, cache, row, first, longest):
    """The longest hit that ends at a state."""
    size = state.kv_group[first, TOKENS]
    for i in range(longest // size - 1, -1, -1):
        if find_block(state, cache, row, first, i):
            return (i + 1) * size
    return 0


@kernel
def find_kind(state, cache, row, first, longest):
    """The longest hit in the groups like `first`."""
    kind = state.kv_group[first, KIND]
    if kind == FULL:
        return find_full(state, cache, row, first, longest)
    if kind == SLIDING:
        return find_window(state, cache, row, first, longest)
    if kind == CHUNKED:
        return find_chunk(state, cache, row, first, longest)
    return find_state(state, cache, row, first, longest)


@kernel
def find_group_hits(state, cache, row, tokens):
    """Tokens at a request's start that every group has in cached blocks, a multiple of HIT_TOKENS; fills `state.hits`.

    Groups take turns shortening the hit until all agree (HybridKVCacheCoordinator.find_longest_cache_hit); with one
    kind beside full attention one turn is enough, and vLLM takes no other. The last token is always computed again.
    """
    state.junction[row] = 0
    if not state.setting[0].prefix_caching or (state.preemptions[row] == 0 and not has_shared_prefix(state, row)):
        return 0
    groups = state.setting[0].kv_groups
    kinds = 0
    fulls = 0
    for g in range(groups):
        if state.kv_group[g, LIKE] == g:
            kinds += 1
            fulls += state.kv_group[g, KIND] == FULL
    hit = tokens - 1
    longest = 0
    turn = 0
    while True:
        current = hit
        for is_full in (True, False):
            for g in range(groups):
                if state.kv_group[g, LIKE] == g and (state.kv_group[g, KIND] == FULL) == is_full:
                    if not is_full or turn == 0:  # what keeps every token has every shorter hit too
                        current = find_kind(state, cache, row, g, current)
                    longest = max(longest, current)
        if current >= hit:
            break
        hit = current
        turn += 1
        if kinds == 2 and fulls >= 1:
            break
    if longest > hit:
        state.junction[row] = longest
    return hit
