"""Query a latency grid from aiconfigurator-core, which must be installed; a development tool.

    python tools/query_grid.py CONFIG_DIR MODEL_NAME SYSTEM OUT.json

CONFIG_DIR holds the model's config.json, so that nothing is downloaded. The calls are those of the larger
grids file: decode_step_latency(bs, ctx, 2), predict_prefill_latency(1, isl), mixed_step_latency(ctx_tokens,
gen_reqs, gen_ctx, 256), estimate_kv_cache at 0.9 of the memory and 8,192 tokens per step.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

from aiconfigurator_core.sdk import EngineHandle  # type: ignore[import-not-found]
from aiconfigurator_core.sdk.memory import estimate_kv_cache  # type: ignore[import-not-found]

BATCHES = [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256]
# Llama-2's context ends at 4,096 tokens.
CONTEXTS = [128, 256, 512, 1024, 2048, 4096]
PROMPTS = [32, 64, 128, 256, 512, 1024, 2048, 4096]
CHUNKS = [64, 128, 256, 512, 1024, 2048, 4096, 8192]
DECODES = [1, 8, 16, 32, 64, 128, 256]
MIXED_CONTEXTS = [512, 2048, 4096]


def query(config_dir: str, model: str, system: str) -> dict[str, object]:
    engine = EngineHandle.compile(config_dir, system, "vllm", tp_size=1)
    memory = estimate_kv_cache(
        config_dir,
        system,
        "vllm",
        "current",
        max_num_tokens=8192,
        max_batch_size=256,
        memory_fraction_kind="of_total",
        memory_fraction_value=0.9,
    )
    mixed = [[[engine.mixed_step_latency(c, n, x, 256) for x in MIXED_CONTEXTS] for n in DECODES] for c in CHUNKS]
    return {
        "model": model,
        "system": system,
        "backend": "vllm",
        "parallel": {},
        "unit": "ms",
        "kv_capacity_tokens": memory["total_kv_size_tokens"],
        "decode": {
            "bs": BATCHES,
            "ctx": CONTEXTS,
            "ms": [[engine.decode_step_latency(b, x, 2) for x in CONTEXTS] for b in BATCHES],
        },
        "prefill_bs1": {"isl": PROMPTS, "ms": [engine.predict_prefill_latency(bs=1, isl=n) for n in PROMPTS]},
        "mixed": {"ctx_tokens": CHUNKS, "gen_reqs": DECODES, "gen_ctx": MIXED_CONTEXTS, "ms": mixed},
    }


def main() -> None:
    config_dir, model, system, out = sys.argv[1:]
    source = f"aiconfigurator-core {version('aiconfigurator-core')}, tools/query_grid.py"
    grids = {"source": source, "grids": [query(config_dir, model, system)]}
    text = json.dumps(grids, default=float)
    Path(out).write_text(json.dumps(json.loads(text, parse_float=lambda s: round(float(s), 3))) + "\n")


if __name__ == "__main__":
    main()
