"""`KvSize`: the KV memory of one engine, as a page of vLLM's metrics states it."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from fluidgate.vllm_metrics.names import CONFIG
from fluidgate.vllm_metrics.scrape import Scrape

ROUNDED = 2e-3
"""A concurrency may be stated with two decimals."""

LEAST_WHOLE = 0.9
"""Share of blocks × block size that one group's tokens make up where the longest request is ten blocks or more: only
its last block is not full."""


@dataclass(frozen=True)
class KvSize:
    """KV memory of one engine.

    Attributes:
        num_gpu_blocks: as vLLM counts them: one is the null block.
        block_size: tokens per block.
        tokens: that fit: what the page states, which in one group of full attention is every block but the null block.
        several_groups: whether layers keep their KV in groups that share the blocks, as those with a sliding window
            or a state per sequence do beside full attention.
    """

    num_gpu_blocks: int
    block_size: int
    tokens: float
    several_groups: bool = False


def kv_size(scrape: Scrape) -> KvSize | None:
    """The size that a page states; None where it does not.

    vLLM publishes `num_gpu_blocks` summed over its data-parallel engines, the rest for one engine
    (v1/engine/core_client.py, `_apply_ready_response`). Its `kv_cache_size_tokens` is an engine's blocks over those of
    a request of `max_model_len` in all groups, times that length (v1/core/kv_cache_utils.py, `get_kv_cache_capacity`);
    older versions publish none.

    Raises:
        InputError: a label that is no number of blocks or tokens.
    """
    blocks, size = scrape.count("num_gpu_blocks"), scrape.count("block_size")
    tokens = scrape.count("kv_cache_size_tokens")
    if not size or not (blocks or tokens):
        return None
    if not blocks:
        return KvSize(1 + (tokens or 0) // size, size, float(tokens or 0))
    blocks = max(1, blocks // max(1, len(scrape.labelled(CONFIG, "engine"))))
    if not tokens:
        return KvSize(blocks, size, float((blocks - 1) * size))
    concurrency = scrape.quantity("kv_cache_max_concurrency")
    # with decode context parallelism a block of every rank makes up one of the attention's
    for tokens_per_block in (size, scrape.count("effective_attention_block_size") or size):
        if _one_full_group(blocks, tokens_per_block, tokens, concurrency):
            return KvSize(blocks, tokens_per_block, float((blocks - 1) * tokens_per_block))
    return KvSize(blocks, size, float(tokens), several_groups=True)


def _one_full_group(blocks: int, size: int, tokens: int, concurrency: float | None) -> bool:
    """Whether the longest request takes the blocks that its length fills, and no others."""
    if not concurrency:
        return LEAST_WHOLE * blocks * size < tokens <= blocks * size
    needed = ceil(tokens / concurrency / size - ROUNDED)
    return abs(blocks / concurrency - needed) < 0.5 + ROUNDED * needed
