"""How much longer an iteration takes for each prompt token in it: the slope of its seconds over its prompt tokens.

Both are taken as means over a few iterations: an engine that schedules ahead of its tokens shows an iteration's seconds
one call late. Where prompts hardly vary, the slope is taken for one that doubles an iteration at the full budget.

The state is a stretch of the policy's memory that begins at index `at`.
"""

from __future__ import annotations

import numpy as np

from fluidgate.kernel import kernel

(
    _AHEAD,  # prompt tokens that have entered and are not computed yet
    _TOKENS,  # of the iterations that are being summed up: prompt tokens,
    _SECONDS,
    _ITERATIONS,
    _COUNT,  # of the means taken of them: how many, their sums, and those of squares and products
    _SUM_TOKENS,
    _SUM_SECONDS,
    _SQUARES,
    _PRODUCTS,
    TOKEN_TIME_SIZE,
) = range(10)

TOGETHER, REMEMBERED = 16.0, 256.0
"""Iterations that a mean is taken over, and means after which what was seen counts 1/e."""

PRIOR_SPREAD = 0.02
"""The slope without observations counts for as much as means whose prompt tokens differ by this share of the budget."""


@kernel
def note_entering_tokens(memory, at, tokens):
    """A prompt has entered, all but what the cache holds of it."""
    memory[at + _AHEAD] += tokens


@kernel
def note_iterations(memory, at, iterations, seconds, token_budget):
    """Learn from iterations one after the other; `seconds` is 0 where the engine may have been idle in between."""
    tokens = min(memory[at + _AHEAD], iterations * token_budget)
    memory[at + _AHEAD] -= tokens
    if seconds == 0.0:
        memory[at + _TOKENS] = memory[at + _SECONDS] = memory[at + _ITERATIONS] = 0.0
        return
    memory[at + _TOKENS] += tokens
    memory[at + _SECONDS] += seconds
    memory[at + _ITERATIONS] += iterations
    if memory[at + _ITERATIONS] >= TOGETHER:
        kept = np.exp(-1.0 / REMEMBERED)
        mean_tokens = memory[at + _TOKENS] / memory[at + _ITERATIONS]
        mean_s = memory[at + _SECONDS] / memory[at + _ITERATIONS]
        memory[at + _COUNT] = kept * memory[at + _COUNT] + 1.0
        memory[at + _SUM_TOKENS] = kept * memory[at + _SUM_TOKENS] + mean_tokens
        memory[at + _SUM_SECONDS] = kept * memory[at + _SUM_SECONDS] + mean_s
        memory[at + _SQUARES] = kept * memory[at + _SQUARES] + mean_tokens * mean_tokens
        memory[at + _PRODUCTS] = kept * memory[at + _PRODUCTS] + mean_tokens * mean_s
        memory[at + _TOKENS] = memory[at + _SECONDS] = memory[at + _ITERATIONS] = 0.0


@kernel
def iterations_per_token(memory, at, token_budget):
    """What a prompt token takes, in iterations that hold none."""
    if memory[at + _COUNT] == 0.0:
        return 1.0 / token_budget
    tokens, seconds = memory[at + _SUM_TOKENS] / memory[at + _COUNT], memory[at + _SUM_SECONDS] / memory[at + _COUNT]
    prior = (PRIOR_SPREAD * token_budget) ** 2
    varies = memory[at + _SQUARES] - tokens * memory[at + _SUM_TOKENS] + prior
    together = memory[at + _PRODUCTS] - tokens * memory[at + _SUM_SECONDS] + prior * seconds / token_budget
    slope = max(0.0, together / varies)
    return slope / max(seconds - slope * tokens, 0.1 * seconds)
