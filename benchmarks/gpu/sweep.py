"""Step times of p256-d20, one batch size after another: what the paper's appendix on a real GPU fits a line to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from attention import Batch

from engine import Engine
from fluidgate.arrays import FloatArray, IntArray
from fluidgate.hardware import StepTime

PROMPT_TOKENS, OUTPUT_TOKENS, TOKEN_BUDGET = 256, 20, 2048
WARMUPS = 1


@dataclass(frozen=True)
class Swept:
    """A batch of requests served together, from their prompts to their last tokens.

    Attributes:
        requests: how many.
        kv_tokens: tokens in the KV cache at the end of a decode step, on average.
        decode_step_s: a decode step, on average.
        batch_s: all steps, prompts included.
    """

    requests: int
    kv_tokens: float
    decode_step_s: float
    batch_s: float


def blocks_for(requests: int, block_size: int) -> int:
    """KV blocks that a batch needs, with the null block."""
    return 1 + requests * -(-(PROMPT_TOKENS + OUTPUT_TOKENS - 1) // block_size)


def sweep(engine: Engine, batches: Sequence[int], passes: int, progress: Callable[[str], None]) -> list[Swept]:
    """Batches of these sizes, the last one first, to settle memory; each step's time is the median over passes."""
    swept = []
    for requests in reversed(batches):
        steps = _steps(requests, engine.block_size)
        lengths = np.full(requests, 1)
        engine.load(PROMPT_TOKENS * lengths, OUTPUT_TOKENS * lengths)
        runs = [[engine.run(step) for step in steps] for _ in range(WARMUPS + passes)]
        seconds = np.median(runs[WARMUPS:], axis=0)
        decodes = [i for i, step in enumerate(steps) if step.new[0] == 1]
        kv_tokens = [int((steps[i].before + 1).sum()) for i in decodes]
        swept.append(Swept(requests, float(np.mean(kv_tokens)), float(seconds[decodes].mean()), float(seconds.sum())))
        progress(f"p256-d20, {requests} at once: {1e3 * swept[-1].decode_step_s:.2f} ms a decode step")
    return swept[::-1]


def fits(swept: list[Swept], step_time: StepTime) -> dict[str, Any]:
    """The line d0 + d1 · KV through the decode steps, and what a calibration that has not seen them says of them."""
    kv, measured_s = (np.array([getattr(row, name) for row in swept]) for name in ("kv_tokens", "decode_step_s"))
    requests, batch_s = np.array([row.requests for row in swept]), np.array([row.batch_s for row in swept])
    d1, d0 = np.polyfit(kv, measured_s, 1)
    calibrated_s = step_time.duration_s(requests, kv, 0, requests)
    whole_s = np.array([predicted_s(step_time, int(count)) for count in requests])
    return {
        "line": {"d0_s": float(d0), "d1_s_per_kv_token": float(d1), **agreement(d0 + d1 * kv, measured_s)},
        "calibrated_decode_step": agreement(calibrated_s, measured_s),
        "calibrated_batch": agreement(whole_s, batch_s),
        "rows": [
            [
                row.requests,
                row.kv_tokens,
                row.decode_step_s,
                float(line_s),
                float(calibrated),
                row.batch_s,
                float(whole),
            ]
            for row, line_s, calibrated, whole in zip(swept, d0 + d1 * kv, calibrated_s, whole_s, strict=True)
        ],
    }


def agreement(predicted: FloatArray, measured: FloatArray) -> dict[str, float]:
    """R² and the mean absolute relative error."""
    missed = float(((predicted - measured) ** 2).sum())
    return {
        "r2": 1.0 - missed / float(((measured - measured.mean()) ** 2).sum()),
        "mean_error": float(np.abs(predicted / measured - 1.0).mean()),
    }


def _steps(requests: int, block_size: int) -> list[Batch]:
    """Prompts, as many in a step as the budget holds, then the decodes of all requests together."""
    each = -(-(PROMPT_TOKENS + OUTPUT_TOKENS - 1) // block_size)
    blocks = 1 + np.arange(requests * each).reshape(requests, each)

    def step(rows: IntArray, before: int, new: int) -> Batch:
        ones = np.ones(len(rows), np.int64)
        return Batch(rows, before * ones, new * ones, (before + new) * ones, blocks[rows])

    every, at_once = np.arange(requests), TOKEN_BUDGET // PROMPT_TOKENS
    prompts = [step(every[first : first + at_once], 0, PROMPT_TOKENS) for first in range(0, requests, at_once)]
    return prompts + [step(every, PROMPT_TOKENS + done, 1) for done in range(OUTPUT_TOKENS - 1)]


def predicted_s(step_time: StepTime, requests: int) -> float:
    """What a step time says of all steps of a batch, seconds."""
    total_s = 0.0
    for step in _steps(requests, 1):
        new, after = step.new, step.before + step.new
        pairs = (new * step.before + new * (new + 1) // 2)[new > 1].sum()
        total_s += float(step_time.duration_s(new.sum(), after.sum(), pairs, len(new)))
    return total_s
