"""What vLLM sets by itself: seats and token budget by GPU, the longest request by model, and who overrides whom."""

import json
from pathlib import Path
from typing import Any

import pytest

from fluidgate.engine import EngineConfig
from fluidgate.errors import InputError
from fluidgate.hardware import (
    Gpu,
    Hardware,
    ServerDefaults,
    StepTime,
    find_gpu,
    find_model,
    get_hardware,
    read_hardware,
    read_model_config,
    server_defaults,
    write_hardware,
)

CONFIG = {
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
    "max_position_embeddings": 8192,
}


@pytest.mark.parametrize(
    ("gpu", "seats", "tokens"),
    [
        ("t4", 256, 2048),
        ("l4", 256, 2048),
        ("rtx-4090", 256, 2048),
        ("l40s", 256, 2048),
        ("a100-40gb", 256, 2048),
        ("a100-80gb", 256, 2048),  # 80 GiB, but an A100
        ("a100-80gb-pcie", 256, 2048),
        ("a800", 1024, 8192),  # no A100 by its name
        ("h100-80gb", 1024, 8192),
        ("h20", 1024, 8192),
        ("h200", 1024, 8192),
        ("rtx-pro-6000", 1024, 8192),
        ("b200", 1024, 16384),
        ("mi300x", 1024, 16384),
    ],
)
def test_seats_and_token_budget_follow_the_gpu(gpu: str, seats: int, tokens: int) -> None:
    """70 and 160 GiB, and the A100, as vLLM 0.32's source has them."""
    sheet = find_gpu(gpu)
    assert server_defaults(sheet.name, sheet.memory_gib) == ServerDefaults(seats, tokens)
    limits = EngineConfig().on(get_hardware("llama-3.2-1b", gpu))
    assert (limits.max_num_seqs, limits.max_num_batched_tokens) == (seats, tokens)


@pytest.mark.parametrize("gpu", ["gb10", "gaudi3", "tpu-v6e"])
def test_where_the_table_says_nothing_vllms_smallest_values_hold(gpu: str) -> None:
    sheet = find_gpu(gpu)
    assert server_defaults(sheet.name, sheet.memory_gib) == ServerDefaults()
    limits = EngineConfig().on(get_hardware("llama-3.2-1b", gpu))
    assert (limits.max_num_seqs, limits.max_num_batched_tokens) == (256, 2048)


def test_a_data_sheet_of_ones_own_counts_by_its_memory() -> None:
    large = Gpu("mine", 180.0, 4000.0, 1000.0, "my data sheet")
    assert get_hardware("llama-3.1-8b", large).server == ServerDefaults(1024, 16384, 131072)


def test_flags_bind_what_is_not_given_as_in_vllm() -> None:
    """Budget: at most seats × the longest request; seats: at most the budget; what is given stays."""
    h100 = ServerDefaults(1024, 8192, 4096)
    assert vars(h100.with_flags()) == {
        "max_num_seqs": 1024,
        "max_num_batched_tokens": 8192,
        "max_model_len": 4096,
    }
    assert h100.with_flags(max_num_seqs=1).max_num_batched_tokens == 4096
    assert h100.with_flags(max_num_seqs=1, max_num_batched_tokens=8192).max_num_batched_tokens == 8192
    assert h100.with_flags(max_num_batched_tokens=512).max_num_seqs == 512
    assert h100.with_flags(max_num_seqs=600, max_num_batched_tokens=512).max_num_seqs == 600
    assert h100.with_flags(max_model_len=100).max_model_len == 100
    assert vars(ServerDefaults().with_flags(max_num_batched_tokens=8)) == {
        "max_num_seqs": 256,
        "max_num_batched_tokens": 8,
        "max_model_len": None,
    }


@pytest.mark.parametrize(
    ("mode", "seats", "tokens"), [("vllm", 1024, 8192), ("sarathi", 256, 512), ("prefill-first", 256, 2048)]
)
def test_older_ways_to_form_a_batch_keep_their_own_limits(mode: Any, seats: int, tokens: int) -> None:
    limits = EngineConfig(mode=mode).on(get_hardware("llama-2-7b", "h100-80gb"))
    assert (limits.most_seqs, limits.token_budget(100), limits.max_model_len) == (seats, tokens, 4096)
    assert limits.on(get_hardware("llama-2-7b", "h100-80gb")) == limits


