"""The size of the KV cache as vLLM's own code states it, for one group of layers and for several."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fluidgate.vllm_metrics import Scrape, kv_size

from ..doctor.pages import page
from .against_vllm import needs_vllm

pytestmark = needs_vllm

BLOCKS = 41_000


def labels(groups: list[Any], max_model_len: int, context_parallel: int = 1) -> dict[str, object]:
    """What vLLM puts on its page for groups of layers that share the blocks."""
    from vllm.v1.core.kv_cache_utils import get_kv_cache_capacity
    from vllm.v1.kv_cache_interface import KVCacheConfig, KVCacheGroupSpec

    config = SimpleNamespace(
        model_config=SimpleNamespace(max_model_len=max_model_len),
        parallel_config=SimpleNamespace(decode_context_parallel_size=context_parallel, prefill_context_parallel_size=1),
        scheduler_config=SimpleNamespace(max_num_batched_tokens=8192),
        max_in_flight_tokens=8192,
        speculative_config=None,
    )
    specs = [KVCacheGroupSpec([f"layers {k}"], spec) for k, spec in enumerate(groups)]
    tokens, concurrency = get_kv_cache_capacity(config, KVCacheConfig(BLOCKS, [], specs))
    size = min(spec.block_size for spec in groups)
    return {
        "num_gpu_blocks": BLOCKS,
        "block_size": size,
        "effective_attention_block_size": size * context_parallel,
        "kv_cache_size_tokens": tokens,
        "kv_cache_max_concurrency": concurrency,
    }


def layers(kind: str, **options: int) -> Any:
    """One group: full attention, or a sliding window."""
    import torch
    from vllm.v1 import kv_cache_interface

    sizes = {"block_size": 16, "num_kv_heads": 8, "head_size": 128} | options
    return getattr(kv_cache_interface, kind)(dtype=torch.bfloat16, **sizes)


@pytest.mark.parametrize("max_model_len", [20, 1000, 4097, 32_768, 1_000_000])
@pytest.mark.parametrize("context_parallel", [1, 2])
def test_one_group_of_full_attention(max_model_len: int, context_parallel: int) -> None:
    config = labels([layers("FullAttentionSpec")], max_model_len, context_parallel)
    if not config["kv_cache_size_tokens"]:
        pytest.skip("these blocks hold no request of that length")
    found = kv_size(Scrape.of(page(config=config), "page"))
    assert found is not None
    assert (found.tokens, found.several_groups) == ((BLOCKS - 1) * 16 * context_parallel, False)


@pytest.mark.parametrize("max_model_len", [4096, 32_768, 131_072])
@pytest.mark.parametrize("windows", [1, 5])
def test_full_attention_beside_sliding_windows(windows: int, max_model_len: int) -> None:
    groups = [layers("FullAttentionSpec"), *[layers("SlidingWindowSpec", sliding_window=1024)] * windows]
    config = labels(groups, max_model_len)
    found = kv_size(Scrape.of(page(config=config), "page"))
    assert found is not None
    assert (found.tokens, found.several_groups) == (config["kv_cache_size_tokens"], True)
