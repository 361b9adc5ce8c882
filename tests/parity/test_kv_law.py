"""The KV law of a model against vLLM's own code: groups, bytes of a block, blocks, the size that it logs, and what one
request really takes."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fluidgate.hardware.kv_groups import kv_law
from fluidgate.hardware.kv_law import KvDtype, KvGroup, KvLaw
from fluidgate.hardware.kv_layers import read_kv_layers
from fluidgate.jsonfile import JsonObject

from .against_vllm import needs_vllm

pytestmark = needs_vllm

MEMORY = 737_654_321_098
"""Bytes for KV on each GPU: enough for the longest request of any model here, and no multiple of anything."""

PUBLISHED = (
    *("meta-llama--Meta-Llama-3.1-8B", "meta-llama--Llama-4-Scout-17B-16E-Instruct", "Qwen--Qwen3-32B"),
    *("Qwen--Qwen3-30B-A3B", "openai--gpt-oss-20b", "openai--gpt-oss-120b", "google--gemma-4-26B-A4B"),
    *("deepseek-ai--DeepSeek-V3", "deepseek-ai--DeepSeek-V3.2", "moonshotai--Kimi-K2-Instruct", "zai-org--GLM-5.1"),
    *("zai-org--GLM-5.3", "mistralai--Mixtral-8x7B-v0.1", "nvidia--Nemotron-H-56B-Base-8K"),
    *("nvidia--NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "MiniMaxAI--MiniMax-M2.5", "XiaomiMiMo--MiMo-V2-Flash"),
)
"""Configs that aiconfigurator-core ships."""


def written(**dimensions: Any) -> dict[str, Any]:
    """A config by its dimensions, as published; what says nothing of the cache is small."""
    return {"vocab_size": 1024, "hidden_size": 1024, "intermediate_size": 1024, "rms_norm_eps": 1e-6} | dimensions


OTHERS = {
    "qwen3-next-80b-a3b": written(
        architectures=["Qwen3NextForCausalLM"],
        model_type="qwen3_next",
        num_hidden_layers=48,
        num_attention_heads=16,
        num_key_value_heads=2,
        head_dim=256,
        full_attention_interval=4,
        linear_conv_kernel_dim=4,
        linear_key_head_dim=128,
        linear_value_head_dim=128,
        linear_num_key_heads=16,
        linear_num_value_heads=32,
        num_experts=8,
        num_experts_per_tok=1,
        moe_intermediate_size=512,
        shared_expert_intermediate_size=512,
        max_position_embeddings=262144,
        torch_dtype="bfloat16",
    ),
    "gemma-3-27b": written(
        architectures=["Gemma3ForCausalLM"],
        model_type="gemma3_text",
        num_hidden_layers=62,
        num_attention_heads=32,
        num_key_value_heads=16,
        head_dim=128,
        sliding_window=1024,
        sliding_window_pattern=6,
        max_position_embeddings=131072,
        torch_dtype="bfloat16",
    ),
    "glm-4.6": written(
        architectures=["Glm4MoeForCausalLM"],
        model_type="glm4_moe",
        num_hidden_layers=92,
        num_attention_heads=96,
        num_key_value_heads=8,
        head_dim=128,
        n_routed_experts=8,
        num_experts_per_tok=1,
        n_shared_experts=1,
        moe_intermediate_size=256,
        first_k_dense_replace=3,
        max_position_embeddings=202752,
        torch_dtype="bfloat16",
    ),
    "phi-4": written(
        architectures=["Phi3ForCausalLM"],
        model_type="phi3",
        num_hidden_layers=40,
        num_attention_heads=40,
        num_key_value_heads=10,
        hidden_size=5120,
        max_position_embeddings=16384,
        torch_dtype="bfloat16",
        pad_token_id=0,
    ),
    "mistral-7b-v0.1": written(
        architectures=["MistralForCausalLM"],
        model_type="mistral",
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        sliding_window=4096,
        max_position_embeddings=32768,
        torch_dtype="bfloat16",
    ),
}
"""Families that it does not ship, by their published dimensions."""
TEXT_MODELS = {"llama4": "Llama4ForCausalLM", "gemma4": "Gemma4ForCausalLM"}


HYBRIDS = ("qwen3-next-80b-a3b", "nvidia--NVIDIA-Nemotron-3-Nano-30B-A3B-BF16")


def published(name: str) -> dict[str, Any]:
    """A config that aiconfigurator-core ships."""
    library = importlib.util.find_spec("aiconfigurator_core")
    if library is None or library.origin is None:
        pytest.skip("aiconfigurator-core, whose model configs this test reads, is not installed")
    config: dict[str, Any] = json.loads(
        (Path(library.origin).parent / "model_configs" / f"{name}_config.json").read_text()
    )
    return config


def law_of(config: dict[str, Any], settings: Any, tp: int, pp: int = 1) -> KvLaw:
    """Ours, with the block size and the kernel of the CPU that vLLM's is made with."""
    from .kv_specs import BLOCK_SIZE

    latent = settings.model_config.use_mla
    state_dtype = settings.cache_config.mamba_ssm_cache_dtype
    if "linear_num_value_heads" in config and state_dtype != "auto":
        config = config | {"mamba_ssm_dtype": state_dtype}  # some CPUs' kernels of linear attention want another one
    return kv_law(
        read_kv_layers(JsonObject(config, "config")),
        dtype=KvDtype("bfloat16"),
        block_size=16 if latent else BLOCK_SIZE,
        kernel_block=16 if latent else BLOCK_SIZE,
        tp=tp,
        pp=pp,
    )


