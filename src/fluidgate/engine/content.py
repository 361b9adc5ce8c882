"""What a block holds, as a key: blocks of equal keys hold equal content from the request's start."""

from __future__ import annotations

from fluidgate.kernel import inlined_kernel, kernel


@kernel
def has_shared_prefix(state, row):
    """Whether the trace names content that other requests may share."""
    return state.setting[0].prefix_block_tokens > 0 and state.prefix_offsets[row + 1] > state.prefix_offsets[row]


@inlined_kernel
def named_tokens(state, row):
    """Tokens from the start of a request that its content ids may name: its prompt, in sessions its reply as well."""
    return state.prompt_tokens[row] + state.setting[0].ids_cover_replies * state.output_tokens[row]


@kernel
def content_key(state, row, i, size):
    """What the i-th `size` tokens of a request are: a key of shared content, or one of the request's own."""
    unit = state.setting[0].prefix_block_tokens
    if unit > 0 and (i + 1) * size <= named_tokens(state, row):
        part = state.prefix_offsets[row] + (i * size) // unit
        if part < state.prefix_offsets[row + 1]:
            return state.prefix_ids[part] * (unit // size) + (i * size % unit) // size + 1
    return state.setting[0].shared_keys + row * state.setting[0].key_stride + i + 1


@kernel
def block_key(state, row, i):
    """What the i-th block of a request holds, where all its layers keep every token."""
    return content_key(state, row, i, state.setting[0].block_size)
