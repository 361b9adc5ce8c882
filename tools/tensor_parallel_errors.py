"""How far estimates for several GPUs are from aiconfigurator's grids; a development tool.

    python tools/tensor_parallel_errors.py

Prints, for each model, GPU and number of GPUs, the mean error of the estimated step time over steps that aiconfigurator
answers (decodes, chunks, prefills, mixed), and the mean over all with more than one GPU. Both are the GPUs' time: the
cost per sequence, which aiconfigurator does not have, is left out.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fluidgate.calibration import ServerLimits, Spread, query_aiconfigurator
from fluidgate.errors import InputError
from fluidgate.hardware import estimate_step_time, find_gpu, find_model

MODELS = ("llama-3.1-8b", "qwen3-32b", "llama-3.1-70b")
GPUS = ("a100", "h100", "h200", "b200")
LIMITS = ServerLimits(max_num_seqs=256, max_num_batched_tokens=2048, max_model_len=8192)


def errors(model: str, gpu: str, tp: int) -> np.ndarray:
    """Estimated over queried seconds - 1, of each step, shape (n,).

    Raises:
        InputError: aiconfigurator has no answer for these.
    """
    points = query_aiconfigurator(model, gpu, spread=Spread(tp=tp), limits=LIMITS).points
    estimate = estimate_step_time(find_model(model), find_gpu(gpu), tp)
    gpus_s = estimate.duration_s(points.tokens, points.kv_tokens, points.attention_pairs, 0)
    return np.asarray(gpus_s / points.duration_s - 1)


def table() -> Iterator[tuple[str, str, int, np.ndarray]]:
    """Every model, GPU and number of GPUs that has an answer, with the errors of its steps."""
    for model in MODELS:
        for gpu in GPUS:
            for tp in (1, 2, 4, 8):
                try:
                    yield model, gpu, tp, errors(model, gpu, tp)
                except InputError:  # the model does not fit
                    continue


def main() -> None:
    means = []
    for model, gpu, tp, error in table():
        mean = float(np.abs(error).mean())
        print(f"{model:14s} {tp} x {gpu:5s} {mean:6.1%}   bias {error.mean():+6.1%}")
        means += [mean] if tp > 1 else []
    print(f"several GPUs: {np.mean(means):.1%} on average, {max(means):.1%} at most, over {len(means)} pairs")


if __name__ == "__main__":
    main()
