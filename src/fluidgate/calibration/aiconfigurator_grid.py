"""A `StepGrid` from aiconfigurator's `EngineHandle`. What its calls mean, checked against version 0.12:

- `decode_step_latency(n, c - 1, 2)`: n requests, each ending the step with c tokens.
- `predict_prefill_latency(k, before + l, before)`: l tokens of each of k prompts, after `before` tokens in the cache.
- `mixed_step_breakdown(p, n, c - 1, 2)`: (total, what all p + n tokens share, prefill attention, decode attention);
  its p prefill tokens come in whole prompts of c - 1.

All in milliseconds, of whole numbers. Where attention is one operator with its projections (MLA, as in DeepSeek-V3 and
Kimi-K2), the library books it under what all tokens share, and a mixed step costs nothing for the contexts of its
decodes: here they add what they add to a step of decodes alone.
"""

from __future__ import annotations

from collections.abc import Callable
from math import floor
from typing import Any

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.calibration.points import StepPoints
from fluidgate.hardware.knots import TOKEN_KNOTS_PER_OCTAVE, knots_to
from fluidgate.hardware.step_grid import StepGrid

MS_PER_S = 1e3
CHECKED_STEPS = 100
"""Of each kind."""
MIN_PROMPT, MAX_PROMPTS = 16, 32
"""Of the steps that are checked: for thousands of prompts of one token the library's own answers disagree."""


def query_grid(handle: Any, max_num_seqs: int, max_num_batched_tokens: int, max_context: int) -> StepGrid:
    """The tables of a `StepGrid`, queried from an `EngineHandle` up to these many decodes and tokens."""

    def shared_ms(tokens: int) -> float:
        return float(handle.mixed_step_breakdown(tokens, 0, tokens, 2)[1])

    def decode_ms(context: int, decodes: int) -> float:
        return float(handle.decode_step_latency(decodes, context - 1, 2))

    def decode_attention_ms(context: int, decodes: int) -> float:
        return _decode_attention_ms(handle, decodes, context)

    def chunk_attention_ms(before: int, tokens: int) -> float:
        return float(handle.predict_prefill_latency(1, before + tokens, before)) - shared_ms(tokens)

    def prompts_attention_ms(length: int, tokens: int) -> float:
        """Of whole prompts of one length that have about `tokens` in all, as if they had just these."""
        prompts = max(1, round(tokens / length))
        whole = prompts * length
        return (float(handle.predict_prefill_latency(prompts, length)) - shared_ms(whole)) * tokens / whole

    def prefill_attention_ms(tokens: int, mean_context: float) -> float:
        alone = (tokens + 1) / 2
        if mean_context >= alone:  # one chunk, the rest of its context computed before
            return _between(chunk_attention_ms, mean_context - alone, tokens)
        return _between(prompts_attention_ms, 2 * mean_context - 1, tokens)

    decodes, contexts = knots_to(max_num_seqs), knots_to(max_context)
    chunks = knots_to(max_num_batched_tokens)
    tokens = knots_to(max_num_batched_tokens + max_num_seqs, TOKEN_KNOTS_PER_OCTAVE)
    return StepGrid(
        decode_s=_table(lambda n, c: _between(decode_ms, c, n), decodes, contexts),
        decode_attention_s=_table(lambda n, c: _between(decode_attention_ms, c, n), decodes, contexts),
        shared_s=np.array([_between(shared_ms, t) for t in tokens]) / MS_PER_S,
        prefill_attention_s=_table(prefill_attention_ms, chunks, contexts),
    )


def _decode_attention_ms(handle: Any, decodes: int, context: int) -> float:
    """What the library books as such; at least what contexts add to a step of decodes alone."""
    booked = float(handle.mixed_step_breakdown(0, decodes, context - 1, 2)[3])
    added = handle.decode_step_latency(decodes, context - 1, 2) - handle.decode_step_latency(decodes, 0, 2)
    return max(booked, float(added))


def _table(of_ms: Callable[[int, float], float], rows: FloatArray, columns: FloatArray) -> FloatArray:
    return np.array([[_between(of_ms, row, column) for column in columns] for row in rows.tolist()]) / MS_PER_S


def _between(of_ms: Callable[..., float], at: float, *rest: Any) -> float:
    """The value at `at`, linear between the whole numbers around it: the library knows no others."""
    whole = floor(at)
    low = of_ms(whole, *rest)
    return low if whole == at else low + (at - whole) * (of_ms(whole + 1, *rest) - low)


def draw_steps(handle: Any, grid: StepGrid, kv_capacity_tokens: int) -> tuple[StepPoints, tuple[FloatArray, ...]]:
    """Random steps that fit the KV memory, as the library answers them, and as `StepGrid.tables_s` takes them.

    Decodes, a few whole prompts, single chunks of longer prompts, and prompts beside decodes of the same context.
    """
    rng = np.random.default_rng(0)
    kinds, queried_ms, steps = [], [], []
    for kind in ("decode", "prefill", "chunk", "mixed"):
        for _ in range(CHECKED_STEPS):
            decodes = _drawn(rng, 1, grid.max_decodes) if kind in ("decode", "mixed") else 0
            room = min(grid.max_context, kv_capacity_tokens // (decodes + MAX_PROMPTS)) - 1
            length = _drawn(rng, MIN_PROMPT, room if kind == "decode" else min(room, grid.max_tokens))
            most = min(MAX_PROMPTS, grid.max_tokens // length)
            prompts = {"decode": 0, "chunk": 1}.get(kind, _drawn(rng, 1, most))
            before = _drawn(rng, 1, room - length) if kind == "chunk" else 0
            if kind == "decode":
                answer = handle.decode_step_latency(decodes, length, 2)
            elif kind == "mixed":
                answer = handle.mixed_step_latency(prompts * length, decodes, length, 2)
                booked = handle.mixed_step_breakdown(0, decodes, length, 2)[3]
                answer += _decode_attention_ms(handle, decodes, length + 1) - booked
            else:
                answer = handle.predict_prefill_latency(prompts, before + length, before)
            kinds.append(kind)
            queried_ms.append(float(answer))
            pairs = prompts * (length * before + length * (length + 1) / 2)
            prefill_kv = prompts * (before + length)
            steps.append((decodes, decodes * (length + 1), prompts * length, pairs, prefill_kv, prompts))
    n, kv, chunk, all_pairs, chunk_kv, chunks = np.array(steps, dtype=np.float64).T
    queried_s = np.array(queried_ms) / MS_PER_S
    points = StepPoints(np.array(kinds), n + chunk, kv + chunk_kv, all_pairs, n + chunks, queried_s)
    return points, (n, kv, chunk, all_pairs)


def _drawn(rng: np.random.Generator, least: int, most: int) -> int:
    """Evenly over the octaves from `least` to `most`; `least` where that is more."""
    return max(least, int(np.exp(rng.uniform(np.log(least), np.log(max(most, least))))))
