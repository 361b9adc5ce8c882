"""The predicted KV of a set of requests at future times: mean and variance, from the survival of each.

A request of c KV tokens and age g runs τ iterations from now with probability p = S(g + τ)/S(g), and holds c + τ then:
it adds (c + τ) p to the mean and (c + τ)² p (1 - p) to the variance. Requests end independently, so their sums are the
set's. The forecast is a stretch of memory that begins at index `at`: TIMES means, then TIMES variances.
"""

from __future__ import annotations

import numpy as np

from fluidgate.kernel import kernel
from fluidgate.policies.parts.length_law import ALIVE, TIMES, cell_of

FORECAST_SIZE = 2 * TIMES


@kernel
def clear_forecast(memory, at):
    """The forecast of an empty set."""
    for k in range(FORECAST_SIZE):
        memory[at + k] = 0.0


@kernel
def copy_forecast(memory, source, at):
    """Make the forecast at `at` that at `source`."""
    for k in range(FORECAST_SIZE):
        memory[at + k] = memory[source + k]


@kernel
def add_request(memory, at, grid, law, kv_tokens, age_tokens):
    """Add a request to a forecast at the times of `memory[grid : grid + TIMES]`."""
    row = law + ALIVE + cell_of(memory, law, age_tokens) * TIMES
    for k in range(TIMES):
        still = memory[row + k]
        held = kv_tokens + memory[grid + k]
        memory[at + k] += held * still
        memory[at + TIMES + k] += held * held * still * (1.0 - still)


@kernel
def peak(memory, at, margin):
    """The largest mean + `margin` standard deviations over the grid, and the standard deviation there; KV tokens."""
    most, spread = 0.0, 0.0
    for k in range(TIMES):
        deviation = np.sqrt(memory[at + TIMES + k])
        if memory[at + k] + margin * deviation > most:
            most = memory[at + k] + margin * deviation
            spread = deviation
    return most, spread
