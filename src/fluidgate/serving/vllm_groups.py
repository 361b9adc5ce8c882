"""vLLM's description of a KV cache of one or several groups of layers, made without a model."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec

from fluidgate.hardware import Hardware, KvGroup

RETENTION_TOKENS = 0
"""vLLM's default `prefix_cache_retention_interval`: of windows and states, prefix hits find what ends where a repeated
prompt resumes, and where a shared prefix was seen to end."""


def kv_cache(hardware: Hardware, vllm_config: Any) -> dict[str, Any]:
    """The scheduler's arguments for the KV cache of `hardware`; sets what `vllm_config.cache_config` says of states."""
    groups = [
        KVCacheGroupSpec([f"layer {i}"], _spec(group, vllm_config)) for i, group in enumerate(hardware.law.groups)
    ]
    cache: dict[str, Any] = {
        "num_blocks": hardware.num_gpu_blocks,
        "kv_cache_tensors": [],
        "kv_cache_groups": groups,
    }
    if hardware.law.is_one_full_group:
        return {"kv_cache_config": KVCacheConfig(**cache), "block_size": hardware.block_size}
    from vllm.v1.core.kv_cache_utils import resolve_kv_cache_block_sizes  # releases since several groups are modelled

    if len(groups) == 1:
        vllm_config.cache_config.block_size = groups[0].kv_cache_spec.block_size  # a state's may be the longest request
    config = _as_known(KVCacheConfig, **cache, prefix_cache_retention_interval=RETENTION_TOKENS)
    block_size, hash_block_size = resolve_kv_cache_block_sizes(config, vllm_config)
    return {"kv_cache_config": config, "block_size": block_size, "hash_block_size": hash_block_size}


def _as_known(kind: Any, **values: Any) -> Any:
    """One of vLLM's dataclasses, without the fields that came with later releases than the installed one."""
    known = {field.name for field in fields(kind)}
    return kind(**{name: value for name, value in values.items() if name in known})


def _spec(group: KvGroup, vllm_config: Any) -> Any:
    """What a layer of the group tells vLLM; heads and widths do not matter to a scheduler."""
    shape = {"block_size": group.block_size, "num_kv_heads": 2, "head_size": 32, "dtype": torch.float32}
    if group.kind == "full":
        return FullAttentionSpec(**shape)
    from vllm.v1 import kv_cache_interface as interface

    if group.kind == "latent":
        return interface.MLAAttentionSpec(**shape | {"num_kv_heads": 1})
    if group.kind == "sliding":
        return interface.SlidingWindowSpec(**shape, sliding_window=group.reach)
    if group.kind == "chunked":
        return interface.ChunkedLocalAttentionSpec(**shape, attention_chunk_size=group.reach)
    caching = vllm_config.cache_config
    caching.mamba_cache_mode = "align" if caching.enable_prefix_caching else "none"
    return _as_known(
        interface.MambaSpec,
        block_size=group.block_size if caching.enable_prefix_caching else vllm_config.model_config.max_model_len,
        shapes=((1,),),
        dtypes=(torch.float32,),
        mamba_cache_mode=caching.mamba_cache_mode,
        num_prefill_checkpoint_blocks=group.copies - 2,
        prefill_checkpoint_alignment=1 if group.copies > 2 else None,
    )
