"""Whole KV blocks."""

from __future__ import annotations

from fluidgate.kernel import kernel


@kernel
def blocks_for(tokens, block_size):
    """Blocks that hold `tokens` tokens, the last one perhaps in part."""
    return (tokens + block_size - 1) // block_size