def vllm_config_of(settings: Any, specs: list[dict[str, Any]]) -> Any:
    """vLLM's groups and blocks for `MEMORY`."""
    from vllm.v1.core.kv_cache_utils import generate_scheduler_kv_cache_config, get_kv_cache_configs

    return generate_scheduler_kv_cache_config(get_kv_cache_configs(settings, specs, [MEMORY] * len(specs)))


def agree(law: KvLaw, settings: Any, config: Any) -> None:
    """Groups, blocks, and the size and concurrency that vLLM logs."""
    from vllm.v1.core.kv_cache_utils import get_kv_cache_capacity

    ours = [(group.layers, group.block_size, group.kind == "state", group.reach) for group in law.groups]
    theirs = [
        (
            len(group.layer_names),
            group.kv_cache_spec.block_size,
            type(group.kv_cache_spec).__name__ == "MambaSpec",
            getattr(group.kv_cache_spec, "attention_chunk_size", None)
            or getattr(group.kv_cache_spec, "sliding_window", None),
        )
        for group in config.kv_cache_groups
    ]
    assert sorted(map(repr, ours)) == sorted(map(repr, theirs))
    assert MEMORY // law.bytes_per_block == config.num_blocks
    tokens, concurrency = get_kv_cache_capacity(settings, config)
    longest = settings.model_config.max_model_len
    flying = settings.max_in_flight_tokens
    assert law.size_tokens(config.num_blocks, longest, flying) == tokens
    assert config.num_blocks / law.most_blocks(longest, flying) == concurrency


@pytest.mark.parametrize("tp", [1, 2, 4])
@pytest.mark.parametrize("name", [*PUBLISHED, *OTHERS])
def test_groups_and_blocks_are_those_of_vllm(name: str, tp: int, tmp_path: Path) -> None:
    from .kv_specs import BLOCK_SIZE, build_specs, text_model

    if name == "phi-4" and tp == 4:
        pytest.skip("vLLM does not serve its 10 KV heads on 4 GPUs either")
    config = text_model(OTHERS[name] if name in OTHERS else published(name), TEXT_MODELS)
    settings, specs = build_specs(config, tmp_path / "model", tp, block_size=BLOCK_SIZE)
    agree(law_of(config, settings, tp), settings, vllm_config_of(settings, [specs]))


