"""When `fluid` estimates its laws of output lengths, and what follows from them: the grid of times, pace, coherence."""

from __future__ import annotations

import numpy as np

from fluidgate.kernel import kernel
from fluidgate.policies.parts.coherence import coherence
from fluidgate.policies.parts.fluid_memory import (
    CLASS_SIZE,
    CLASSES,
    COHERENCE,
    COMPLETIONS,
    ESTIMATED,
    GRID,
    LAWS,
    LOOP,
    PACE,
    READY,
    UNTESTED,
    law_at,
)
from fluidgate.policies.parts.length_law import (
    MEMORY,
    OUTPUT,
    PROMPT,
    SHARE,
    TIMES,
    count_resident,
    cover,
    estimate,
    fade,
    horizon,
    start_count,
    start_table,
)
from fluidgate.policies.parts.margin import COMPLETED, doubt

ESTIMATE_COMPLETIONS, ESTIMATE_ITERATIONS = 16, 512
"""The laws are estimated again after this many completions or iterations."""

WINDOWS, MIN_WINDOW = 4.0, 200.0
"""Completions remembered: this many per resident, and at least this many."""

COHERENCE_COMPLETIONS = 256
"""The coherence is computed again after this many completions."""


@kernel
def laws_are_due(memory, view, completions):
    """Whether to estimate the laws, after so many completions; at a start without a prior, after as many again."""
    iterations = ESTIMATE_ITERATIONS
    if doubt(memory, LOOP) > 0.0:
        completions = min(completions, max(1.0, memory[LOOP + COMPLETED] - memory[COMPLETIONS]))
        iterations = min(iterations, max(1.0, memory[ESTIMATED]))
    is_first = memory[READY] == 0.0
    return is_first or memory[COMPLETIONS] >= completions or view.iteration - memory[ESTIMATED] >= iterations


@kernel
def learn_laws(params, memory, view):
    """Estimate the laws from completions and residents, and what follows from them."""
    laws = int(params[LAWS])
    window = max(MIN_WINDOW, WINDOWS * len(view.residents))
    for c in range(laws):
        start_count(memory, law_at(params, c))
    for row in view.residents:
        cover(memory, law_at(params, view.class_id[row]), view.generated_tokens[row] + 1)
    for row in view.residents:
        count_resident(memory, law_at(params, view.class_id[row]), view.generated_tokens[row])
    longest, kv, output, prompt, share = 0.0, 0.0, 0.0, 0.0, 0.0
    for c in range(laws):
        law = law_at(params, c)
        estimate(memory, law, 0.5 * (view.block_size - 1))
        longest = max(longest, horizon(memory, law, view.total_blocks * view.block_size))
        share += memory[law + SHARE]
        kv += memory[law + SHARE] * memory[law + MEMORY]
        output += memory[law + SHARE] * memory[law + OUTPUT]
        prompt += memory[law + SHARE] * memory[law + PROMPT]
    for k in range(TIMES):  # close together where most happens
        memory[GRID + k] = np.floor(longest * ((k + 1) / TIMES) ** 2) + 1.0
    for c in range(laws):
        start_table(memory, law_at(params, c), GRID)
        fade(memory, law_at(params, c), (1.0 - 1.0 / window) ** memory[COMPLETIONS])
    by_memory = view.total_blocks * view.block_size / kv
    memory[PACE] = share * min(by_memory, view.token_budget / (prompt + output), view.max_num_seqs / output)
    if memory[READY] == 0.0 or memory[UNTESTED] >= COHERENCE_COMPLETIONS:
        memory[COHERENCE] = coherence(memory, CLASSES, laws, CLASS_SIZE, output / share)
        memory[UNTESTED] = 0.0
    memory[READY], memory[COMPLETIONS], memory[ESTIMATED] = 1.0, 0.0, view.iteration
