"""How long requests ran, by the length of their prompts.

Outputs depend on prompts: a document is summed up in a few words, a short question may need a long answer. Groups hold
the prompts from 2^(g/2) tokens on up to 2^((g+1)/2). What the law of the whole class says counts as much as
`PRIOR_WEIGHT` requests do.

The state is a stretch of the policy's memory that begins at index `at`.
"""

from __future__ import annotations

import numpy as np

from fluidgate.kernel import kernel

PER_OCTAVE, GROUPS = 2.0, 40
"""Groups for each doubling of the prompt, and how many there are; the last one is open."""

_GONE, _OUTPUT, _MOMENT = (k * GROUPS for k in range(3))
"""By group: requests that were served and are gone; the tokens that they generated; and these summed over the
iterations."""
GROUPS_SIZE = 3 * GROUPS

PRIOR_WEIGHT, REMEMBERED = 8.0, 512.0
"""Requests that the law of the class counts for, and after which what was seen of a group counts half."""


@kernel
def _group(prompt_tokens):
    return min(GROUPS - 1, int(PER_OCTAVE * np.log2(max(1, prompt_tokens))))


@kernel
def note_gone(memory, at, prompt_tokens, generated_tokens):
    """Learn from a request that was served and is gone."""
    k = at + _group(prompt_tokens)
    if memory[k + _GONE] >= REMEMBERED:
        for part in (_GONE, _OUTPUT, _MOMENT):
            memory[k + part] *= 0.5
    memory[k + _GONE] += 1.0
    memory[k + _OUTPUT] += generated_tokens
    memory[k + _MOMENT] += 0.5 * generated_tokens * generated_tokens


@kernel
def of_prompt(memory, at, prompt_tokens, output, moment):
    """The iterations of a request with this prompt and the tokens summed over them, given those of its class."""
    k = at + _group(prompt_tokens)
    seen = PRIOR_WEIGHT + memory[k + _GONE]
    return (PRIOR_WEIGHT * output + memory[k + _OUTPUT]) / seen, (PRIOR_WEIGHT * moment + memory[k + _MOMENT]) / seen
