"""`ModelShape`: the dimensions of a transformer, from a Hugging Face `config.json` or built in."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from fluidgate.errors import InputError
from fluidgate.hardware._names import resolve, simple_model_name
from fluidgate.hardware.kv_groups import kv_law
from fluidgate.hardware.kv_law import KvLaw
from fluidgate.hardware.kv_layers import KvLayer, KvLayers, kv_heads_of, read_kv_layers, text_config
from fluidgate.hardware.model_length import model_length
from fluidgate.hardware.quantization import SIXTEEN_BIT, Scheme, checkpoint_bytes, kv_dtype, read_scheme, scheme_files
from fluidgate.jsonfile import JsonObject, read_object


@dataclass(frozen=True)
class ModelShape:
    """Dimensions of a decoder-only transformer.

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
        windows: what each layer caches, where some layers forget; empty: every layer keeps all tokens.
        dtype: of the model, which its KV cache has unless something else is said.
        max_model_len: prompt and output tokens of the longest request that it takes; None: not known.
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
    windows: KvLayers = ()
    dtype: str = "bfloat16"
    max_model_len: int | None = field(default=None, compare=False)

    @property
    def kv_layers(self) -> KvLayers:
        """What each layer caches."""
        return self.windows or ((KvLayer("full", self.kv_heads, 2 * self.head_dim),),) * self.layers

    def kv_law(self, block_size: int = 16, tp: int = 1, pp: int = 1, kv_cache_dtype: str = "auto") -> KvLaw:
        """The law of its KV cache on GPUs of `tp`-fold tensor and `pp`-fold pipeline parallelism.

        Raises:
            InputError: a parallelism that does not divide the model, or a dtype that is not known.
        """
        if tp < 1 or self.heads % tp:
            raise InputError(f"{self.name}: tp = {tp} does not divide its {self.heads} attention heads; use a divisor")
        if block_size < 1:
            raise InputError(f"block_size = {block_size} must be at least 1 token")
        dtype = kv_dtype(kv_cache_dtype, self.dtype, self.scheme)
        try:
            return kv_law(self.kv_layers, dtype=dtype, block_size=block_size, tp=tp, pp=pp)
        except InputError as problem:
            raise InputError(f"{self.name}: {problem}") from None

    def kv_read_bytes(self, tp: int = 1, kv_cache_dtype: str = "auto") -> tuple[int, int]:
        """What a decode reads of the KV cache on one of `tp` GPUs.

        Returns:
            Bytes per token of its context, and bytes of windows and states, whatever the context.
        """
        element_bytes = kv_dtype(kv_cache_dtype, self.dtype, self.scheme).element_bytes
        caches = [cache for layer in self.kv_layers for cache in layer]
        per_token = sum(cache.token_bytes(tp, element_bytes) for cache in caches if cache.reach is None)
        windows = sum(cache.token_bytes(tp, element_bytes) * cache.reach for cache in caches if cache.reach is not None)
        return per_token, windows + sum(cache.state_bytes(tp) for cache in caches)

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
# By the beginning of the name, from each model's own config.json; Qwen2.5's is that of the Instruct models.
_LENGTHS = {
    "llama-2-": 4096,
    "llama-3-": 8192,
    "llama-3.": 131072,
    "mistral-7b": 32768,
    "qwen2.5-": 32768,
    "qwen3-": 40960,
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
    shape = _SHAPES[resolve("model", name, canonical_model_name(name), _SHAPES, advice)]
    own = simple_model_name(name)  # Llama 3 has the dimensions of 3.1, and takes less
    lengths = (length for start, length in _LENGTHS.items() if own.startswith(start))
    return replace(shape, max_model_len=next(lengths, None))


# Families whose layers are attention and a gated MLP: for others the parameter formula would be wrong.
_GATED_FAMILIES = (
    *("llama", "mistral", "ministral", "ministral3", "qwen2", "qwen3", "qwen3_vl_text", "seed_oss"),
    *("gemma", "gemma2", "gemma3_text", "phi3", "granite", "olmo2", "smollm3"),
)
_EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts")
_OTHER_LAYERS = ("kv_lora_rank", "hybrid_override_pattern", "layers_block_type", "linear_conv_kernel_dim")
"""Keys of layers that hold other matrices than attention and a gated MLP."""
SMALLEST_RATIO, LARGEST_RATIO = 0.8, 1.25
"""Stated over computed bytes of weights: quantised checkpoints keep some matrices whole."""
_DTYPES = {"auto": "bfloat16", "bfloat16": "bfloat16", "float16": "float16", "float32": "float16"}
"""What `--dtype auto` makes of a checkpoint's dtype (vllm/config/model.py)."""


def read_model_config(path: Path | str) -> ModelShape:
    """The shape in a Hugging Face `config.json` (the file, or the directory that holds it); of a multimodal model that
    of its text model.

    float32 checkpoints count 2 bytes per element, as `--dtype auto` serves them (vllm/config/model.py).

    Raises:
        InputError: not a readable config, a key missing or malformed, an architecture whose weights or KV cache are
            not counted here, a quantisation that is not known, or weights of another size than a safetensors index
            beside it states.
    """
    path = Path(path)
    file = path / "config.json" if path.is_dir() else path
    whole = read_object(file, "a Hugging Face config.json")
    config = text_config(whole)
    dtype = stated_dtype(config)
    windows = read_kv_layers(config)
    is_moe = any(config.integer(key, at_least=0, default=0) > 1 for key in _EXPERT_KEYS)
    if not is_moe:
        _refuse_ungated(config)
    heads, kv_heads, head_dim = kv_heads_of(config)
    shape = ModelShape(
        name=file.resolve().parent.name if file.name == "config.json" else file.stem,
        layers=len(windows),
        hidden_size=config.integer("hidden_size"),
        intermediate_size=0 if is_moe else config.integer("intermediate_size"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=config.integer("vocab_size"),
        tied_embeddings=config.flag("tie_word_embeddings", default=_tied_by_default(config)),
        is_moe=is_moe,
        scheme=read_scheme(whole, *scheme_files(file.parent)),
        dtype=dtype,
        max_model_len=model_length(config),
    )
    if windows != shape.kv_layers:
        shape = replace(shape, windows=windows)
    if is_moe:
        return shape
    shape = _with_stated_bytes(shape, config, file.parent)
    if config is not whole and shape.checkpoint_bytes is None:
        raise whole.error(
            "text_config",
            "marks a multimodal model, whose other parts are not counted here: put its safetensors index beside the "
            "file, or give the text_config as a file of its own",
        )
    return shape


def _with_stated_bytes(shape: ModelShape, config: JsonObject, folder: Path) -> ModelShape:
    """With the bytes that a safetensors index states, unless the server would load another type than it stores."""
    stated = checkpoint_bytes(folder)
    if stated is None or _stored_dtype(config) == "float32":
        return shape
    if not SMALLEST_RATIO < stated / shape.weight_bytes < LARGEST_RATIO:
        raise InputError(
            f"{config.where}: describes {shape.weight_bytes / 1e9:.1f} GB of weights ({shape.scheme.title}), and the "
            f"safetensors index beside it {stated / 1e9:.1f} GB; give the files of one checkpoint"
        )
    return replace(shape, checkpoint_bytes=stated)


def _tied_by_default(config: JsonObject) -> bool:
    # Configs omit a value equal to the default of their class in transformers, which differs by family.
    return config.text("model_type", default="") in ("gemma", "gemma2", "gemma3_text", "smollm3")


def _dtype_key(config: JsonObject) -> str:
    return "dtype" if config.has("dtype") else "torch_dtype"


def stated_dtype(config: JsonObject) -> str:
    """The element type that a checkpoint is served in, as `--dtype auto` does."""
    return _DTYPES[_stored_dtype(config)]


def _stored_dtype(config: JsonObject) -> str:
    """The element type of the checkpoint; those other than the ones that are served in 16 bits are refused."""
    key = _dtype_key(config)
    name = config.text(key, default="auto")
    if name not in _DTYPES:
        raise config.error(key, f"= {name!r} is not one of {', '.join(_DTYPES)}")
    return name


def _refuse_ungated(config: JsonObject) -> None:
    for key in _OTHER_LAYERS:
        if config.has(key):
            raise config.error(key, "marks layers whose weights are not counted here; use `calibrate aiconfigurator`")
    family = config.text("model_type", default="")
    if family not in _GATED_FAMILIES:
        raise config.error(
            "model_type",
            f"= {family!r} is not a family that can be counted here ({', '.join(_GATED_FAMILIES)}); if every "
            "layer is full attention and a gated MLP, say model_type llama in a copy of the file",
        )
