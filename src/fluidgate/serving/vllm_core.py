"""vLLM's own scheduler and KV cache manager, built without a model, on every release of `serving.versions`."""

from __future__ import annotations

import copy
import json
import os
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

from vllm import __version__ as VLLM_VERSION
from vllm.engine.arg_utils import EngineArgs
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

from fluidgate.engine import EngineConfig
from fluidgate.errors import InputError
from fluidgate.hardware import Hardware
from fluidgate.serving.versions import cuts_lone_prefill, spaces_prefills
from fluidgate.serving.vllm_groups import kv_cache

LONGEST_MODEL_LEN = 1 << 20

# The smallest config.json that vLLM takes for a text model: the scheduler asks only for lengths and limits.
TINY_LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "max_position_embeddings": LONGEST_MODEL_LEN,
    "rms_norm_eps": 1e-5,
    "torch_dtype": "float32",
}


@cache
def _hash_function() -> Any:
    function = get_hash_fn_by_name("sha256")
    init_none_hash(function)
    return function


@cache
def _base_config() -> Any:
    """A vLLM configuration for the tiny model; making one takes seconds, so it is made once and copied."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(TINY_LLAMA), encoding="utf-8")
        return EngineArgs(
            model=folder,
            load_format="dummy",
            skip_tokenizer_init=True,
            dtype="float32",
            max_model_len=LONGEST_MODEL_LEN,
            enforce_eager=True,
            max_num_batched_tokens=LONGEST_MODEL_LEN,
            enable_prefix_caching=True,
            block_size=16,
            async_scheduling=False,
        ).create_engine_config()


def new_scheduler(
    hardware: Hardware, config: EngineConfig, token_budget: int, kind: type[Scheduler] = Scheduler
) -> Any:
    """vLLM's scheduler, or the given subclass of it, over `hardware`'s KV blocks, with `config`'s limits."""
    vllm_config = copy.copy(_base_config())
    scheduling = vllm_config.scheduler_config = copy.copy(vllm_config.scheduler_config)
    caching = vllm_config.cache_config = copy.copy(vllm_config.cache_config)
    for name, value in _scheduling(scheduling, config, token_budget).items():
        setattr(scheduling, name, value)
    caching.enable_prefix_caching = config.enable_prefix_caching
    caching.num_gpu_blocks = hardware.num_gpu_blocks
    caching.block_size = hardware.block_size
    return kind(
        vllm_config=vllm_config,
        structured_output_manager=StructuredOutputManager(vllm_config),
        log_stats=False,
        **kv_cache(hardware, vllm_config),
    )


def scheduler_kind(config: EngineConfig) -> type[Scheduler]:
    """vLLM's scheduler for these settings."""
    kind: type[Scheduler] = AsyncScheduler if config.is_asynchronous else Scheduler
    return kind


def _scheduling(defaults: Any, config: EngineConfig, token_budget: int) -> dict[str, Any]:
    """`config` as fields of vLLM's `SchedulerConfig`, of which `defaults` shows the ones that this version has."""
    fields = {
        "max_num_seqs": config.most_seqs,
        "max_num_batched_tokens": token_budget,
        "max_num_scheduled_tokens": None,
        "long_prefill_token_threshold": config.long_prefill_token_threshold,
        "scheduler_reserve_full_isl": config.scheduler_reserve_full_isl,
        "watermark": config.watermark_share,
        "async_scheduling": config.is_asynchronous,
    }
    if spaces_prefills(VLLM_VERSION):
        fields["prefill_schedule_interval"] = config.prefill_schedule_interval
    if hasattr(defaults, "max_num_active_seqs"):
        fields["max_num_active_seqs"] = config.max_num_active_seqs
    else:  # before 0.31 the seats are what caps the residents
        fields["max_num_seqs"] = config.seats
    if hasattr(defaults, "long_prefill_token_threshold_adaptive"):
        fields["long_prefill_token_threshold_adaptive"] = False
    return fields


def as_installed(config: EngineConfig) -> EngineConfig:
    """`config` with the rules of the installed vLLM, which no setting of a server changes.

    Raises:
        InputError: `config` asks for a rule that this version does not have.
    """
    cuts = cuts_lone_prefill(VLLM_VERSION)
    if config.cut_lone_prefill and not cuts:
        raise InputError(f"vLLM {VLLM_VERSION} does not cut the prompt of a lone request; leave cut_lone_prefill out")
    if config.prefill_schedule_interval > 1 and not spaces_prefills(VLLM_VERSION):
        raise InputError(
            f"vLLM {VLLM_VERSION} has no prefill_schedule_interval on one engine, as from 0.33 on; leave it at 1"
        )
    return replace(config, cut_lone_prefill=cuts)


def new_request(
    row: int, arrival_s: float, prompt: list[int], output_tokens: int, hash_block_size: int | None
) -> Request:
    """A request that generates exactly `output_tokens`; `hash_block_size` None: without prefix caching."""
    return Request(
        request_id=str(row),
        prompt_token_ids=prompt,
        sampling_params=SamplingParams(temperature=0.0, max_tokens=output_tokens, ignore_eos=True),
        pooling_params=None,
        arrival_time=arrival_s,
        block_hasher=None if hash_block_size is None else get_request_block_hasher(hash_block_size, _hash_function()),
    )


def runner_output(request_ids: list[str], sampled: list[list[int]]) -> ModelRunnerOutput:
    """What a model would have answered: no token or one per request."""
    return ModelRunnerOutput(
        req_ids=request_ids,
        req_id_to_index={name: k for k, name in enumerate(request_ids)},
        sampled_token_ids=sampled,
        logprobs=None,
        prompt_logprobs_dict={},
        pooler_output=[],
    )


__all__ = ["VLLM_VERSION", "RequestStatus", "as_installed", "new_request", "new_scheduler", "runner_output"]
