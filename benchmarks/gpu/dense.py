"""Paged attention against attention spelled out over whole sequences."""

from __future__ import annotations

import numpy as np
import torch
from attention import Attention, Batch
from torch import Tensor

BEFORE = (0, 5, 31, 200, 0, 16, 70, 130)
NEW = (1, 1, 1, 1, 3, 16, 90, 65)
"""Decodes and chunks, at and beside the edges of blocks and of tiles."""
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 0.03}
"""Largest difference of numbers of size 1 that rounding explains."""


def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The last queries (n, heads, head_dim) of a sequence over its keys and values (context, kv_heads, head_dim)."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) * q.shape[-1] ** -0.5
    later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1 + len(k) - len(q))
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(later, float("-inf")).softmax(-1), v)


def difference(
    attention: Attention,
    heads: int,
    kv_heads: int,
    head_dim: int,
    block_size: int,
    device: torch.device,
    dtype: torch.dtype,
) -> float:
    """The largest difference between an attention and dense attention in double precision, over a mixed batch.

    Blocks are scattered, and the slots that nobody wrote hold ones, so that reading one shows.
    """
    before, new = np.array(BEFORE), np.array(NEW)
    context, starts = before + new, np.cumsum(new) - new
    needed = -(-context // block_size)
    blocks = np.zeros((len(new), needed.max()), np.int64)
    blocks[np.arange(needed.max()) < needed[:, None]] = np.random.default_rng(0).permutation(needed.sum())
    random = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random).to(device, dtype)

    caches = torch.ones((2, int(needed.sum()), kv_heads, block_size, head_dim), device=device, dtype=dtype)
    q = drawn(int(new.sum()), heads, head_dim)
    own = torch.empty((2, len(q), kv_heads, head_dim), device=device, dtype=dtype)
    expected = []
    for i, (length, fresh, start) in enumerate(zip(context.tolist(), new.tolist(), starts.tolist(), strict=True)):
        pair = drawn(2, length, kv_heads, head_dim)
        at = np.arange(length)
        to, offset = (torch.from_numpy(x).to(device) for x in (blocks[i, at // block_size], at % block_size))
        for cache, whole, part in zip(caches, pair, own, strict=True):
            cache[to, :, offset] = whole
            part[start : start + fresh] = whole[-fresh:]
        expected.append(dense(q[start : start + fresh].double(), *pair.double()))
    batch = Batch(rows=np.arange(len(new)), before=before, new=new, known=context, blocks=blocks)
    paged = attention(batch, block_size, lambda array: torch.from_numpy(np.ascontiguousarray(array)).to(device))
    return float((paged(q, *own, *caches).double() - torch.cat(expected)).abs().max())
