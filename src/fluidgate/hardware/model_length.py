"""The longest request that a model takes, from its config, as vLLM derives it."""

from __future__ import annotations

from fluidgate.bounds import MAX_COUNT
from fluidgate.jsonfile import JsonObject

WITHOUT_A_KEY = 2048
"""vLLM's, where a config states no length."""

_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
_OVERRIDING = "model_max_length"
# Configs with these state a length that is scaled already, or one that the scaling does not move.
_SCALED = ("su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling")
_LONGROPE = ("su", "longrope")


def model_length(config: JsonObject) -> int:
    """vLLM's `max_model_len` where no flag says otherwise, prompt and output tokens.

    The shortest length that the config states, times the factor of its rotary embedding where that is not in it
    already; with LongRoPE the length before scaling. As `_get_and_verify_max_len` in vllm/config/model.py 0.30 to 0.33.

    Raises:
        InputError: a length or a factor that is none; names file and key.
    """
    if config.has(_OVERRIDING):
        length = config.integer(_OVERRIDING)
    else:
        length = min((config.integer(key) for key in _KEYS if config.has(key)), default=WITHOUT_A_KEY)
    ropes = _rope_parameters(config)
    kinds = [_kind(rope) for rope in ropes]
    if any(kind in _LONGROPE for kind in kinds):
        return config.integer("original_max_position_embeddings", default=length)
    factors = [
        rope.number("factor")
        for rope, kind in zip(ropes, kinds, strict=True)
        if kind not in _SCALED and rope.has("factor")
    ]
    if not factors or config.text("model_type", default="").startswith("gemma3"):
        return length
    return max(1, min(int(length * factors[-1]), MAX_COUNT))


def _rope_parameters(config: JsonObject) -> list[JsonObject]:
    """The rotary embedding's settings, under either of their names; several where layers differ."""
    key = "rope_parameters" if config.has("rope_parameters") else "rope_scaling"
    if not config.has(key):
        return []
    rope = config.object(key)
    parts = [name for name, value in rope.values.items() if isinstance(value, dict)]
    return [rope.object(name) for name in parts] or [rope]


def _kind(rope: JsonObject) -> str:
    return rope.text("rope_type" if rope.has("rope_type") else "type", default="default")
