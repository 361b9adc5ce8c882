"""vLLM's own KV cache specs of a model, built without weights on a CPU, also as one of several GPUs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import parallel_state
from vllm.engine.arg_utils import EngineArgs
from vllm.platforms import current_platform
from vllm.platforms.cpu import CpuPlatform

BLOCK_SIZE = 32
"""The CPU's attention kernel takes multiples of it."""
EXPERTS = 8
"""So many of a mixture's experts are built: they keep no cache."""


def text_model(config: dict[str, Any], architectures: dict[str, str]) -> dict[str, Any]:
    """A config's text model, unquantised and with few experts: what is left out keeps no cache.

    Args:
        config: as the model's maker published it.
        architectures: by `model_type` of a multimodal config, the class of its text model.
    """
    text = dict(config.get("text_config", config))
    if "text_config" in config:
        text["architectures"] = [architectures[config["model_type"]]]
    for key in ("quantization_config", "auto_map"):
        text.pop(key, None)
    for key in ("num_experts", "num_local_experts", "n_routed_experts"):
        if text.get(key):
            text[key] = min(text[key], EXPERTS)
    for key in ("num_experts_per_tok", "experts_per_token", "top_k_experts", "n_group", "topk_group"):
        if text.get(key):
            text[key] = 1
    if "hybrid_override_pattern" in text:
        text["hybrid_override_pattern"] = text["hybrid_override_pattern"].replace("E", "-")
    return text


def build_specs(
    config: dict[str, Any], folder: Path, tp: int = 1, **arguments: Any
) -> tuple[VllmConfig, dict[str, Any]]:
    """The engine's settings and the spec of every layer, for a model of this config on the first of `tp` GPUs."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    settings = EngineArgs(
        model=str(folder),
        skip_tokenizer_init=True,
        load_format="dummy",
        enforce_eager=True,
        tensor_parallel_size=tp,
        **arguments,
    ).create_engine_config()
    with set_current_vllm_config(settings), _one_of(tp), _any_kernel():
        from vllm.model_executor.model_loader.utils import initialize_model
        from vllm.utils.torch_utils import set_default_torch_dtype
        from vllm.v1.worker.gpu.attn_utils import get_kv_cache_spec

        with set_default_torch_dtype(settings.model_config.dtype), torch.device("meta"):
            initialize_model(settings)
        current_platform.update_block_size_for_backend(settings)
        settings.cache_config.kv_cache_layout = "LBNHC"  # that of FlashAttention
        return settings, get_kv_cache_spec(settings)


@contextmanager
def _one_of(tp: int) -> Iterator[None]:
    """As the first of `tp` processes, without the others."""
    new_group, coordinator = dist.new_group, parallel_state.GroupCoordinator.__init__

    def alone(self: Any, *args: Any, **options: Any) -> None:
        options |= {"use_device_communicator": False, "use_message_queue_broadcaster": False}
        coordinator(self, *args[:3], **options)

    with ExitStack() as stack:
        stack.enter_context(
            mock.patch.object(dist, "new_group", lambda ranks=None, *_, **__: new_group(ranks, backend="fake"))
        )
        stack.enter_context(mock.patch.object(parallel_state.GroupCoordinator, "__init__", alone))
        stack.enter_context(mock.patch.object(parallel_state, "in_the_same_node_as", return_value=[True] * tp))
        dist.init_process_group(backend="fake", rank=0, world_size=tp, store=FakeStore())
        parallel_state.init_distributed_environment(tp, 0, "env://", 0, "fake")
        parallel_state.initialize_model_parallel(tp, 1)
        try:
            yield
        finally:
            parallel_state.destroy_model_parallel()
            parallel_state.destroy_distributed_environment()


@contextmanager
def _any_kernel() -> Iterator[None]:
    """Layers whose kernels a CPU lacks are built all the same: nothing is computed."""
    from vllm.model_executor.layers.fused_moe.experts.cpu_moe import CPUUnquantizedExperts

    chosen = CpuPlatform.get_attn_backend_cls.__func__  # type: ignore[attr-defined]

    def dense(cls: type, selected: Any, attn_selector_config: Any, **options: Any) -> Any:
        return chosen(cls, selected, attn_selector_config._replace(use_sparse=False), **options)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(CpuPlatform, "get_attn_backend_cls", classmethod(dense)))
        stack.enter_context(mock.patch.object(CPUUnquantizedExperts, "is_supported_config", return_value=(True, None)))
        yield
