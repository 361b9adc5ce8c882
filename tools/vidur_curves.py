"""The built-in profile of Llama-2-7B on an A100 with the steps that Vidur simulates, for `fit_profiles.py`.

    python tools/vidur_curves.py

prints how far the curves are from what they were fitted to. Linear operations: Vidur's `mlp.csv` of this pair
(microsoft/vidur, MIT), read from ../shared/vidur/profiles. Attention: points of its `attention.csv`, listed below.
"""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.calibration.vidur_profile import LINEAR, MS_PER_S, read_linear
from fluidgate.hardware import find_model

MODEL, GPU, VARIANT = "llama-2-7b", "a100-80gb", "vidur"
MLP = Path(__file__).resolve().parents[1] / "../shared/vidur/profiles/llama-2-7b_a100_mlp.csv.gz"
LAYERS = find_model(MODEL).layers
TILES = (1, 64, 72, 128, 136, 256, 264, 384, 392, 512, 520, 640, 648, 768, 776, 960, 968, 1152, 1168, 1280, 1296, 2048)
PLACES = (*TILES, 2080, 2560, 2592, 4096)
"""Tokens between which linear operations are taken as linear: the ends of tiles of 128."""
DECODES = (1, 2, 4, 8, 16, 32, 48, 64, 80, 128)
CONTEXTS = (32, 640)
DECODE_MS = (
    (0.009, 0.009, 0.012, 0.018, 0.028, 0.048, 0.073, 0.097, 0.123, 0.195),
    (0.016, 0.021, 0.043, 0.085, 0.130, 0.220, 0.309, 0.393, 0.475, 0.690),
)
"""Decode attention of a layer, by context and number."""
PREFILL_MS = (0.02, 0.037, 1.777e-7, 1.3e-7, 0.02)
"""`GridCurves.prefill` of a layer, fitted to chunks of 448, 480, 1,600 and 1,664 tokens."""
PREFILL_RAMP = (400.0, 100.0)
AFFINE = {"c0": 0.0095, "c_tok": 5.5e-5, "c_kv": 3.55e-7, "c_attn": 0.0, "c_seq": 0.0}
"""Fitted to the steps of Vidur's runs of the WAIT paper's workloads (non-negative least squares)."""
SOURCE = (
    "curves fitted to Vidur's measured operators (microsoft/vidur 7d47513, MIT), tools/vidur_curves.py: the GPU's time "
    "without embedding and output head; measured up to 4,096 tokens in a step, 128 decodes and prompts of 1,664 tokens "
    "and extrapolated beyond; four terms fitted to Vidur's steps; C about 137,000 tokens as in arXiv 2504.11320"
)


def linear_steps() -> tuple[FloatArray, FloatArray]:
    """Tokens, and the linear operations of all layers, ms, as measured."""
    with tempfile.TemporaryDirectory() as folder:
        unpacked = Path(folder, "mlp.csv")
        unpacked.write_bytes(gzip.decompress(MLP.read_bytes()))
        linear = read_linear(unpacked, find_model(MODEL))
    tokens = linear[LINEAR[0]].at
    return tokens, LAYERS * np.sum([linear[name].ms for name in LINEAR], axis=0)


def fitted_shared(tokens: FloatArray, ms: FloatArray) -> FloatArray:
    """The values at `PLACES` with the least squares of relative errors, ms."""
    hats = np.column_stack([np.interp(tokens, PLACES, row) for row in np.eye(len(PLACES))])
    values: FloatArray = np.linalg.lstsq(hats / ms[:, None], np.ones(len(ms)), rcond=None)[0]
    return values


def curves() -> dict[str, Any]:
    """As `profiles.json` has them, in seconds."""
    short, long = LAYERS * np.array(DECODE_MS) / MS_PER_S
    context_s = (long - short) / (CONTEXTS[1] - CONTEXTS[0])
    decodes = zip(DECODES, short - CONTEXTS[0] * context_s, context_s, strict=True)
    shared = zip(PLACES, fitted_shared(*linear_steps()) / MS_PER_S, strict=True)
    return {
        "shared": [[tokens, float(f"{seconds:.4g}")] for tokens, seconds in shared],
        "decodes": [[n, *(float(f"{value:.4g}") for value in values)] for n, *values in decodes],
        "prefill": [float(f"{LAYERS * ms / MS_PER_S:.4g}") for ms in PREFILL_MS],
        "prefill_ramp": list(PREFILL_RAMP),
    }


def vidur_profile(num_gpu_blocks: int) -> dict[str, Any]:
    """The entry of `profiles.json`."""
    return {
        "model": MODEL,
        "gpu": GPU,
        "variant": VARIANT,
        "tp": 1,
        **AFFINE,
        "curves": curves(),
        "num_gpu_blocks": num_gpu_blocks,
        "block_size": 16,
        "gpu_memory_utilization": None,
        "source": SOURCE,
        "mean_error": None,
        "error_by_kind": {},
    }


def main() -> None:
    tokens, ms = linear_steps()
    values = fitted_shared(tokens, ms)
    error = abs(np.interp(tokens, PLACES, values) / ms - 1)
    print(f"linear operations: {len(PLACES)} numbers for {len(tokens)} measured sizes; off by {error.mean():.1%} on")
    print(f"average and {error.max():.1%} at most (at {tokens[error.argmax()]:.0f} tokens)")
    for n in (512, 1024, 2048, 4096):
        four_terms = 1e3 * (AFFINE["c0"] + AFFINE["c_tok"] * n)
        print(
            f"{n:5d} tokens: {np.interp(n, tokens, ms):6.1f} ms measured, {np.interp(n, PLACES, values):6.1f} fitted, "
            f"{four_terms:6.1f} in four terms"
        )


if __name__ == "__main__":
    main()
