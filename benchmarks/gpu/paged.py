"""Attention over a paged KV cache as a Triton kernel, which reads keys and values where their blocks lie."""

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl
from attention import Batch, Paged, Put
from torch import Tensor

CHUNK_QUERIES, DECODE_QUERIES = 64, 16
"""Rows of a tile of queries. A decode fills one of 16, the fewest that matrix units take."""
SLOTS = 64
"""KV slots that a tile of queries reads at a time."""


@triton.jit
def _attend(  # type: ignore[no-untyped-def]
    q,
    keys,
    values,
    out,
    table,
    requests,
    rows,
    counts,
    positions,
    scale,
    table_stride,
    q_stride,
    block_stride,
    head_stride,
    GROUP: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    QUERIES: tl.constexpr,
    SLOTS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One head of one tile: queries of one request that follow each other; softmax over the slots as they come."""
    tile, head = tl.program_id(0), tl.program_id(1)
    request, count, position = tl.load(requests + tile), tl.load(counts + tile), tl.load(positions + tile)
    query, column, slot = tl.arange(0, QUERIES), tl.arange(0, WIDTH), tl.arange(0, SLOTS)
    own = (tl.load(rows + tile) + query)[:, None] * q_stride + head * WIDTH + column[None, :]
    there = (query < count)[:, None]
    queries = tl.load(q + own, mask=there, other=0.0)
    peak = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    mixed = tl.zeros([QUERIES, WIDTH], tl.float32)
    context = position + count
    for first in range(0, context, SLOTS):
        at = first + slot
        held = at < context
        block = tl.load(table + request * table_stride + at // BLOCK_SIZE, mask=held, other=0)
        place = block * block_stride + (head // GROUP) * head_stride + (at % BLOCK_SIZE) * WIDTH
        places = place[:, None] + column[None, :]
        key = tl.load(keys + places, mask=held[:, None], other=0.0)
        value = tl.load(values + places, mask=held[:, None], other=0.0)
        scores = tl.dot(queries, tl.trans(key), input_precision=PRECISION) * scale
        scores = tl.where(at[None, :] <= (position + query)[:, None], scores, float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, 1))  # finite from the first slots on: every query reads slot 0
        weights = tl.exp(scores - higher[:, None])
        kept = tl.exp(peak - higher)
        total = total * kept + tl.sum(weights, 1)
        mixed = mixed * kept[:, None] + tl.dot(weights.to(value.dtype), value, input_precision=PRECISION)
        peak = higher
    tl.store(out + own, (mixed / total[:, None]).to(out.dtype.element_ty), mask=there)


def triton_attention(batch: Batch, block_size: int, put: Put) -> Paged:
    """Attention in place: one launch for all decodes, one for all chunks."""
    table = put(batch.blocks[:, : -(-int((batch.before + batch.new).max()) // block_size)])
    decodes = int((batch.new == 1).sum())
    tilings = []
    for first, stop, queries in ((0, decodes, DECODE_QUERIES), (decodes, len(batch.new), CHUNK_QUERIES)):
        if stop > first:
            tilings.append((queries, [put(values) for values in _tiles(batch, first, stop, queries)]))

    def attend(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        q, out = q.contiguous(), torch.empty_like(q, memory_format=torch.contiguous_format)
        heads, width = q.shape[1:]
        for queries, tiles in tilings:
            _attend[(len(tiles[0]), heads)](
                q,
                keys,
                values,
                out,
                table,
                *tiles,
                width**-0.5,
                table.stride(0),
                q.stride(0),
                keys.stride(0),
                keys.stride(1),
                GROUP=heads // keys.shape[1],
                BLOCK_SIZE=block_size,
                WIDTH=width,
                QUERIES=queries,
                SLOTS=SLOTS,
                PRECISION="ieee" if q.dtype == torch.float32 else "tf32",
            )
        return out

    return attend


def _tiles(batch: Batch, first: int, stop: int, queries: int) -> tuple[np.ndarray, ...]:
    """Of requests [first, stop): each tile's request, row of its first query, queries, and position of the first."""
    new = batch.new[first:stop]
    starts = np.cumsum(batch.new)[first:stop] - new
    tiles = -(-new // queries)
    request = np.repeat(np.arange(len(new)), tiles)
    done = (np.arange(len(request)) - np.repeat(np.cumsum(tiles) - tiles, tiles)) * queries
    count = np.minimum(new[request] - done, queries)
    return request + first, starts[request] + done, count, batch.before[first:stop][request] + done
