"""The predicted KV of a set of requests at future times: mean and variance, from the survival of each.

A request of c KV tokens and age g runs τ iterations from now with probability p = S(g + τ)/S(g), and holds c + τ then:
it adds (c + τ) p to the mean and (c + τ)² p (1 - p) to the variance. Requests end independently, so their sums are the
set's. The forecast is a stretch of memory that begins at index `at`: TIMES means, then TIMES variances.

Requests of one cell of age share p. With n of them, h = Σ c and q = Σ c², they add (h + nτ) p to the mean and
(q + 2hτ + nτ²) p (1 - p) to the variance.
"""

from __future__ import annotations

import numpy as np

from fluidgate.kernel import inlined_kernel, kernel
from fluidgate.policies.parts.length_law import TIMES, table_row

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
    row = table_row(memory, law, age_tokens)
    add_requests(memory, at, grid, row, 1.0, kv_tokens, kv_tokens * kv_tokens)


@inlined_kernel
def add_requests(memory, at, grid, row, count, held, squared):
    """Add `count` requests of one row of the table; `held` and `squared` sum their KV tokens and the squares."""
    # In slices of known length the loop is vectorised; two stretches in one slice take fewer checks for overlap.
    forecast, times, chances = memory[at : at + FORECAST_SIZE], memory[grid : grid + TIMES], memory[row : row + TIMES]
    for k in range(TIMES):
        then = held + count * times[k]
        forecast[k] += then * chances[k]
        forecast[TIMES + k] += (squared + times[k] * (held + then)) * (chances[k] * (1.0 - chances[k]))


@kernel
def peak(memory, at, margin):
    """The largest mean + `margin` standard deviations over the grid, and the standard deviation there; KV tokens.

    At the first time, which is close, no less than the mean is taken: what is held now is certain.
    """
    spread = np.sqrt(memory[at + TIMES])
    most = memory[at] + max(0.0, margin) * spread
    for k in range(1, TIMES):
        deviation = np.sqrt(memory[at + TIMES + k])
        if memory[at + k] + margin * deviation > most:
            most = memory[at + k] + margin * deviation
            spread = deviation
    return most, spread
