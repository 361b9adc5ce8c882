"""What each layer of a model keeps of a request, read from its `config.json` as vLLM 0.32 reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from fluidgate.jsonfile import JsonObject

KvKind = Literal["full", "sliding", "chunked", "latent", "state"]
KIND_TITLES: dict[KvKind, str] = {
    "full": "full attention",
    "sliding": "sliding window",
    "chunked": "chunked local attention",
    "latent": "latent attention",
    "state": "state",
}
_ELSEWHERE = "give the KV cache size that the server logs, --kv-cache-tokens"
MAX_LAYERS = 10_000
"""Of a model; the largest have a few hundred."""


@dataclass(frozen=True)
class KvLayer:
    """One layer's cache.

    Attributes:
        kind: `full`; `sliding` and `chunked` keep the last `reach` tokens; `latent` (MLA) keeps one vector a token;
            `state` (Mamba, linear attention) keeps the same for any number of tokens.
        heads: KV heads, which tensor parallelism divides; a latent has none to divide.
        width: elements that each head keeps of a token, keys and values together.
        reach: tokens of the window or the chunk.
        element_bytes: bytes of an element; None: as the dtype of the KV cache says.
        packed_bytes: of a token in a cache of 8 bits, where it holds more than its elements.
        state: of a state, its parts: elements over all GPUs, and bytes of each.
        copies: of a state, the most that vLLM reserves for a request while it caches prefixes.
    """

    kind: KvKind
    heads: int = 1
    width: int = 0
    reach: int | None = None
    element_bytes: int | None = None
    packed_bytes: int | None = None
    state: tuple[tuple[int, int], ...] = ()
    copies: int = 2

    def token_bytes(self, tp: int, element_bytes: int) -> int:
        """Bytes of one token on each of `tp` GPUs; heads that cannot be divided further are replicated."""
        if element_bytes == 1 and self.packed_bytes is not None:
            return self.packed_bytes
        heads = self.heads if self.kind == "latent" else max(1, self.heads // tp)
        return heads * self.width * (self.element_bytes or element_bytes)

    def state_bytes(self, tp: int) -> int:
        """Bytes of the state of one request on each of `tp` GPUs."""
        return sum(elements // tp * size for elements, size in self.state)


KvLayers = tuple[tuple[KvLayer, ...], ...]
"""Per layer of the model: what it caches; several for one with an index of its own, none for one without attention."""

INDEX_BLOCK, INDEX_SCALE_BYTES = 128, 4
"""An index of sparse attention (DeepSeek) has one float32 scale for so many elements of 8 bits."""

PACKED_LATENT_BYTES = 656
"""Of a token in the 8-bit cache of sparse attention (vLLM's fp8_ds_mla): latent, scales, rotary key in 16 bits."""


def text_config(config: JsonObject) -> JsonObject:
    """What a Hugging Face config says of the text model: all of it, unless the model is multimodal."""
    return config.object("text_config") if config.has("text_config") else config


def read_kv_layers(config: JsonObject) -> KvLayers:
    """The layers of a Hugging Face config; of a multimodal one, those of its text model.

    Raises:
        InputError: a key is missing or malformed, or the layers are of a kind that is not counted here.
    """
    text = text_config(config)
    _refuse_unknown(text)
    layers = _layer_count(text)
    shared = text.integer("num_kv_shared_layers", at_least=0, at_most=layers - 1, default=0)
    read = next((read for key, read in _READERS.items() if text.has(key)), _uniform)
    return read(text, layers)[: layers - shared] + ((),) * shared


def _layer_count(config: JsonObject) -> int:
    """As stated, or as many as a list of them has."""
    listed = config.values.get("layers_block_type")
    return config.integer(
        "num_hidden_layers", at_most=MAX_LAYERS, default=len(listed) if isinstance(listed, list) else None
    )


def _refuse_unknown(config: JsonObject) -> None:
    for key in config.values:
        if key.startswith(_UNKNOWN_KEYS) and config.has(key):
            raise config.error(key, f"marks layers whose cache is not counted here; {_ELSEWHERE}")
    kinds = config.values.get("attn_type_list")
    if kinds is not None and (not isinstance(kinds, list) or any(kind != 1 for kind in kinds)):
        raise config.error(
            "attn_type_list", f"has layers of linear attention, which are not counted here; {_ELSEWHERE}"
        )
    if config.flag("is_encoder_decoder", default=False):
        raise config.error("is_encoder_decoder", "= true: only decoder-only models are described here")


_RECURRENT_KEYS = ("linear_", "mamba_", "ssm_", "state_size")
_UNKNOWN_KEYS = (
    "attn_layer_period",
    "block_configs",
    "compress_ratio",
    "linear_attn_config",
    "mamba_d_",
    "rwkv",
    "sparse_attention",
    "ssm_cfg",
)


def kv_heads_of(config: JsonObject) -> tuple[int, int, int]:
    """Query heads, KV heads and the width of a head.

    Raises:
        InputError: a key is missing or malformed, or the numbers do not divide.
    """
    heads = config.integer("num_attention_heads")
    kv_heads = config.integer("num_key_value_heads", default=heads)
    if heads % kv_heads:
        raise config.error("num_key_value_heads", f"= {kv_heads} does not divide num_attention_heads = {heads}")
    return heads, kv_heads, _head_dim(config, heads)


def _head_dim(config: JsonObject, heads: int) -> int:
    for key in ("head_dim", "attention_head_dim"):
        if config.has(key):
            return config.integer(key)
    hidden = config.integer("hidden_size")
    if hidden % heads:
        raise config.error(
            "hidden_size", f"= {hidden} is not a multiple of num_attention_heads = {heads}; add head_dim"
        )
    return hidden // heads


def _full(config: JsonObject) -> KvLayer:
    _, kv_heads, head_dim = kv_heads_of(config)
    return KvLayer("full", kv_heads, head_dim + config.integer("v_head_dim", default=head_dim))


def _windowed(config: JsonObject, kind: KvKind, key: str) -> KvLayer:
    full = _full(config)
    return KvLayer(kind, full.heads, full.width, config.integer(key))


def _uniform(config: JsonObject, layers: int) -> KvLayers:
    """Every layer alike: full attention, or a window where the config has one that is in use."""
    family = config.text("model_type", default="")
    if family in _EVERY_NTH:
        return _every_nth(config, layers)
    if family not in UNIFORM_FAMILIES:
        raise config.error(
            "model_type",
            f"= {family!r} is not a family whose cache is counted here; if every layer keeps the keys and values of "
            f"all tokens, say model_type llama in a copy of the file, else {_ELSEWHERE}",
        )
    for key in config.values:
        if key.startswith(_RECURRENT_KEYS) and config.has(key):
            raise config.error(key, f"marks layers with a state, and none is named as such; {_ELSEWHERE}")
    full = ((_full(config),),) * layers
    if not _slides(config):
        return full
    first = min(config.integer("max_window_layers", at_least=0, default=0), layers)  # these keep all tokens
    return full[:first] + ((_windowed(config, "sliding", "sliding_window"),),) * (layers - first)


def _slides(config: JsonObject) -> bool:
    """Whether there is a window that is in use, and shorter than what a request may have."""
    if not config.has("sliding_window") or not config.flag("use_sliding_window", default=True):
        return False
    window = config.integer("sliding_window", at_least=0)
    return 0 < window < config.integer("max_position_embeddings", default=window + 1)


def _latent(config: JsonObject, layers: int) -> KvLayers:
    """MLA: a latent and the rotary key of each token; sparse attention adds an index of 8-bit keys."""
    width = config.integer("kv_lora_rank") + config.integer("qk_rope_head_dim")
    if not config.has("index_topk"):
        return ((KvLayer("latent", 1, width),),) * layers
    latent = KvLayer("latent", 1, width, packed_bytes=PACKED_LATENT_BYTES)
    keys = config.integer("index_head_dim")
    index = KvLayer("latent", 1, keys + keys // INDEX_BLOCK * INDEX_SCALE_BYTES, element_bytes=1)
    return tuple((latent, index) if own else (latent,) for own in _keeps_index(config, layers))


def _keeps_index(config: JsonObject, layers: int) -> list[bool]:
    """Whether each layer has an index of its own, instead of that of an earlier one."""
    if config.has("index_topk_pattern"):
        pattern = config.text("index_topk_pattern")
        return [pattern[i : i + 1] != "S" for i in range(layers)]
    every, offset = config.integer("index_topk_freq", default=1), config.integer("index_skip_topk_offset", default=2)
    return [max(i - offset + 1, 0) % every == 0 for i in range(layers)]


def _by_pattern(config: JsonObject, layers: int) -> KvLayers:
    """Nemotron-H: a letter a layer, `M` for Mamba-2, `*` for attention, others without a cache."""
    pattern = config.text("hybrid_override_pattern")
    if len(pattern) != layers:
        raise config.error("hybrid_override_pattern", f"has {len(pattern)} letters for {layers} layers")
    mamba, full = _mamba2(config), _full(config)
    return tuple({"M": (mamba,), "*": (full,)}.get(letter, ()) for letter in pattern)


def _by_block_type(config: JsonObject, layers: int) -> KvLayers:
    """Nemotron-H since transformers 5: a word a layer."""
    types = config.values["layers_block_type"]
    known = ("mamba", "attention", "mlp", "moe")
    if not isinstance(types, list) or len(types) != layers or any(kind not in known for kind in types):
        raise config.error("layers_block_type", f"must hold mamba, attention, mlp or moe for each of {layers} layers")
    mamba, full = _mamba2(config), _full(config)
    return tuple({"mamba": (mamba,), "attention": (full,)}.get(kind, ()) for kind in types)


def _mamba2(config: JsonObject) -> KvLayer:
    heads, size = config.integer("mamba_num_heads"), config.integer("ssm_state_size")
    inner = heads * config.integer("mamba_head_dim")
    conv = inner + 2 * config.integer("n_groups") * size
    element_bytes = _state_bytes(config, "mamba_ssm_cache_dtype", default="float32")
    rows = config.integer("conv_kernel") - 1
    return KvLayer("state", state=((rows * conv, 2), (inner * size, element_bytes)), copies=3)


def _by_interval(config: JsonObject, layers: int) -> KvLayers:
    interval = config.integer("full_attention_interval")
    linear, full = (_gated_delta_net(config),), (_full(config),)
    return tuple(full if (i + 1) % interval == 0 else linear for i in range(layers))


def _gated_delta_net(config: JsonObject) -> KvLayer:
    """Qwen3-Next and Qwen3.5: a convolution's last inputs, and a matrix a head."""
    keys, values = config.integer("linear_num_key_heads"), config.integer("linear_num_value_heads")
    key_dim, value_dim = config.integer("linear_key_head_dim"), config.integer("linear_value_head_dim")
    rows = config.integer("linear_conv_kernel_dim") - 1
    matrices = values * value_dim * key_dim
    conv = 2 * keys * key_dim + values * value_dim
    element_bytes = _state_bytes(config, "mamba_ssm_dtype", default="bfloat16")
    return KvLayer("state", state=((rows * conv, 2), (matrices, element_bytes)))


def _state_bytes(config: JsonObject, key: str, default: str) -> int:
    """Of an element of a state."""
    name, sizes = config.text(key, default=default), {"float32": 4, "bfloat16": 2, "float16": 2}
    if name not in sizes:
        raise config.error(key, f"= {name!r} is not one of {', '.join(sizes)}")
    return sizes[name]


def _by_type(config: JsonObject, layers: int) -> KvLayers:
    """A list of types, one a layer."""
    types = config.values["layer_types"]
    if not isinstance(types, list) or len(types) != layers or not all(isinstance(kind, str) for kind in types):
        raise config.error("layer_types", f"must name the type of each of {layers} layers")
    made = {kind: _TYPES[kind](config) for kind in dict.fromkeys(types) if kind in _TYPES}
    for kind in types:
        if kind not in made:
            raise config.error("layer_types", f"has {kind!r}, which is not counted here; {_ELSEWHERE}")
    return tuple((made[kind],) for kind in types)


def _global(config: JsonObject) -> KvLayer:
    """Full attention, whose heads may differ from those of the windows (Gemma 4)."""
    full = _full(config)
    heads = config.integer("num_global_key_value_heads", default=full.heads)
    return KvLayer("full", heads, 2 * config.integer("global_head_dim", default=full.width // 2))


_TYPES: dict[str, Callable[[JsonObject], KvLayer]] = {
    "full_attention": _global,
    "sliding_attention": lambda config: _windowed(config, "sliding", "sliding_window"),
    "chunked_attention": lambda config: _windowed(config, "chunked", "attention_chunk_size"),
    "linear_attention": _gated_delta_net,
}


def _chunked(config: JsonObject, layers: int) -> KvLayers:
    """Llama 4: every fourth layer attends to all tokens, the others to those of their chunk."""
    every = config.integer("no_rope_layer_interval", default=4)
    full, local = (_full(config),), (_windowed(config, "chunked", "attention_chunk_size"),)
    return tuple(full if (i + 1) % every == 0 else local for i in range(layers))


def _hybrid_windows(config: JsonObject, layers: int) -> KvLayers:
    """MiMo-V2: 1 marks a window, whose heads have numbers of their own."""
    pattern = config.values["hybrid_layer_pattern"]
    if not isinstance(pattern, list) or len(pattern) != layers or any(mark not in (0, 1) for mark in pattern):
        raise config.error("hybrid_layer_pattern", f"must hold 0 or 1 for each of {layers} layers")
    width = config.integer("swa_head_dim") + config.integer("swa_v_head_dim")
    local = KvLayer("sliding", config.integer("swa_num_key_value_heads"), width, config.integer("sliding_window"))
    full = _full(config)
    return tuple((local if windowed else full,) for windowed in pattern)


def _every_nth(config: JsonObject, layers: int) -> KvLayers:
    """Gemma 2 and 3: each n-th layer attends to all tokens, the others to a window."""
    every = config.integer("sliding_window_pattern", default=_EVERY_NTH.get(config.text("model_type", default="")))
    full, local = (_full(config),), (_windowed(config, "sliding", "sliding_window"),)
    return tuple(full if (i + 1) % every == 0 else local for i in range(layers))


UNIFORM_FAMILIES = (
    *("llama", "mistral", "mistral3", "ministral", "ministral3", "mixtral", "granite", "granitemoe", "smollm3"),
    *("qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "qwen3_vl_text", "qwen3_vl_moe_text", "seed_oss", "mimo"),
    *("gemma", "phi3", "phimoe", "olmo2", "olmoe", "glm", "glm4", "glm4_moe", "minimax_m2", "starcoder2"),
)
"""Families whose layers all cache alike, so that a config does not list them."""
_EVERY_NTH = {"gemma2": 2, "gemma3_text": 6, "gemma3": 6}
"""What a config leaves out where it is the default of its family."""

_READERS: dict[str, Callable[[JsonObject, int], KvLayers]] = {
    "kv_lora_rank": _latent,
    "hybrid_override_pattern": _by_pattern,
    "layers_block_type": _by_block_type,
    "hybrid_layer_pattern": _hybrid_windows,
    "layer_types": _by_type,
    "full_attention_interval": _by_interval,
    "attention_chunk_size": _chunked,
    "sliding_window_pattern": _every_nth,
}
"""By the key that tells them apart, the first that a config has."""