@pytest.mark.parametrize("pp", [2, 3, 4])
@pytest.mark.parametrize("name", ["meta-llama--Meta-Llama-3.1-8B", "openai--gpt-oss-120b", "gemma-3-27b", *HYBRIDS])
def test_stages_of_a_pipeline_hold_the_blocks_of_their_layers(name: str, pp: int, tmp_path: Path) -> None:
    from vllm.distributed.utils import get_pp_indices
    from vllm.model_executor.models.utils import extract_layer_index

    from .kv_specs import BLOCK_SIZE, build_specs, text_model

    config = text_model(OTHERS[name] if name in OTHERS else published(name), TEXT_MODELS)
    settings, specs = build_specs(config, tmp_path / "model", block_size=BLOCK_SIZE)
    stages = [range(*get_pp_indices(config["num_hidden_layers"], rank, pp)) for rank in range(pp)]
    of_stage = [{layer: spec for layer, spec in specs.items() if extract_layer_index(layer) in s} for s in stages]
    law = law_of(config, settings, 1, pp)
    assert MEMORY // law.bytes_per_block == vllm_config_of(settings, of_stage).num_blocks


@pytest.mark.parametrize("prefix_caching", [False, True])
@pytest.mark.parametrize("name", ["openai--gpt-oss-20b", "meta-llama--Llama-4-Scout-17B-16E-Instruct", *HYBRIDS])
def test_a_decoding_request_holds_the_blocks_that_the_law_says(name: str, prefix_caching: bool, tmp_path: Path) -> None:
    """Step by step through a life longer than the windows, in vLLM's own manager of blocks."""
    from .kv_specs import BLOCK_SIZE, build_specs, text_model

    config = text_model(OTHERS[name] if name in OTHERS else published(name), TEXT_MODELS)
    settings, specs = build_specs(
        config, tmp_path / "model", block_size=BLOCK_SIZE, enable_prefix_caching=prefix_caching
    )
    law, cache = law_of(config, settings, 1), vllm_config_of(settings, [specs])
    for tokens, held in _life(settings, cache, prompt_tokens=7000, output_tokens=3000, prefix_caching=prefix_caching):
        expected = [int(group.blocks(tokens)) + _moves(group, tokens, prefix_caching) for group in law.groups]
        assert sorted(held) == sorted(expected), f"{tokens} tokens"


def _moves(group: KvGroup, tokens: int, prefix_caching: bool) -> bool:
    """Whether a state is copied into its next block in this step, after which vLLM drops the one before."""
    return prefix_caching and group.kind == "state" and tokens % group.block_size == 1


def _life(
    settings: Any, cache: Any, prompt_tokens: int, output_tokens: int, prefix_caching: bool
) -> Iterator[tuple[int, list[int]]]:
    """Tokens in the cache, and the blocks of each group, after every step of a request that is alone."""
    from vllm import SamplingParams
    from vllm.utils.hashing import sha256
    from vllm.v1.core.kv_cache_manager import KVCacheManager
    from vllm.v1.core.kv_cache_utils import (
        get_request_block_hasher,
        init_none_hash,
        resolve_kv_cache_block_sizes,
    )
    from vllm.v1.request import Request

    init_none_hash(sha256)
    scheduler_block, hash_block = resolve_kv_cache_block_sizes(cache, settings)
    manager = KVCacheManager(
        cache, settings.model_config.max_model_len, scheduler_block, hash_block, enable_caching=prefix_caching
    )
    request = Request(
        request_id="0",
        prompt_token_ids=list(range(prompt_tokens)),
        sampling_params=SamplingParams(max_tokens=output_tokens, ignore_eos=True),
        pooling_params=None,
        block_hasher=get_request_block_hasher(hash_block, sha256) if prefix_caching else None,
    )
    new_tokens = prompt_tokens
    for _ in range(output_tokens):
        assert manager.allocate_slots(request, new_tokens) is not None
        request.num_computed_tokens += new_tokens
        request.append_output_token_ids(1)
        new_tokens = 1
        if request.num_computed_tokens > prompt_tokens + 1:  # a prompt's own blocks go with the step after it
            managers = manager.coordinator.single_type_managers
            yield (
                request.num_computed_tokens,
                [sum(not block.is_null for block in kind.req_to_blocks["0"]) for kind in managers],
            )
