"""Paged KV blocks and the prefix cache, with vLLM's order of allocation, reuse and eviction.

Source: vLLM 0.32, `v1/core/block_pool.py` and `v1/core/kv_cache_utils.py` (FreeKVCacheBlockQueue). Block 0 is the
null block: it is never handed out, and serves here as the sentinel of the free list and of the hash chains.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fluidgate.arrays import IntArray
from fluidgate.kernel import inlined_kernel, kernel

ABSENT = -1
"""`prev_same` of a block that no lookup can find."""


class Cache(NamedTuple):
    """Block arrays; `table[slot, i]` is the i-th block of the resident in that slot."""

    next_free: IntArray
    prev_free: IntArray
    references: IntArray
    key: IntArray
    next_same: IntArray
    prev_same: IntArray
    bucket_head: IntArray
    bucket_tail: IntArray
    table: NDArray[np.int32]
    free: IntArray  # one value: the number of free blocks


def new_cache(num_gpu_blocks: int, slots: int, blocks_per_slot: int) -> Cache:
    """All blocks free, in order of their number."""
    ring = np.arange(num_gpu_blocks, dtype=np.int64)
    buckets = 1 << int(num_gpu_blocks).bit_length()
    return Cache(
        next_free=np.roll(ring, -1),
        prev_free=np.roll(ring, 1),
        references=np.zeros(num_gpu_blocks, np.int64),
        key=np.zeros(num_gpu_blocks, np.int64),
        next_same=np.zeros(num_gpu_blocks, np.int64),
        prev_same=np.full(num_gpu_blocks, ABSENT, np.int64),
        bucket_head=np.zeros(buckets, np.int64),
        bucket_tail=np.zeros(buckets, np.int64),
        table=np.empty((slots, blocks_per_slot), np.int32),
        free=np.array([num_gpu_blocks - 1], np.int64),
    )


def new_counted_cache(total_blocks: int) -> Cache:
    """A cache whose blocks are only counted (`counted_blocks`)."""
    return new_cache(1, 0, 0)._replace(free=np.array([total_blocks], np.int64))


def cache_bytes(num_gpu_blocks: int) -> int:
    """Memory that `new_cache` takes for these blocks; its table is filled only as far as residents come."""
    return 8 * (6 * num_gpu_blocks + 2 * (1 << int(num_gpu_blocks).bit_length()))


@kernel
def lookup(cache, key):
    """The block that has held this content longest, 0 if none does (BlockHashToBlockMap.get_one_block)."""
    block = cache.bucket_head[key & (len(cache.bucket_head) - 1)]
    while block != 0 and cache.key[block] != key:
        block = cache.next_same[block]
    return block


@kernel
def publish(cache, block, key):
    """Let lookups of `key` find `block`, after the blocks that hold the same content already."""
    bucket = key & (len(cache.bucket_head) - 1)
    last = cache.bucket_tail[bucket]
    cache.key[block] = key
    cache.prev_same[block] = last
    cache.next_same[block] = 0
    if last == 0:
        cache.bucket_head[bucket] = block
    else:
        cache.next_same[last] = block
    cache.bucket_tail[bucket] = block


@kernel
def forget(cache, block):
    """Hide a block from lookups: its content is about to be overwritten."""
    bucket = cache.key[block] & (len(cache.bucket_head) - 1)
    before, after = cache.prev_same[block], cache.next_same[block]
    if before == 0:
        cache.bucket_head[bucket] = after
    else:
        cache.next_same[before] = after
    if after == 0:
        cache.bucket_tail[bucket] = before
    else:
        cache.prev_same[after] = before
    cache.prev_same[block] = ABSENT


@kernel
def take_new(cache, slot, start, count):
    """Hand the first `count` free blocks to `table[slot, start:]` (BlockPool.get_new_blocks)."""
    block = cache.next_free[0]
    for i in range(start, start + count):
        if cache.prev_same[block] != ABSENT:
            forget(cache, block)
        cache.references[block] = 1
        cache.table[slot, i] = block
        block = cache.next_free[block]
    cache.next_free[0] = block
    cache.prev_free[block] = 0
    cache.free[0] -= count


@kernel
def take_hit(cache, slot, i, block):
    """Share a block found in the prefix cache (BlockPool.touch)."""
    if cache.references[block] == 0:
        before, after = cache.prev_free[block], cache.next_free[block]
        cache.next_free[before] = after
        cache.prev_free[after] = before
        cache.free[0] -= 1
    cache.references[block] += 1
    cache.table[slot, i] = block


@inlined_kernel
def put_free(cache, block, before):
    """Insert a block into the free list behind another; behind block 0 it is the next to be handed out."""
    after = cache.next_free[before]
    cache.next_free[before] = block
    cache.prev_free[block] = before
    cache.next_free[block] = after
    cache.prev_free[after] = block
    cache.free[0] += 1


@kernel
def release(cache, slot, count, full):
    """Give back a resident's `count` blocks, tail first (BlockPool.free_blocks).

    The first `full` of them hold cacheable content and join the back of the free list, to be overwritten last; the
    others join its front.
    """
    front = 0
    for i in range(count - 1, -1, -1):
        block = cache.table[slot, i]
        cache.references[block] -= 1
        if cache.references[block] == 0:
            put_free(cache, block, cache.prev_free[0] if i < full else front)
            if i >= full:
                front = block
