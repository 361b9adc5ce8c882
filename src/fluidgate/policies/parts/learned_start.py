"""The age at which a request must start at the latest, where patience is learned from those who give up."""

from __future__ import annotations

import numpy as np

from fluidgate.kernel import kernel
from fluidgate.policies.parts.length_law import survival
from fluidgate.policies.parts.patience_law import patience_ends_s, stays
from fluidgate.policies.parts.worth import POINTS

PREFILL = 2.0
"""Iterations to the first token of a prompt that fits into one, the one under way included."""

LEARNED_KEPT_CHANCE = 0.9
"""A request is worth starting as long as it has so much of the chance that it had when it came: estimates of the chance
differ by a few percent from age to age."""


@kernel
def _chance(memory, at, law, age_s, prefill_s, step, pace_s):
    """That a request which starts at this age ends before its client leaves, by the laws of patience at `at`."""
    first_s = age_s + prefill_s
    there = stays(memory, at, False, age_s)
    if there <= 0.0:
        return 0.0
    streams, ends, alive = stays(memory, at, True, first_s), 0.0, 1.0
    for i in range(1, POINTS + 1):
        after = survival(memory, law, i * step) if i < POINTS else 0.0
        ends += (alive - after) * stays(memory, at, True, first_s + i * step * pace_s)
        alive = after
    return stays(memory, at, False, first_s) / there * ends / streams if streams > 0.0 else 0.0


@kernel
def learned_latest_s(memory, at, law, most, pace_s):
    """The age up to which a request has nearly the chance that it has at once, and that chance, by learned patience."""
    at_once = _chance(memory, at, law, 0.0, PREFILL * pace_s, most / POINTS, pace_s)
    ends_s = patience_ends_s(memory, at)
    for i in range(1, POINTS + 1):
        chance = _chance(memory, at, law, i * ends_s / POINTS, PREFILL * pace_s, most / POINTS, pace_s)
        if chance < LEARNED_KEPT_CHANCE * at_once:
            return (i - 1) * ends_s / POINTS, at_once
    return np.inf, at_once