def test_hand_made_hardware_has_no_longest_request() -> None:
    machine = Hardware("mine", StepTime(0.01), 1000)
    alone = EngineConfig(max_num_seqs=256, max_num_batched_tokens=2048, async_scheduling=False)
    assert EngineConfig().on(machine) == alone
    assert EngineConfig(max_model_len=50).on(machine).max_model_len == 50


@pytest.mark.parametrize(
    ("model", "tokens"),
    [
        ("meta-llama/Llama-2-7b-chat-hf", 4096),
        ("Llama-2-70b", 4096),
        ("meta-llama/Meta-Llama-3-8B-Instruct", 8192),
        ("Meta-Llama-3-70B", 8192),
        ("meta-llama/Llama-3.1-8B", 131072),
        ("Llama-3.2-3B-Instruct", 131072),
        ("Llama-3.3-70B-Instruct", 131072),
        ("mistralai/Mistral-7B-Instruct-v0.3", 32768),
        ("Qwen/Qwen2.5-7B-Instruct", 32768),
        ("Qwen/Qwen3-8B", 40960),
        ("Qwen/Qwen3-30B-A3B", 40960),
    ],
)
def test_built_in_models_take_what_their_configs_say(model: str, tokens: int) -> None:
    """`max_position_embeddings` on Hugging Face; Llama 3 and 3.1 have the same dimensions and different lengths."""
    assert find_model(model).max_model_len == tokens


def with_config(folder: Path, **changes: Any) -> int | None:
    values = {key: value for key, value in (CONFIG | changes).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    return read_model_config(folder).max_model_len


@pytest.mark.parametrize(
    ("changes", "tokens"),
    [
        ({}, 8192),
        ({"max_position_embeddings": None}, 2048),
        ({"max_position_embeddings": None, "n_positions": 1024}, 1024),
        ({"seq_length": 4096}, 4096),
        ({"model_max_length": 131072}, 131072),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, 32768),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, 16384),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}}, 8192),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 8192),
        ({"rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 4096}, 4096),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, 8192),
        ({"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2.0}}}, 16384),
    ],
)
def test_a_config_states_the_longest_request(tmp_path: Path, changes: dict[str, Any], tokens: int) -> None:
    """By vLLM 0.32's rules; tests/parity holds them against vLLM itself."""
    assert with_config(tmp_path, **changes) == tokens
    assert get_hardware("mine", "l40s", config=tmp_path).server.max_model_len == tokens


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_position_embeddings": 0}, "'max_position_embeddings' = 0"),
        ({"max_position_embeddings": "8k"}, "'max_position_embeddings' = '8k'"),
        ({"rope_scaling": {"type": "linear", "factor": "x"}}, "rope_scaling: 'factor' = 'x'"),
        ({"rope_scaling": [1]}, "'rope_scaling' must be an object"),
    ],
)
def test_a_length_that_is_none_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        with_config(tmp_path, **changes)


def test_a_hardware_file_may_state_them(tmp_path: Path) -> None:
    machine = Hardware("mine", StepTime(0.01), 1000, relative_error=0.1, server=ServerDefaults(64, 4096, 8192))
    write_hardware(machine, tmp_path / "whole.json")
    assert read_hardware(tmp_path / "whole.json") == machine
    values = json.loads((tmp_path / "whole.json").read_text(encoding="utf-8"))
    assert (values["max_num_seqs"], values["max_num_batched_tokens"], values["max_model_len"]) == (64, 4096, 8192)
    del values["max_num_seqs"], values["max_num_batched_tokens"]
    (tmp_path / "part.json").write_text(json.dumps(values), encoding="utf-8")
    assert read_hardware(tmp_path / "part.json").server == ServerDefaults(max_model_len=8192)
    (tmp_path / "bad.json").write_text(json.dumps(values | {"max_model_len": 0}), encoding="utf-8")
    with pytest.raises(InputError, match=r"bad\.json: 'max_model_len' = 0"):
        read_hardware(tmp_path / "bad.json")
