"""Model shapes: published numbers, and configs that must be refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluidgate.errors import InputError
from fluidgate.hardware import ModelShape, find_model, model_names, read_model_config

LLAMA_3_1_8B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def config_file(folder: Path, **changes: Any) -> Path:
    """The Llama-3.1-8B config with `changes`; a value of `...` removes the key."""
    values = {k: v for k, v in (LLAMA_3_1_8B | changes).items() if v is not ...}
    path = folder / "config.json"
    path.write_text(json.dumps(values))
    return path


@pytest.mark.parametrize(
    ("name", "kv_bytes"),
    [
        ("llama-2-7b", 524_288),
        ("llama-2-13b", 819_200),
        ("llama-3.1-8b", 131_072),
        ("llama-3.1-70b", 327_680),
        ("qwen3-32b", 262_144),
        ("qwen3-0.6b", 114_688),
        ("qwen3-30b-a3b", 98_304),
    ],
)
def test_kv_bytes_per_token(name: str, kv_bytes: int) -> None:
    assert find_model(name).kv_law(1).bytes_per_block == kv_bytes


# Parameter counts as the checkpoints' safetensors report them.
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("llama-2-7b", 6_738_415_616),
        ("llama-2-13b", 13_015_864_320),
        ("llama-3.1-8b", 8_030_261_248),
        ("llama-3.1-70b", 70_553_706_496),
        ("llama-3.2-1b", 1_235_814_400),
        ("mistral-7b", 7_248_023_552),
    ],
)
def test_parameters_match_the_checkpoints(name: str, parameters: int) -> None:
    assert find_model(name).parameters == parameters


def test_tied_embeddings_count_once() -> None:
    # 596,049,920 in the checkpoint; the 28 pairs of 128-wide q/k norms are left out here.
    assert find_model("qwen3-0.6b").parameters == 596_049_920 - 28 * 2 * 128


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("meta-llama/Llama-2-7b-hf", "llama-2-7b"),
        ("meta-llama/Llama-2-7b-chat-hf", "llama-2-7b"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("Qwen/Qwen3-32B", "qwen3-32b"),
        (" LLAMA-3.1-70B ", "llama-3.1-70b"),
        ("llama-3.3-70b-instruct", "llama-3.1-70b"),
    ],
)
def test_usual_spellings_find_the_model(spelling: str, name: str) -> None:
    assert find_model(spelling).name == name


def test_every_built_in_model_finds_itself() -> None:
    assert [find_model(name).name for name in model_names()] == model_names()


def test_unknown_model_names_the_nearest_and_all() -> None:
    with pytest.raises(InputError, match=r"unknown model 'lama-3.1-8b'; did you mean llama-3.1-8b\? Known: llama-2-7b"):
        find_model("lama-3.1-8b")


@pytest.mark.parametrize("given_directory", [True, False])
def test_config_reads_as_the_built_in_shape(tmp_path: Path, given_directory: bool) -> None:
    file = config_file(tmp_path)
    shape = read_model_config(tmp_path if given_directory else file)
    assert shape == ModelShape(tmp_path.name, 32, 4096, 14336, 32, 8, 128, 128256)
    assert shape.parameters == find_model("llama-3.1-8b").parameters


def test_explicit_head_dim_wins(tmp_path: Path) -> None:
    shape = read_model_config(config_file(tmp_path, model_type="qwen3", hidden_size=1024, head_dim=128))
    assert shape.head_dim == 128


def test_missing_kv_heads_means_one_per_head(tmp_path: Path) -> None:
    assert read_model_config(config_file(tmp_path, num_key_value_heads=...)).kv_heads == 32


@pytest.mark.parametrize("key", ["num_experts", "num_local_experts", "n_routed_experts"])
def test_experts_make_a_mixture(tmp_path: Path, key: str) -> None:
    shape = read_model_config(config_file(tmp_path, model_type="mixtral", **{key: 8}))
    assert shape.is_moe
    with pytest.raises(InputError, match="mixture of experts"):
        _ = shape.parameters


@pytest.mark.parametrize(
    "changes",
    [
        {"sliding_window": 131072, "use_sliding_window": False},
        {"sliding_window": None},
        {"sliding_window": 131072},
        {"layer_types": ["full_attention"] * 32},
    ],
)
def test_a_window_that_never_slides_is_fine(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert read_model_config(config_file(tmp_path, **changes)).layers == 32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": ...}, "'num_hidden_layers' is missing"),
        ({"hidden_size": None}, "'hidden_size' is missing"),
        ({"num_hidden_layers": "32"}, "'num_hidden_layers' = '32' must be a whole number"),
        ({"num_hidden_layers": 32.5}, "'num_hidden_layers' = 32.5 must be a whole number"),
        ({"num_hidden_layers": True}, "'num_hidden_layers' = True must be a whole number"),
        ({"vocab_size": 0}, "'vocab_size' = 0 must be at least 1"),
        ({"num_key_value_heads": -8}, "'num_key_value_heads' = -8 must be at least 1"),
        ({"num_key_value_heads": 5}, "'num_key_value_heads' = 5 does not divide"),
        ({"hidden_size": 4097}, "'hidden_size' = 4097 is not a multiple"),
        ({"torch_dtype": "int4"}, "'torch_dtype' = 'int4' is not one of"),
        ({"tie_word_embeddings": "no"}, "'tie_word_embeddings' = 'no' must be true or false"),
        ({"kv_lora_rank": 512, "qk_rope_head_dim": 64}, "'kv_lora_rank' marks layers whose weights are not counted"),
        ({"kv_lora_rank": 512}, "'qk_rope_head_dim' is missing"),
        ({"mamba_d_state": 128}, "'mamba_d_state' marks layers whose cache is not counted"),
        ({"linear_num_value_heads": 32}, "'linear_num_value_heads' marks layers with a state"),
        ({"layer_types": ["sliding_attention", "full_attention"]}, "'layer_types' must name the type of each of 32"),
        ({"layer_types": "full_attention"}, "'layer_types' must name the type of each of 32"),
        ({"layer_types": ["rotating_attention"] * 32}, "'layer_types' has 'rotating_attention', which is not counted"),
        ({"layer_types": ["sliding_attention"] * 32}, "'sliding_window' is missing"),
        ({"layer_types": [["full_attention"]] * 32}, "'layer_types' must name the type of each of 32"),
        ({"layers_block_type": [["mamba"]] * 32}, "'layers_block_type' must hold mamba, attention, mlp or moe"),
        ({"hybrid_layer_pattern": [[0]] * 32}, "'hybrid_layer_pattern' must hold 0 or 1 for each of 32 layers"),
        ({"rope_scaling": {"type": ["linear"], "factor": 2}}, "'type' = ['linear'] must be a text in quotes"),
        ({"rope_parameters": {"rope_type": 5}}, "'rope_type' = 5 must be a text in quotes"),
        (
            {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": True}},
            "'group_size' = True must be a number of weights",
        ),
        ({"attn_type_list": [[1]]}, "'attn_type_list' has layers of linear attention"),
        ({"num_kv_shared_layers": 32}, "'num_kv_shared_layers' = 32 must be at least 0 and at most 31"),
        ({"num_hidden_layers": 2**31 - 1}, "'num_hidden_layers' = 2147483647 must be at least 1 and at most 10,000"),
        (
            {"quantization_config": {"quant_method": "aqlm"}},
            "'quant_method' = 'aqlm' is not counted",
        ),
        ({"text_config": {}}, "text_config: 'num_hidden_layers' is missing"),
        ({"is_encoder_decoder": True}, "'is_encoder_decoder' = true"),
        ({"model_type": "gpt_neox"}, "'model_type' = 'gpt_neox' is not a family"),
    ],
)
def test_refused_configs_name_file_and_key(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    file = config_file(tmp_path, **changes)
    with pytest.raises(InputError) as refusal:
        read_model_config(file)
    assert str(refusal.value).startswith(str(file))
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ('{"hidden_size": 1,\n oops}', ":2: is not JSON"),
        ("[1, 2]", "holds a JSON list, not an object"),
        ('{"vocab_size": 1, "vocab_size": 2}', "'vocab_size' is given twice"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_files_that_are_no_config(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(InputError, match=r"config\.json") as refusal:
        read_model_config(file)
    assert message in str(refusal.value)


def test_absent_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_model_config(tmp_path)
    file = tmp_path / "config.json"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        read_model_config(file)


@given(st.integers(0, 5), st.integers(0, 6))
def test_kv_bytes_per_gpu_cover_the_model(log_kv_heads: int, log_tp: int) -> None:
    shape = ModelShape("m", 2, 512, 64, 64, 2**log_kv_heads, 8, 100)
    per_gpu = shape.kv_law(1, 2**log_tp).bytes_per_block
    assert per_gpu * 2**log_tp == shape.kv_law(1).bytes_per_block * max(1, 2 ** (log_tp - log_kv_heads))


@pytest.mark.parametrize("tp", [0, -1, 3, 64])
def test_impossible_tensor_parallelism(tp: int) -> None:
    with pytest.raises(InputError, match=rf"tp = {tp} "):
        find_model("llama-3.1-8b").kv_law(tp=tp)
