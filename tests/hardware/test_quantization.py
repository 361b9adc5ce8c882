"""Quantised checkpoints: bits per weight by the layout of each method, KV bytes, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fluidgate.errors import InputError
from fluidgate.hardware import estimate_hardware, find_gpu, find_model, get_hardware, kv_blocks, read_model_config

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
MATRICES = 32 * (2 * 4096 * (32 + 8) * 128 + 3 * 4096 * 14336)
"""Weights of Llama-3.1-8B that quantisation changes, by hand; each layer's two norms are counted with them."""
LAYERS = MATRICES + 32 * 2 * 4096
TABLES = 2 * (2 * 128256 * 4096 + 4096)
"""Bytes of embedding, output head and last norm."""


def folder(
    place: Path, section: dict[str, Any] | None = None, *, key: str = "quantization_config", **files: Any
) -> Path:
    """A checkpoint's folder; a file's name has its dots as double underscores."""
    (place / "config.json").write_text(json.dumps(LLAMA | ({} if section is None else {key: section})))
    for name, content in files.items():
        (place / name.replace("__", ".")).write_text(json.dumps(content))
    return place


def compressed(bits: int, **weights: Any) -> dict[str, Any]:
    groups = {"group_0": {"weights": {"num_bits": bits, **weights}}}
    return {"quant_method": "compressed-tensors", "config_groups": groups}


@pytest.mark.parametrize(
    ("section", "bits"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, 8),
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}, 4 + 20 / 128),
        ({"quant_method": "gptq", "bits": 4, "group_size": 32}, 4 + 20 / 32),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, 8),
        (compressed(8, type="float"), 8),
        (compressed(4, type="int", group_size=128), 4 + 16 / 128),
        (compressed(4, type="float", group_size=16), 4.5),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, 4.5),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, 8),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 8),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 4.5),
    ],
)
def test_bits_per_weight_follow_the_scheme(tmp_path: Path, section: dict[str, Any], bits: float) -> None:
    shape = read_model_config(folder(tmp_path, section))
    assert shape.weight_bytes == round(LAYERS * bits / 8) + TABLES
    assert shape.kv_law().bytes_per_block == find_model("llama-3.1-8b").kv_law().bytes_per_block, (
        "weights say nothing of the KV"
    )


@pytest.mark.parametrize(
    ("name", "content", "bits"),
    [
        ("quantize_config__json", {"bits": 4, "group_size": 128, "desc_act": False}, 4 + 20 / 128),
        ("quant_config__json", {"w_bit": 4, "q_group_size": 64, "zero_point": True}, 4 + 20 / 64),
        ("hf_quant_config__json", {"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": None}}, 8),
    ],
)
def test_files_of_older_tools_beside_a_clean_config(tmp_path: Path, name: str, content: Any, bits: float) -> None:
    shape = read_model_config(folder(tmp_path, **{name: content}))
    assert shape.weight_bytes == round(LAYERS * bits / 8) + TABLES


def test_an_fp8_checkpoint_of_older_compressed_tensors(tmp_path: Path) -> None:
    """8.46 GiB of weights in place of 14.96: 5,699 KV blocks in 0.9 of an RTX 4090 where bf16 leaves 2,371."""
    shape = read_model_config(folder(tmp_path, compressed(8, type="float"), key="compression_config"))
    assert shape.weight_bytes / 2**30 == pytest.approx(8.46, abs=0.005)
    blocks = [
        kv_blocks(model, find_gpu("rtx-4090"), gpu_memory_utilization=0.9)
        for model in (shape, find_model("llama-3.1-8b"))
    ]
    assert blocks == [5699, 2371]


