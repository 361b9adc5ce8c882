"""A model folder that a server can load offline: a small Llama, weights made up at the start, 1,000 words."""

from __future__ import annotations

import json
from pathlib import Path

VOCABULARY = 1000
MODEL_LEN = 512

_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "max_position_embeddings": MODEL_LEN,
    "rms_norm_eps": 1e-5,
    "torch_dtype": "float32",
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def write_tiny_model(folder: Path, *, layers: int = 2, heads: int = 2) -> Path:
    """Write config and tokenizer into a new folder, and return it. One word is one token, both ways."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder.mkdir(parents=True)
    special = ["<unk>", "<s>", "</s>"]
    words = special + [f"w{k}" for k in range(len(special), VOCABULARY)]
    tokenizer = Tokenizer(models.WordLevel({word: k for k, word in enumerate(words)}, unk_token=special[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = dict(zip(("unk_token", "bos_token", "eos_token"), special, strict=True))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": MODEL_LEN, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
    size = {
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "hidden_size": 32 * heads,
        "intermediate_size": 64 * heads,
    }
    (folder / "config.json").write_text(json.dumps(_CONFIG | size), encoding="utf-8")
    return folder
