"""How long an iteration takes, learned from the times at which a policy is asked.

Between two calls the engine may have been idle. It was not if the resident that was first then is still here.
The state is a stretch of the policy's memory that begins at index `at`.
"""

from __future__ import annotations

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.kernel import kernel

_MEAN, SLOWEST, _NOW_S, _ITERATION, _FIRST, WAS_BUSY, PACE_SIZE = range(7)
"""Mean seconds of the latest iterations, 0: not known yet; the largest such mean, which fades; of the last call its
time, its iteration, and the first resident; and whether the engine was busy from then on."""

WINDOW, FADING = 128.0, 2048.0
"""Iterations over which the mean is taken, and over which the largest one fades: a lull ends before the requests that
start in it do, and who starts too late has been served for nothing."""


def new_pace(prior_s: float) -> FloatArray:
    """Before anything was seen: what a full batch is expected to take, seconds; 0: unknown. Shape (PACE_SIZE,)."""
    state = np.zeros(PACE_SIZE)
    state[SLOWEST], state[_FIRST] = prior_s, -1.0
    return state


@kernel
def note_pace(memory, at, view):
    """Learn from the time since the last call; returns the seconds of an iteration, 0 where they are not known."""
    first = float(view.residents[0]) if len(view.residents) > 0 else -1.0
    iterations = view.iteration - memory[at + _ITERATION]
    memory[at + WAS_BUSY] = first >= 0.0 and first == memory[at + _FIRST]
    if memory[at + WAS_BUSY] > 0.0 and iterations > 0.0:
        seconds = (view.now_s - memory[at + _NOW_S]) / iterations
        if memory[at + _MEAN] == 0.0:
            memory[at + _MEAN] = seconds
        memory[at + _MEAN] += (1.0 - np.exp(-iterations / WINDOW)) * (seconds - memory[at + _MEAN])
        slower = memory[at + _MEAN] - memory[at + SLOWEST]
        memory[at + SLOWEST] += slower if slower > 0.0 else (1.0 - np.exp(-iterations / FADING)) * slower
    if iterations > 0.0 or first != memory[at + _FIRST]:
        memory[at + _FIRST], memory[at + _NOW_S], memory[at + _ITERATION] = first, view.now_s, view.iteration
    return memory[at + SLOWEST]
