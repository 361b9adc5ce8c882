"""Attention over a paged KV cache in plain PyTorch: all decodes in one call, every prefill chunk in its own.

A cache has shape (num_gpu_blocks, kv_heads, block_size, head_dim), one for keys and one for values per layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


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
