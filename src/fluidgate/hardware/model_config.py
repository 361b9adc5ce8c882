"""`ModelShape`: the dimensions of a transformer, from a Hugging Face `config.json` or built in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from fluidgate.errors import InputError
from fluidgate.hardware._names import resolve, simple_model_name
from fluidgate.hardware.quantization import SIXTEEN_BIT, Scheme, checkpoint_bytes, read_scheme
from fluidgate.jsonfile import JsonObject, read_object


@dataclass(frozen=True)
class ModelShape:
    """Dimensions of a decoder-only transformer with full attention in every layer.

    Attributes:
        name: what the model is called.
        layers: transformer layers.
        hidden_size: width of the residual stream.
        intermediate_size: width of the gated MLP; 0 for a mixture of experts, whose experts are not modelled.
        heads: query heads.
        kv_heads: key-value heads.
        head_dim: width of one head.
        vocab_size: rows of the embedding.
        tied_embeddings: whether the output head is the embedding.
        is_moe: whether the MLPs are mixtures of experts.
        dtype_bytes: bytes per weight of embedding, norms and output head.
        scheme: how the layers' matrices and the KV cache are stored.
        checkpoint_bytes: of all weights, as the checkpoint states them; None: as follows from the dimensions.
    """

    name: str
    layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    tied_embeddings: bool = False
    is_moe: bool = False
    dtype_bytes: int = 2
    scheme: Scheme = SIXTEEN_BIT
    checkpoint_bytes: int | None = None

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of KV cache per token over all layers and heads: 2·layers·kv_heads·head_dim elements."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.scheme.kv_element_bytes

    def kv_bytes_per_token_per_gpu(self, tp: int) -> int:
        """Bytes of KV cache per token on one of `tp` GPUs; a KV head that cannot be split is replicated (as
        vLLM does)."""
        if tp < 1 or self.heads % tp:
            raise InputError(f"{self.name}: tp = {tp} does not divide its {self.heads} attention heads; use a divisor")
        if self.kv_heads % tp and tp % self.kv_heads:
            raise InputError(f"{self.name}: tp = {tp} neither divides its {self.kv_heads} KV heads nor is a multiple")
        return 2 * self.layers * max(1, self.kv_heads // tp) * self.head_dim * self.scheme.kv_element_bytes

    @property
    def layer_parameters(self) -> int:
        """Weights in the layers: q, k, v, o projections, gated MLP (3 matrices), two norms.

        Biases and q/k norms, under 0.01% of any model here, are left out.
        """
        if self.is_moe:
            raise InputError(
                f"{self.name} is a mixture of experts: its parameter count does not follow from these "
                "dimensions; give num_gpu_blocks as the server logs it, and a latency grid"
            )
        attention = 2 * self.hidden_size * (self.heads + self.kv_heads) * self.head_dim
        mlp = 3 * self.hidden_size * self.intermediate_size
        return self.layers * (attention + mlp + 2 * self.hidden_size)

    @property
    def parameters(self) -> int:
        """All weights: layers, final norm, embedding and, unless tied, output head."""
        return self.layer_parameters + self._table_parameters

    @property
    def _table_parameters(self) -> int:
        tables = 1 if self.tied_embeddings else 2
        return self.hidden_size + tables * self.vocab_size * self.hidden_size

    @property
    def layer_bytes(self) -> int:
        """Bytes of the layers' weights."""
        if self.checkpoint_bytes is not None:
            return self.checkpoint_bytes - self._table_parameters * self.dtype_bytes
        return round(self.layer_parameters * self.scheme.weight_bits / 8)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights."""
        return self.layer_bytes + self._table_parameters * self.dtype_bytes


# layers, hidden, intermediate, heads, KV heads, head_dim, vocabulary, tied: from each model's own
# config.json.
_DENSE: dict[str, tuple[int, int, int, int, int, int, int, bool]] = {
    "llama-2-7b": (32, 4096, 11008, 32, 32, 128, 32000, False),
    "llama-2-13b": (40, 5120, 13824, 40, 40, 128, 32000, False),
    "llama-2-70b": (80, 8192, 28672, 64, 8, 128, 32000, False),
    "llama-3.1-8b": (32, 4096, 14336, 32, 8, 128, 128256, False),
    "llama-3.1-70b": (80, 8192, 28672, 64, 8, 128, 128256, False),
    "llama-3.2-1b": (16, 2048, 8192, 32, 8, 64, 128256, True),
    "llama-3.2-3b": (28, 3072, 8192, 24, 8, 128, 128256, True),
    "mistral-7b": (32, 4096, 14336, 32, 8, 128, 32768, False),
    "qwen2.5-7b": (28, 3584, 18944, 28, 4, 128, 152064, False),
    "qwen3-0.6b": (28, 1024, 3072, 16, 8, 128, 151936, True),
    "qwen3-8b": (36, 4096, 12288, 32, 8, 128, 151936, False),
    "qwen3-32b": (64, 5120, 25600, 64, 8, 128, 151936, False),
}
_SHAPES = {name: ModelShape(name, *dims) for name, dims in _DENSE.items()} | {
    "qwen3-30b-a3b": ModelShape("qwen3-30b-a3b", 48, 2048, 0, 32, 4, 128, 151936, is_moe=True),
}
# Same dimensions under another name. Mistral-7B v0.1 is not here: its window slides.
_ALIASES = {
    "llama-3-8b": "llama-3.1-8b",
    "llama-3-70b": "llama-3.1-70b",
    "llama-3.3-70b": "llama-3.1-70b",
    "mistral-7b-v0.3": "mistral-7b",
    "mistral-7b-instruct-v0.3": "mistral-7b",
}


def model_names() -> list[str]:
    """The built-in models."""
    return list(_SHAPES)


def canonical_model_name(name: str) -> str:
    """One spelling per model: `meta-llama/Meta-Llama-3.1-8B-Instruct` → `llama-3.1-8b`."""
    simple = simple_model_name(name)
    return _ALIASES.get(simple, simple)


def find_model(name: str) -> ModelShape:
    """The built-in shape called `name`, in any case, with or without organisation, `-hf` or `-Instruct`.

    Raises:
        InputError: no such model; names the nearest and all of them.
    """
    advice = "For any other model give its config.json."
    return _SHAPES[resolve("model", name, canonical_model_name(name), _SHAPES, advice)]


# Families whose layers are full attention and a gated MLP: for others the parameter formula would be wrong.
_GATED_FAMILIES = (
    "llama",
    "mistral",
    "ministral",
    "qwen2",
    "qwen3",
    "gemma",
    "phi3",
    "granite",
    "olmo2",
    "seed_oss",
    "smollm3",
)
_EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts")
_RECURRENT_KEYS = (
    "attn_layer_period",
    "block_configs",
    "full_attention_interval",
    "hybrid_override_pattern",
    "linear_",
    "mamba_",
    "rwkv",
    "ssm_",
    "state_size",
)
_FOREIGN = {
    "text_config": "marks a multimodal model; give the text_config as a file of its own",
    "kv_lora_rank": "marks latent attention (MLA), whose KV cache these formulas do not describe",
}
SMALLEST_RATIO, LARGEST_RATIO = 0.8, 1.25
"""Stated over computed bytes of weights: quantised checkpoints keep some matrices whole."""
_DTYPES = ("auto", "bfloat16", "float16", "float32")


def read_model_config(path: Path | str) -> ModelShape:
    """The shape in a Hugging Face `config.json` (the file, or the directory that holds it).

    float32 checkpoints count 2 bytes per element, as `--dtype auto` serves them (vllm/config/model.py).

    Raises:
        InputError: not a readable config, a key missing or malformed, or an architecture whose KV cache or
            weights these formulas do not describe (MLA, recurrent or sliding-window layers, multimodal, a
            quantisation that is not known), or weights of another size than a safetensors index beside it states.
    """
    path = Path(path)
    file = path / "config.json" if path.is_dir() else path
    config = read_object(file, "a Hugging Face config.json")
    _refuse_foreign(config)
    _check_dtype(config)
    is_moe = any(config.integer(key, at_least=0, default=0) > 1 for key in _EXPERT_KEYS)
    if not is_moe:
        _refuse_ungated(config)
    heads = config.integer("num_attention_heads")
    kv_heads = config.integer("num_key_value_heads", default=heads)
    if heads % kv_heads:
        raise config.error("num_key_value_heads", f"= {kv_heads} does not divide num_attention_heads = {heads}")
    shape = ModelShape(
        name=file.resolve().parent.name if file.name == "config.json" else file.stem,
        layers=config.integer("num_hidden_layers"),
        hidden_size=config.integer("hidden_size"),
        intermediate_size=0 if is_moe else config.integer("intermediate_size"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=_head_dim(config, heads),
        vocab_size=config.integer("vocab_size"),
        tied_embeddings=config.flag("tie_word_embeddings", default=_tied_by_default(config)),
        is_moe=is_moe,
        scheme=read_scheme(config, file.parent),
    )
    return shape if is_moe else _with_stated_bytes(shape, config, file.parent)


def _with_stated_bytes(shape: ModelShape, config: JsonObject, folder: Path) -> ModelShape:
    """With the bytes that a safetensors index states, unless the server would load another type than it stores."""
    stated = checkpoint_bytes(folder)
    if stated is None or config.text(_dtype_key(config), default="auto") == "float32":
        return shape
    if not SMALLEST_RATIO < stated / shape.weight_bytes < LARGEST_RATIO:
        raise InputError(
            f"{config.where}: describes {shape.weight_bytes / 1e9:.1f} GB of weights ({shape.scheme.title}), and the "
            f"safetensors index beside it {stated / 1e9:.1f} GB; give the files of one checkpoint"
        )
    return replace(shape, checkpoint_bytes=stated)


def _head_dim(config: JsonObject, heads: int) -> int:
    if config.has("head_dim"):
        return config.integer("head_dim")
    hidden = config.integer("hidden_size")
    if hidden % heads:
        raise config.error(
            "hidden_size", f"= {hidden} is not a multiple of num_attention_heads = {heads}; add head_dim"
        )
    return hidden // heads


def _tied_by_default(config: JsonObject) -> bool:
    # Configs omit a value equal to the default of their class in transformers, which differs by family.
    return config.text("model_type", default="") in ("gemma", "smollm3")


def _dtype_key(config: JsonObject) -> str:
    return "dtype" if config.has("dtype") else "torch_dtype"


def _check_dtype(config: JsonObject) -> None:
    """Refuse element types other than the 16-bit ones that `ModelShape.dtype_bytes` assumes."""
    key = _dtype_key(config)
    name = config.text(key, default="auto")
    if name not in _DTYPES:
        raise config.error(key, f"= {name!r} is not one of {', '.join(_DTYPES)}")


def _refuse_foreign(config: JsonObject) -> None:
    """Refuse architectures whose KV cache is not 2·layers·kv_heads·head_dim per token."""
    for key, why in _FOREIGN.items():
        if config.has(key):
            raise config.error(key, why)
    if config.flag("is_encoder_decoder", default=False):
        raise config.error("is_encoder_decoder", "= true: only decoder-only models are described here")
    for key in config.values:
        if key.startswith(_RECURRENT_KEYS) and config.has(key):
            raise config.error(
                key, "marks a hybrid or recurrent (Mamba-like) model: KV bytes per token are not constant"
            )
    layer_types = config.values.get("layer_types")
    if layer_types is not None and (
        not isinstance(layer_types, list) or set(map(str, layer_types)) != {"full_attention"}
    ):
        raise config.error("layer_types", "has layers other than full_attention: KV bytes per token are not constant")
    _refuse_sliding_window(config)


def _refuse_sliding_window(config: JsonObject) -> None:
    if not config.has("sliding_window") or not config.flag("use_sliding_window", default=True):
        return
    window = config.integer("sliding_window")
    longest = config.integer("max_position_embeddings", default=window + 1)
    if window < longest:
        raise config.error("sliding_window", f"= {window} is shorter than the context ({longest}): old KV is dropped")


def _refuse_ungated(config: JsonObject) -> None:
    family = config.text("model_type", default="")
    if family not in _GATED_FAMILIES:
        raise config.error(
            "model_type",
            f"= {family!r} is not a family that can be counted here ({', '.join(_GATED_FAMILIES)}); if every "
            "layer is full attention and a gated MLP, say model_type llama in a copy of the file",
        )
