"""Free KV blocks as counts, for loads in which no two requests share content.

Which block a request holds matters only to who looks for its content later. Without shared prefixes that is the
request itself, after an eviction: its full blocks join the back of the free queue, last one first, so that those still
there when it returns are its first ones. The free queue is then a ring of evicted requests, each with the blocks that
it may find again and the number of blocks of no further use ahead of them. The ring begins and ends at an entry of its
own, whose blocks ahead are those behind the last request. `kv_cache` holds the same queue block by block.
"""

from __future__ import annotations

from fluidgate.kernel import inlined_kernel, kernel


@inlined_kernel
def take_blocks(run, rows, free, count):
    """Hand out the first `count` blocks of the free queue."""
    free[0] -= count
    ring = run.ring
    if rows[ring].next_kept == ring:
        rows[ring].blocks_ahead -= count
    else:
        _take_along_the_queue(rows, ring, count)


@kernel
def _take_along_the_queue(rows, ring, count):
    entry = rows[ring].next_kept
    while count > 0:
        taken = min(count, rows[entry].blocks_ahead)
        rows[entry].blocks_ahead -= taken
        count -= taken
        if count > 0:
            taken = min(count, rows[entry].kept_blocks)
            rows[entry].kept_blocks -= taken
            count -= taken
            if rows[entry].kept_blocks == 0:
                _unlink(rows, entry)
                entry = rows[entry].next_kept


@kernel
def _unlink(rows, entry):
    before, after = rows[entry].prev_kept, rows[entry].next_kept
    rows[before].next_kept = after
    rows[after].prev_kept = before
    rows[after].blocks_ahead += rows[entry].blocks_ahead


@kernel
def give_blocks(run, rows, free, row, full, may_return):
    """Give back a resident's blocks: the `full` first ones to the back of the free queue, the others to its front.

    `may_return`: the request was evicted, and may find its full blocks again.
    """
    blocks = rows[row].blocks
    free[0] += blocks
    ring = run.ring
    rows[rows[ring].next_kept].blocks_ahead += blocks - full
    if may_return and full > 0:
        last = rows[ring].prev_kept
        rows[last].next_kept = row
        rows[row].prev_kept = last
        rows[row].next_kept = ring
        rows[ring].prev_kept = row
        rows[row].blocks_ahead = rows[ring].blocks_ahead
        rows[ring].blocks_ahead = 0
        rows[row].kept_blocks = full
    else:
        rows[ring].blocks_ahead += full


@kernel
def take_kept_blocks(rows, free, row):
    """Let an evicted request have the blocks back that still hold its content."""
    if rows[row].kept_blocks > 0:
        free[0] -= rows[row].kept_blocks
        rows[row].kept_blocks = 0
        _unlink(rows, row)
