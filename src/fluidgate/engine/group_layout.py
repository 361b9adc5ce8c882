"""Groups of layers that cache alike, as arrays for the step loop: one pool of blocks, a table of its own for each."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd, lcm

import numpy as np

from fluidgate.arrays import IntArray
from fluidgate.engine.config import EngineConfig
from fluidgate.hardware import KvLaw

KIND, REACH, TOKENS, OFFSET, MOST, NEEDED, LIKE, COLUMNS = range(8)
"""Columns of a layout, by group: what it keeps; tokens of its window or chunk; tokens of a block; where its part of a
request's table begins; blocks that admission reserves at the most; contiguous blocks that a prefix hit needs; the first
group of the same kind, with which it is looked up."""

HELD, PUBLISHED, FORGOTTEN, TABLE_COLUMNS = range(4)
"""Columns of `State.group_table`, by seat and group: entries of its table, null ones too; of them, those that were
published or never will be; those at its beginning that are all null."""

FULL, SLIDING, CHUNKED, STATE = range(4)
_NUMBERS = {"full": FULL, "latent": FULL, "sliding": SLIDING, "chunked": CHUNKED, "state": STATE}

COPIES = 2
"""Of a state while prefixes are cached: that which a step starts from, and that which it leaves."""

UNLIMITED = 1 << 40
"""More tokens than a request has, and more blocks."""


@dataclass(frozen=True)
class GroupLayout:
    """The groups of a law, as a run keeps them.

    Attributes:
        groups: of shape (groups, COLUMNS); none where one group keeps every token, which needs no table of kinds.
        row_blocks: entries that a request's tables have together.
        hash_tokens: of the pieces of content that the blocks of all groups consist of (hash_block_size).
        hit_tokens: prefix hits are multiples of it (scheduler_block_size).
        state_tokens: tokens between the places where states are kept; 0: none is.
        state_within: whether a prompt's last chunk keeps one as well while it goes on (num_prefill_checkpoint_blocks).
        most_states: of a request at once; a state is kept until the batch that read it has landed.
    """

    groups: IntArray
    row_blocks: int
    hash_tokens: int
    hit_tokens: int
    state_tokens: int = 0
    state_within: bool = False
    most_states: int = COPIES


def layout_of(
    law: KvLaw, longest_tokens: int, step_tokens: int, *, batches_in_flight: int = 1, prefix_caching: bool
) -> GroupLayout:
    """How a run keeps the blocks of `law`.

    Args:
        longest_tokens: prompt and output of the longest request.
        step_tokens: the most that one batch computes.
        batches_in_flight: the most at once.
    """
    if law.is_one_full_group:
        size = law.block_size
        return GroupLayout(np.zeros((0, COLUMNS), np.int64), -(-longest_tokens // size), size, size)
    rows: list[list[int]] = []
    like: dict[object, int] = {}
    offset = 0
    for place, group in enumerate(law.groups):
        kind, reach, size = _NUMBERS[group.kind], group.reach or 0, group.block_size
        most, needed = UNLIMITED, 0
        if kind == STATE and not prefix_caching:
            kind, size = FULL, UNLIMITED  # one block for all of a request
        if kind in (SLIDING, CHUNKED):
            most = group.most_blocks(UNLIMITED, batches_in_flight * step_tokens)
        if kind == SLIDING:
            needed = -(-(reach - 1) // size)
        first = like.setdefault((kind, group.kind, reach, size, group.copies), place)
        rows.append([kind, reach, size, offset, most, needed, first])
        offset += -(-longest_tokens // size)
    sizes = [row[TOKENS] for row in rows if row[TOKENS] < UNLIMITED] or [law.block_size]
    states = [row[TOKENS] for row in rows if row[KIND] == STATE]
    within = any(group.kind == "state" and group.copies > COPIES for group in law.groups)
    most_states = COPIES + within + batches_in_flight - 1
    return GroupLayout(
        np.array(rows, np.int64), offset, gcd(*sizes), lcm(*sizes), max(states, default=0), within, most_states
    )


def not_modelled(law: KvLaw, config: EngineConfig) -> str:
    """Why the engine cannot keep the blocks of a law under these settings, in words; empty: it can."""
    if law.is_one_full_group:
        return ""
    if config.mode != "vllm" or config.preemption != "recompute":
        return f"several KV groups in mode {config.mode} with preemption {config.preemption}"
    if config.prompts_arrive_computed:
        return "several KV groups with prompts that arrive computed"
    if not config.enable_prefix_caching:
        return ""
    kinds = {group.kind for group in law.groups}
    sizes = {group.block_size for group in law.groups}
    if len(sizes) > 1 and kinds & {"state", "chunked"}:
        return "states or chunks beside blocks of other sizes, with prefix caching"
    if "chunked" in kinds and not kinds & {"full", "latent"}:
        return "chunks without a layer that keeps every token, with prefix caching"
    if any(group.kind == "chunked" and (group.reach or 0) % group.block_size for group in law.groups):
        return "chunks that end within a block, with prefix caching"
    if len({group.copies for group in law.groups if group.kind == "state"}) > 1:
        return "states of two kinds, with prefix caching"
    return ""


def most_blocks(law: KvLaw, tokens: IntArray, layout: GroupLayout) -> IntArray:
    """Blocks that a request alone needs at the most, up to so many tokens of context; of the shape of `tokens`."""
    if len(layout.groups) == 0:
        return np.asarray(-(-tokens // law.block_size))
    total = np.zeros_like(tokens)
    for kind, reach, size, _, most, *_ in layout.groups.tolist():
        if kind == STATE:
            total += layout.most_states
        else:
            split = int(kind == CHUNKED and reach % size > 0)  # a chunk that begins within a block
            total += np.minimum(-(-tokens // size), most + split)
    return total
