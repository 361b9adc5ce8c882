"""Attention over a paged KV cache in plain PyTorch: all decodes in one call, every prefill chunk in its own.

A cache has shape (num_gpu_blocks, kv_heads, block_size, head_dim), one for keys and one for values per layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from fluidgate.arrays import IntArray

Put = Callable[[NDArray[np.int64] | NDArray[np.bool_]], Tensor]
"""Copies an array to the device."""

Paged = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""Queries (T, heads, head_dim), keys and values (T, kv_heads, head_dim) of a batch, and the caches of keys and values,
which hold them already -> (T, heads, head_dim)."""


@dataclass(frozen=True)
class Batch:
    """Requests of one forward pass; every array has one value (`blocks`: one row) per request.

    Attributes:
        rows: its row in the token buffer.
        before: tokens whose KV is in the cache.
        new: tokens to compute, the ones that follow.
        known: tokens it has, prompt and generated; once all are computed the next one is sampled.
        blocks: its KV blocks in order, shape (n, at least as many as needed); the rest is never read.
    """

    rows: IntArray
    before: IntArray
    new: IntArray
    known: IntArray
    blocks: IntArray


Attention = Callable[[Batch, int, Put], Paged]
"""What attends in a batch of which decodes come first; of the batch, the block size and the way to the device."""


def torch_attention(batch: Batch, block_size: int, put: Put) -> Paged:
    """Attention in plain PyTorch, which copies KV out of its blocks."""
    decodes, chunks = _decodes(batch, block_size, put), _chunks(batch, block_size, put)

    def attend(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        out = torch.empty_like(q)
        if decodes.count:
            out[: decodes.count] = decodes.attend(q[: decodes.count], keys, values)
        for chunk in chunks:
            own = slice(chunk.start, chunk.stop)
            out[own] = chunk.attend(q[own], k[own], v[own], keys, values)
        return out

    return attend


@dataclass(frozen=True)
class Decodes:
    """The one-token requests at the start of a batch, and all their KV blocks end to end.

    Attributes:
        count: how many requests.
        blocks, owner: each block, and which request reads it, shape (b,).
        hidden: slots of each block past the request's context, shape (b, 1, 1, block_size).
    """

    count: int
    blocks: Tensor
    owner: Tensor
    hidden: Tensor

    def attend(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Queries (count, heads, head_dim) over the cache.

        Softmax block by block, put together per request as in flash-decoding: the work is linear in the blocks,
        however unequal the contexts, and so is the time.
        """
        count, _, width = q.shape
        queries = (q * width**-0.5).view(count, keys.shape[1], -1, width)  # heads that share KV go together
        scores = (queries[self.owner] @ keys[self.blocks].transpose(-1, -2)).float()
        scores.masked_fill_(self.hidden, float("-inf"))
        peak = scores.amax(-1)
        highest = torch.full(queries.shape[:-1], float("-inf"), device=q.device)
        highest.scatter_reduce_(0, self.owner[:, None, None].expand_as(peak), peak, "amax")
        weights = (scores - highest[self.owner][..., None]).exp()
        total = torch.zeros_like(highest).index_add_(0, self.owner, weights.sum(-1))
        parts = (weights.to(q.dtype) @ values[self.blocks]).float()
        mixed = torch.zeros(queries.shape, device=q.device).index_add_(0, self.owner, parts)
        return (mixed / total[..., None]).to(q.dtype).view(q.shape)


def _decodes(batch: Batch, block_size: int, put: Put) -> Decodes:
    count = int((batch.new == 1).sum())
    context = batch.before[:count] + 1
    needed = -(-context // block_size)
    owner = np.repeat(np.arange(count), needed)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(needed) - needed, needed)
    position = number[:, None] * block_size + np.arange(block_size)
    hidden = (position >= context[owner][:, None])[:, None, None, :]
    return Decodes(count, put(batch.blocks[owner, number]), put(owner), put(hidden))


@dataclass(frozen=True)
class Chunk:
    """Tokens [start, stop) of a batch, a chunk of one request's prompt.

    Attributes:
        blocks: its KV blocks in order, shape (b,); None: the chunk begins the prompt and needs only its own KV.
        mask: which of their slots each token reads, shape (stop - start, b · block_size); None with `blocks`.
    """

    start: int
    stop: int
    blocks: Tensor | None
    mask: Tensor | None

    def attend(self, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """The chunk's queries (n, heads, head_dim) over its own keys and values, or over the cache."""
        own = [x.transpose(0, 1) for x in (k, v)]
        if self.blocks is not None:
            own = [cache[self.blocks].transpose(0, 1).flatten(1, 2) for cache in (keys, values)]
        mixed = scaled_dot_product_attention(
            q.transpose(0, 1)[None],
            own[0][None],
            own[1][None],
            self.mask,
            is_causal=self.mask is None,
            enable_gqa=q.shape[1] != keys.shape[1],
        )
        return mixed[0].transpose(0, 1)


def _chunks(batch: Batch, block_size: int, put: Put) -> list[Chunk]:
    ends = np.cumsum(batch.new)
    chunks = []
    for i in np.flatnonzero(batch.new > 1):
        before, new, stop = int(batch.before[i]), int(batch.new[i]), int(ends[i])
        blocks = mask = None
        if before:
            blocks = put(batch.blocks[i, : -(-(before + new) // block_size)])
            slots = torch.arange(len(blocks) * block_size, device=blocks.device)
            mask = slots <= slots[before : before + new, None]
        chunks.append(Chunk(stop - new, stop, blocks, mask))
    return chunks
