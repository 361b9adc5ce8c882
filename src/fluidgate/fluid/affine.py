"""The affine step time that closed forms take: a machine's own, or what its grid is near an operating point."""

from __future__ import annotations

from collections import deque
from math import ceil, isinf

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.fluid.equilibrium import equilibrium
from fluidgate.fluid.limits import Limits
from fluidgate.fluid.mix import RequestMix
from fluidgate.fluid.stability import largest_admissions
from fluidgate.hardware.core import Hardware, StepTime
from fluidgate.hardware.step_grid import StepGrid

LEVELS = (0.8, 0.9, 1.0)
"""Shares of the admissions per iteration that a fit covers, so that its slope is right too."""
MIN_PROMPTS, MIN_STEPS, DECODE_STEPS = 300, 20, 64
"""Drawn at each level; this many steps without prefill stand for all of those."""
ENOUGH, MAX_ROUNDS = 1e-3, 30
LEAST_FIXED = 0.01
"""Share of the shortest step that a fit keeps as its fixed time, where prompts take all of it: without any there is no
equilibrium."""

Prompt = tuple[int, int]
"""Tokens in all, and those computed."""


def affine_step_time(
    mix: RequestMix, hardware: Hardware, limits: Limits, admissions_per_iteration: float | None = None
) -> StepTime:
    """`hardware.step_time`; where there is a grid, what describes it best around a number of admissions per iteration.

    Non-negative least squares over steps drawn as the mix makes them, scaled so that the mean step is the grid's. The
    cost per sequence is the grid's own and needs no fit.

    Args:
        admissions_per_iteration: those at the boundary by default; the rate of the mix does not matter.

    Raises:
        InputError: the grid does not reach to the boundary, the longest request or the token budget.
    """
    grid = hardware.grid
    if grid is None:
        return hardware.step_time
    from scipy.optimize import nnls

    boundary = largest_admissions(mix, limits)
    residents = boundary * mix.mean(mix.iterations)
    budget = grid.max_tokens if isinf(limits.batched_tokens) else limits.batched_tokens
    reach = ceil(min(residents - ENOUGH, limits.seats)), int(mix.peak_kv_tokens.max()), int(budget)
    grid.refuse_beyond(*reach, hardware.name)
    x = boundary if admissions_per_iteration is None else admissions_per_iteration
    rng = np.random.default_rng(0)
    levels = [_drawn_steps(mix, share * x, grid, budget, rng) for share in LEVELS]
    terms = [_terms(steps) for steps in levels]
    weighted = [steps[:, 0] * grid.tables_s(*steps[:, [1, 2, 3, 5]].T) for steps in levels]
    regressors = np.concatenate(terms)
    root = np.sqrt(np.concatenate([steps[:, 0] for steps in levels]))
    size = np.linalg.norm(root[:, None] * regressors, axis=0)
    scale = np.where(size > 0, size, 1.0)
    fitted = nnls(root[:, None] * regressors / scale, np.concatenate(weighted) / root)[0] / scale
    fitted[0] = max(fitted[0], LEAST_FIXED * grid.shortest_step_s)
    fitted *= weighted[-1].sum() / (levels[-1][:, 0] * (terms[-1] @ fitted)).sum()
    return StepTime(*np.append(fitted, grid.sequence_s).tolist())


def affine_at_load(mix: RequestMix, hardware: Hardware, limits: Limits, boundary: StepTime) -> StepTime:
    """The affine step time in the equilibrium at the rate of the mix; `boundary` at the boundary and beyond it.

    The equilibrium x = λ·ΔT(x) by Newton's method from the boundary: ΔT is nearly concave, so that every tangent meets
    x/λ between the last x and the root.
    """
    if hardware.grid is None:
        return boundary
    x, step_time = largest_admissions(mix, limits), boundary
    for _ in range(MAX_ROUNDS):
        steady_state = equilibrium(mix, step_time)
        least = mix.total_rate * hardware.grid.shortest_step_s
        if steady_state is None or max(steady_state.admissions_per_iteration, least) >= x * (1.0 - ENOUGH):
            break
        x = max(steady_state.admissions_per_iteration, least)
        step_time = affine_step_time(mix, hardware, limits, x)
    return step_time


def _drawn_steps(mix: RequestMix, x: float, grid: StepGrid, budget: float, rng: np.random.Generator) -> FloatArray:
    """Steps with `x` admissions on average, shape (n, 6): weight, decodes, their KV, prefill tokens, their KV, pairs.

    Decodes have the mean context; prompts come at random and share, in order, what the decodes leave of the token
    budget. Steps without prefill are many where prompts are rare: a few stand for all.
    """
    count = ceil(max(MIN_STEPS, MIN_PROMPTS / x))
    prefills = 0.0 if mix.prompts_computed else 1.0  # iterations of a request that compute its prompt
    decodes = x * (mix.mean(mix.iterations) - prefills)
    context = x * mix.mean(mix.kv_token_iterations - prefills * mix.prompt_tokens) / decodes if decodes > 0 else 0.0
    arriving = np.sort(rng.integers(0, count, rng.poisson(prefills * count * x)))
    prompts = rng.choice(mix.prompt_tokens, len(arriving), p=mix.rate / mix.total_rate)
    prefill = _prefill_steps(arriving.tolist(), prompts.tolist(), max(1, int(budget - decodes)))
    without = max(count - len(prefill), 0)
    steps = np.zeros((len(prefill) + DECODE_STEPS, 6))
    steps[: len(prefill), 3:] = np.array(prefill).reshape(-1, 3)
    steps[:, 0] = 1.0
    steps[len(prefill) :, 0] = without / DECODE_STEPS
    room = np.minimum(grid.max_decodes, grid.max_tokens - steps[:, 3])
    steps[:, 1] = np.minimum(rng.poisson(decodes, len(steps)), room)
    steps[:, 2] = steps[:, 1] * context
    return steps[(steps[:, 0] > 0) & (steps[:, 1] + steps[:, 3] > 0)]


def _prefill_steps(arriving: list[int], prompts: list[int], room: int) -> list[tuple[float, float, float]]:
    """Tokens, KV and pairs of every step with prefill, when prompts arrive in these steps and `room` tokens fit."""
    waiting: deque[Prompt] = deque()
    steps, now, k = [], 0, 0
    while waiting or k < len(prompts):
        now = now if waiting else arriving[k]
        while k < len(prompts) and arriving[k] <= now:
            waiting.append((prompts[k], 0))
            k += 1
        steps.append(_prefill(waiting, room))
        now += 1
    return steps


def _prefill(waiting: deque[Prompt], room: int) -> tuple[float, float, float]:
    """Tokens, KV and pairs of the chunks that fit into `room`, taken from those that wait."""
    tokens = kv = pairs = 0.0
    while waiting and room > 0:
        prompt, before = waiting.popleft()
        new = min(room, prompt - before)
        if before + new < prompt:
            waiting.appendleft((prompt, before + new))
        room -= new
        tokens, kv, pairs = tokens + new, kv + before + new, pairs + new * before + new * (new + 1) / 2
    return tokens, kv, pairs


def _terms(steps: FloatArray) -> FloatArray:
    _, decodes, decode_kv, prefill, prefill_kv, pairs = steps.T
    return np.column_stack([np.ones(len(steps)), decodes + prefill, decode_kv + prefill_kv, pairs])