@pytest.mark.parametrize(
    ("section", "element_bytes"),
    [
        (compressed(8) | {"kv_cache_scheme": {"num_bits": 8, "type": "float"}}, 1),
        (compressed(8) | {"kv_cache_scheme": None}, 2),
        ({"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}, 1),
    ],
)
def test_only_a_kv_scheme_changes_the_kv(tmp_path: Path, section: dict[str, Any], element_bytes: int) -> None:
    shape = read_model_config(folder(tmp_path, section))
    assert shape.kv_law(1).bytes_per_block == 2 * 32 * 8 * 128 * element_bytes


def test_a_profile_of_16_bit_weights_is_not_for_a_quantised_checkpoint(tmp_path: Path) -> None:
    whole = get_hardware("llama-3.1-8b", "a100-80gb", config=folder(tmp_path))
    assert whole.name == "llama-3.1-8b on a100-80gb"
    quantised = get_hardware("llama-3.1-8b", "a100-80gb", config=folder(tmp_path, {"quant_method": "fp8"}))
    assert quantised.name == "llama-3.1-8b on a100-80gb (estimate)"
    assert "8.5 GiB of weights (fp8), computed at the bf16 rate" in quantised.source


def test_steps_read_the_weights_as_they_are_stored(tmp_path: Path) -> None:
    gpu = find_gpu("rtx-4090")
    stored = read_model_config(folder(tmp_path, {"quant_method": "fp8"}))
    saved_s = LAYERS / (1008e9 * 0.9)  # a byte of each weight less
    wide, narrow = (estimate_hardware(shape, gpu).step_time for shape in (find_model("llama-3.1-8b"), stored))
    assert wide.c0 - narrow.c0 == pytest.approx(saved_s)
    assert wide.c_tok == pytest.approx(narrow.c_tok * (330 * 0.6) / (165 * 0.8)), "multiplied at the fp8 rate"
    assert (wide.c_kv, wide.c_attn) == (narrow.c_kv, narrow.c_attn)
    weights_alone = read_model_config(folder(tmp_path, {"quant_method": "awq", "bits": 4, "group_size": 128}))
    assert estimate_hardware(weights_alone, gpu).step_time.c_tok == wide.c_tok


def test_a_safetensors_index_states_the_bytes(tmp_path: Path) -> None:
    scheme = {"quant_method": "awq", "bits": 4, "group_size": 128}
    index = {"metadata": {"total_size": 5_730_000_000}, "weight_map": {}}
    shape = read_model_config(folder(tmp_path, scheme, model__safetensors__index__json=index))
    assert shape.weight_bytes == 5_730_000_000


def test_the_index_of_another_checkpoint_is_refused(tmp_path: Path) -> None:
    index = {"metadata": {"total_size": 16_060_000_000}}
    place = folder(tmp_path, {"quant_method": "fp8"}, model__safetensors__index__json=index)
    with pytest.raises(InputError, match=r"describes 9\.1 GB of weights \(fp8\).*index beside it 16\.1 GB"):
        read_model_config(place)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"quant_method": "aqlm"}, "'quant_method' = 'aqlm' is not counted here"),
        ({"quant_method": "awq", "group_size": 128}, "'bits' is missing"),
        ({"quant_method": "gptq", "bits": 4, "group_size": "x"}, "'group_size' = 'x' must be a number of weights"),
        ({"quant_method": "modelopt", "quant_algo": "W2A2"}, "'quant_algo' = 'W2A2' is not counted here"),
        (compressed(8) | {"config_groups": {}}, "'config_groups' has weights of several widths, or none"),
        (
            compressed(8) | {"config_groups": {"a": {"weights": {"num_bits": 8}}, "b": {"weights": {"num_bits": 4}}}},
            "'config_groups' has weights of several widths",
        ),
        (compressed(8) | {"kv_cache_scheme": {"num_bits": 4}}, "its KV cache is not of 8 or 16 bits"),
    ],
)
def test_what_cannot_be_counted_is_refused(tmp_path: Path, section: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as refusal:
        read_model_config(folder(tmp_path, section))
    assert message in str(refusal.value)
    assert str(tmp_path) in str(refusal.value)
