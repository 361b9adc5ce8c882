"""What a server sets by itself, and which requests it refuses: our tables and rules against vLLM's own functions."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fluidgate.hardware import ServerDefaults, find_gpu, gpu_names, read_model_config, server_defaults
from fluidgate.hardware.gpus import DEFAULT_MEMORY_UTILIZATION, GIB
from fluidgate.hardware.server_defaults import KNOWN_SINCE
from fluidgate.serving.versions import NEWEST, Release, find_release

from .against_vllm import needs_vllm

pytestmark = needs_vllm

CUTS_ANSWERS_SINCE = (0, 32)
"""From here on a request whose prompt fits is served with the tokens that are left."""

NAMES = {"a100-80gb": "NVIDIA A100-SXM4-80GB", "a800": "NVIDIA A800-SXM4-80GB", "mi300x": "AMD Instinct MI300X"}
"""As the driver spells them, where that matters; else our own."""

LENGTHS = {"max_position_embeddings": 8192, "rope_theta": 10000.0}
"""Of the tiny model whose config.json the tests change."""


@pytest.fixture(scope="module")
def release() -> Release:
    """The installed one; the table holds from `KNOWN_SINCE` on."""
    from fluidgate.serving.vllm_core import VLLM_VERSION

    found = find_release(VLLM_VERSION) or NEWEST
    if found.number < KNOWN_SINCE:
        pytest.skip(f"vLLM {VLLM_VERSION} has other defaults than the table, which starts at {KNOWN_SINCE}")
    return found


def stock(monkeypatch: pytest.MonkeyPatch, name: str, memory_gib: float, max_model_len: int, **flags: int) -> Any:
    """`EngineArgs` after vLLM has filled in seats and budget of its API server for a GPU."""
    from vllm.engine import arg_utils
    from vllm.usage.usage_lib import UsageContext

    platform = SimpleNamespace(
        get_device_total_memory=lambda: int(memory_gib * GIB),
        get_device_name=lambda: name,
        is_device_capability=lambda capability: False,
        is_tpu=lambda: False,
        is_cpu=lambda: False,
    )
    args = arg_utils.EngineArgs(model="org/model", enable_chunked_prefill=True, **flags)
    monkeypatch.setattr(arg_utils, "current_platform", platform)
    model = SimpleNamespace(max_model_len=max_model_len, is_multimodal_model=False)
    parallel = SimpleNamespace(use_batched_dp_moe=False)
    args._set_default_max_num_seqs_and_batched_tokens_args(UsageContext.OPENAI_API_SERVER, model, parallel)
    return args


@pytest.mark.parametrize("name", gpu_names())
def test_the_table_is_vllms(name: str, monkeypatch: pytest.MonkeyPatch, release: Release) -> None:
    gpu = find_gpu(name)
    ours = server_defaults(gpu.name, gpu.memory_gib, 4096)
    if ours.max_num_seqs is None:
        pytest.skip(f"vLLM's values for {name} are not in the table")
    theirs = stock(monkeypatch, NAMES.get(name, name), gpu.memory_gib, 4096)
    assert (ours.max_num_seqs, ours.max_num_batched_tokens) == (theirs.max_num_seqs, theirs.max_num_batched_tokens)


@pytest.mark.parametrize("memory_gib", [1.0, 69.9, 70.0, 159.9, 160.0, 300.0])
@pytest.mark.parametrize("name", ["NVIDIA A100-SXM4-80GB", "NVIDIA H100"])
@pytest.mark.parametrize("longest", [4, 2048, 131072])
@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"max_num_seqs": 2},
        {"max_num_batched_tokens": 64},
        {"max_num_seqs": 96, "max_num_batched_tokens": 4096},
    ],
    ids=str,
)
def test_flags_bind_the_rest_as_in_vllm(
    memory_gib: float,
    name: str,
    longest: int,
    flags: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
    release: Release,
) -> None:
    ours = server_defaults(name, memory_gib, longest).with_flags(**flags)
    theirs = stock(monkeypatch, name, memory_gib, longest, **flags)
    assert (ours.max_num_seqs, ours.max_num_batched_tokens) == (theirs.max_num_seqs, theirs.max_num_batched_tokens)


def test_the_memory_share_is_vllms() -> None:
    """Of every release that the gate runs on."""
    from vllm.config import CacheConfig

    assert CacheConfig.gpu_memory_utilization == DEFAULT_MEMORY_UTILIZATION


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"max_position_embeddings": 131072},
        {"model_max_length": 131072},
        {"model_max_length": 1024},
        {"seq_length": 4096},
        {"max_sequence_length": 100},
        {"rope_scaling": {"type": "linear", "factor": 4.0}},
        {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}},
        {
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 1024,
            }
        },
        {
            "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 16, "long_factor": [2.0] * 16},
            "original_max_position_embeddings": 4096,
        },
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e6, "factor": 3.5}},
        {
            "architectures": ["Gemma3ForCausalLM"],
            "model_type": "gemma3_text",
            "head_dim": 32,
            "sliding_window": 512,
            "sliding_window_pattern": 2,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
        {
            "architectures": ["MistralForCausalLM"],
            "model_type": "mistral",
            "sliding_window": 16384,
            "max_position_embeddings": 8192,
        },
    ],
    ids=str,
)
def test_the_longest_request_is_the_one_that_vllm_derives(
    changes: dict[str, Any], tmp_path: Path, release: Release
) -> None:
    from vllm.engine.arg_utils import EngineArgs

    from fluidgate.serving.vllm_core import TINY_LLAMA

    (tmp_path / "config.json").write_text(json.dumps(TINY_LLAMA | LENGTHS | changes), encoding="utf-8")
    args = EngineArgs(model=str(tmp_path), skip_tokenizer_init=True, dtype="float32", load_format="dummy")
    assert read_model_config(tmp_path).max_model_len == args.create_model_config().max_model_len


@pytest.mark.parametrize(("prompt", "output"), [(80, 20), (81, 20), (1, 100), (99, 1), (99, 2), (100, 1), (101, 1)])
def test_what_does_not_fit_is_not_served_whole(prompt: int, output: int, release: Release) -> None:
    """A request that we refuse gets an error from vLLM, or, from 0.32 on, fewer tokens than it asked for."""
    from vllm.exceptions import VLLMValidationError
    from vllm.renderers.params import TokenizeParams

    server = pytest.importorskip(
        "vllm.entrypoints.serve.utils.api_utils", exc_type=ImportError, reason="it imports what is not installed here"
    )
    longest = 100
    try:
        params = TokenizeParams(max_total_tokens=longest, max_output_tokens=output)
        params._token_len_check(None, [0] * prompt)
        served = server.get_max_tokens(longest, output, prompt, {})
    except VLLMValidationError:
        served = 0
    assert (served == output) == (prompt + output <= longest)
    if prompt + output > longest and prompt < longest and output <= longest:
        assert (served > 0) == (release.number >= CUTS_ANSWERS_SINCE)


def test_hardware_without_defaults_has_the_last_row() -> None:
    limits = ServerDefaults().with_flags()
    assert (limits.max_num_seqs, limits.max_num_batched_tokens) == (256, 2048)
