"""Small profile files with the columns of Vidur's, whose times follow closed forms."""

from __future__ import annotations

from pathlib import Path

from fluidgate.calibration.vidur_profile import LINEAR
from fluidgate.hardware import ModelShape

TOKENS = (1, 8, 64, 256, 512, 520, 1024, 2048)
BATCHES, CONTEXTS = (1, 2, 4, 8, 16), (32, 512, 1024)
CHUNKS, BEFORE = (64, 128, 512, 1024), (0, 64, 1024)
LINEAR_MS = 0.03, 5e-5
"""Of each linear operation: for itself, and for each token."""
TILE_MS = 0.01
"""What each takes more from 520 tokens on."""
SAVE_MS = 1e-6
"""Of a token."""
DECODE_MS = 0.01, 1e-3, 2e-6
"""For itself, for each decode, and for each token of context of each."""
PREFILL_MS = 0.02, 2e-7, 1e-7
"""For itself, for the square of its tokens, and for its tokens times those before."""
REDUCE_MS = 0.01, 2e-5
"""For itself, and for each token."""


def linear_ms(tokens: float) -> float:
    """A linear operation, measured."""
    return LINEAR_MS[0] + LINEAR_MS[1] * tokens + TILE_MS * (tokens >= 520)


def decode_ms(batch: float, context: float) -> float:
    """Attention of decodes in a layer."""
    return DECODE_MS[0] + DECODE_MS[1] * batch + DECODE_MS[2] * batch * context


def prefill_ms(chunk: float, before: float) -> float:
    """Attention of a chunk in a layer."""
    return PREFILL_MS[0] + PREFILL_MS[1] * chunk**2 + PREFILL_MS[2] * chunk * before


def write_profile(folder: Path, shape: ModelShape, tp: int = 1) -> tuple[Path, Path]:
    """`mlp.csv` and `attention.csv` of a model."""
    names = [f"time_stats.{name}.median" for name in LINEAR]
    model = [shape.heads, shape.kv_heads, shape.hidden_size, shape.intermediate_size]
    mlp = [[*names, "n_head", "n_kv_head", "n_embd", "n_expanded_embd", "num_tokens", "num_tensor_parallel_workers"]]
    mlp += [[*[linear_ms(tokens)] * len(names), *model, tokens, tp] for tokens in TOKENS]
    attention = [
        *[["time_stats.attn_kv_cache_save.median", "time_stats.attn_prefill.median", "time_stats.attn_decode.median"]],
        *[
            [SAVE_MS * chunk, prefill_ms(chunk, before), 0.0, 1, chunk, before, True]
            for chunk in CHUNKS
            for before in BEFORE
        ],
        *[[SAVE_MS * batch, 0.0, decode_ms(batch, of), batch, 0, of, False] for batch in BATCHES for of in CONTEXTS],
    ]
    attention[0] += ["batch_size", "prefill_chunk_size", "kv_cache_size", "is_prefill"]
    attention[0] += ["n_q_head", "n_kv_head", "n_embd", "num_tensor_parallel_workers", "block_size"]
    for row in attention[1:]:
        row += [*model[:3], tp, 16]
    return _write(folder / "mlp.csv", mlp), _write(folder / "attention.csv", attention)


def write_all_reduce(folder: Path, shape: ModelShape, tp: int) -> Path:
    """`all_reduce.csv` of a node of `tp` GPUs, and of one of twice as many with other times."""
    header = ["time_stats.all_reduce.median", "size", "num_workers", "devices_per_node", "collective"]
    rows = [
        [
            factor * (REDUCE_MS[0] + REDUCE_MS[1] * tokens),
            2 * shape.hidden_size * tokens,
            workers,
            workers,
            "all_reduce",
        ]
        for factor, workers in ((1, tp), (5, 2 * tp))
        for tokens in (1, 4096)
    ]
    return _write(folder / "all_reduce.csv", [header, *rows])


def _write(path: Path, rows: list[list[object]]) -> Path:
    path.write_text("".join(",".join(map(str, row)) + "\n" for row in rows), encoding="utf-8")
    return path
