"""The affine step time that closed forms take: a machine's own, or the nearest to its grid at this mix's boundary."""

from __future__ import annotations

from collections import deque
from itertools import islice
from math import ceil, isinf

import numpy as np

from fluidgate.fluid.limits import Limits
from fluidgate.fluid.mix import RequestMix
from fluidgate.fluid.stability import largest_admissions
from fluidgate.hardware.core import Hardware, StepTime
from fluidgate.hardware.step_grid import FloatArray

LEVELS = (0.25, 0.5, 0.75, 1.0)
"""Shares of the admissions per iteration at the boundary: below a quarter nothing limits the engine."""
STEPS_PER_LEVEL = 500


def affine_step_time(mix: RequestMix, hardware: Hardware, limits: Limits) -> StepTime:
    """`hardware.step_time`; where there is a grid, what describes it best on the steps of this mix.

    Non-negative least squares over steps drawn with decodes and prompts as the mix has them, at a quarter of the
    boundary up to the boundary itself, then scaled so that the mean step at the boundary is the grid's. The rate of
    the mix does not matter.

    Raises:
        InputError: the grid does not reach to the boundary, the longest request or the token budget.
    """
    if hardware.grid is None:
        return hardware.step_time
    from scipy.optimize import nnls

    rng = np.random.default_rng(0)
    x = largest_admissions(mix, limits)
    residents, longest = ceil(x * mix.mean(mix.iterations)), int(mix.peak_kv_tokens.max())
    budget = hardware.grid.max_tokens if isinf(limits.batched_tokens) else limits.batched_tokens
    hardware.grid.refuse_beyond(residents, longest, int(budget), hardware.name)
    levels = [_drawn_steps(mix, share * x, budget, rng) for share in LEVELS]
    terms = [_terms(steps) for steps in levels]
    seconds = [hardware.grid.duration_s(steps[:, 0], steps[:, 1], steps[:, 2], steps[:, 4]) for steps in levels]
    regressors = np.concatenate(terms)
    size = np.linalg.norm(regressors, axis=0)
    scale = np.where(size > 0, size, 1.0)
    fitted = nnls(regressors / scale, np.concatenate(seconds))[0] / scale
    fitted *= seconds[-1].sum() / (terms[-1] @ fitted).sum()
    return StepTime(*fitted.tolist())


def _drawn_steps(mix: RequestMix, x: float, budget: float, rng: np.random.Generator) -> FloatArray:
    """Steps with `x` admissions on average, shape (n, 5): decodes, their KV, prefill tokens, their KV, pairs.

    Decodes have the mean context; prompts share what the decodes leave of the token budget, in order of arrival.
    """
    decodes = rng.poisson(x * (mix.mean(mix.iterations) - 1.0), STEPS_PER_LEVEL)
    context = mix.mean(mix.kv_token_iterations - mix.prompt_tokens) / max(mix.mean(mix.iterations) - 1.0, 1e-300)
    arriving = rng.poisson(x, STEPS_PER_LEVEL)
    types = rng.choice(len(mix.rate), int(arriving.sum()), p=mix.rate / mix.total_rate)
    drawn = iter(mix.prompt_tokens[types].tolist())
    waiting: deque[tuple[int, int]] = deque()
    steps = []
    for running, new in zip(decodes.tolist(), arriving.tolist(), strict=True):
        waiting.extend((prompt, 0) for prompt in islice(drawn, new))
        steps.append((running, running * context, *_prefill(waiting, max(1.0, budget - running))))
    found: FloatArray = np.array([step for step in steps if step[0] + step[2] > 0])
    return found


def _prefill(waiting: deque[tuple[int, int]], room: float) -> tuple[float, float, float]:
    """Tokens, KV and pairs of the chunks that fit into `room`, taken from the (prompt, computed) that wait."""
    tokens = kv = pairs = 0.0
    while waiting and room > 0:
        prompt, before = waiting.popleft()
        new = int(min(room, prompt - before))
        if before + new < prompt:
            waiting.appendleft((prompt, before + new))
        room -= new
        tokens, kv, pairs = tokens + new, kv + before + new, pairs + new * before + new * (new + 1) / 2
    return tokens, kv, pairs


def _terms(steps: FloatArray) -> FloatArray:
    decodes, decode_kv, prefill, prefill_kv, pairs = steps.T
    return np.column_stack([np.ones(len(steps)), decodes + prefill, decode_kv + prefill_kv, pairs])
