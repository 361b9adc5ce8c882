"""The margin of `fluid` in closed loop, and what it risks while it has no data.

An eviction raises the margin and a completion while the queue was held lowers it, so that evictions per request settle
at `evicted_share`, or below where a larger margin costs almost nothing.

Without a prior there is a start, over whose `START_COMPLETIONS` completions `doubt` falls from 1 to 0. A forecast made
without data lets hardly anything in, and a forecast that is never tested is never corrected. So the margin begins at
nothing and waits for evictions to ask for one, and requests enter beyond the forecast: as many as may be evicted so
that `evicted_share` of the start's requests are, less those that were. Short outputs end soon and teach the law; where
they turn out long these evictions are the price.

The state is a stretch of the policy's memory that begins at index `at`.
"""

from __future__ import annotations

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.kernel import kernel

(
    MARGIN,
    SPREAD,  # standard deviation of memory ÷ capacity, where the last refusal was
    RECOMPUTED,  # share of an evicted request's tokens that is computed again
    HELD,  # whether the queue was held since the last completion
    DOUBT,  # at first: 1 without a prior, 0 with one
    COMPLETED,
    REQUESTS,
    EVICTED,
    IN_A_ROW,  # evictions since the last completion
    MARGIN_SIZE,
) = range(10)

FIRST_MARGIN, MAX_MARGIN, GAIN = 2.25, 4.0, 0.02
"""The margin at first where a prior is known, the most there is, and its rise for an eviction."""

CHEAP, CHEAP_MARGIN = 0.1, 2.5
"""A margin that takes less than this share of memory is taken whatever the evictions, up to `CHEAP_MARGIN`."""

MIN_MARGIN, LAX_MARGIN, LAX_FALL = 1.0, 0.5, 0.75
"""The margin is not lowered further than this where evicted requests compute everything again, and not further than
`LAX_MARGIN` where they find it in the prefix cache, or where every request may be evicted once. Each further eviction
per request lowers it by `LAX_FALL`."""

RESERVE, LAX_RESERVE = 0.01, 0.03
"""Share of memory kept free per unit of margin, because the forecast does not see the next few iterations' noise; and
the least share kept free, per acceptable eviction per request up to one: a small margin leaves residents no room to
grow."""

MOST_EVICTED = 4.0
"""The most evictions per request that can be asked for: more only lose throughput."""

START_COMPLETIONS = 200.0
"""Completions until a start without a prior is over: as many as a law always remembers."""

RISK = 0.8
"""How likely a request that enters beyond the forecast is evicted: some end before memory does."""

IN_A_ROW_GAIN = 0.5
"""How much steeper each further eviction without a completion between raises the margin at the start, up to
`FIRST_MARGIN`: where outputs are long the first evictions come in a crowd, before anything can be learned."""


def new_margin(has_prior: bool) -> FloatArray:
    """The margin before anything has happened, shape (MARGIN_SIZE,)."""
    state = np.zeros(MARGIN_SIZE)
    state[MARGIN] = FIRST_MARGIN if has_prior else 0.0
    state[DOUBT] = 0.0 if has_prior else 1.0
    state[RECOMPUTED] = 1.0
    return state


@kernel
def doubt(memory, at):
    """How much of the start is left, from 1 to 0; with a prior 0."""
    return max(0.0, memory[at + DOUBT] - memory[at + COMPLETED] / START_COMPLETIONS)


@kernel
def allowance(memory, at, evicted_share):
    """How many residents there may be beyond those that the forecast lets in; 0 or less with a prior."""
    requests = min(memory[at + REQUESTS], START_COMPLETIONS)
    return doubt(memory, at) * (evicted_share * requests / RISK - memory[at + EVICTED])


@kernel
def least_margin(memory, at, evicted_share, paced):
    """The margin that evictions do not have to justify."""
    if paced:
        return 0.0
    least = LAX_MARGIN + (MIN_MARGIN - LAX_MARGIN) * memory[at + RECOMPUTED]
    cheap = min(CHEAP_MARGIN, max(least, CHEAP / (memory[at + SPREAD] + RESERVE)))
    return cheap + (LAX_MARGIN - cheap) * min(1.0, evicted_share) - LAX_FALL * max(0.0, evicted_share - 1.0)


@kernel
def usable_share(memory, at, margin, evicted_share, paced):
    """The share of memory that a forecast may fill, its margin included.

    Pacing leaves residents room to grow, so there the margin's reserve is enough; so it is at a start, as far as in
    doubt, where requests are to be let in.
    """
    lax = 0.0 if paced else LAX_RESERVE * min(1.0, evicted_share) * (1.0 - doubt(memory, at))
    return 1.0 - max(RESERVE * margin, lax)


@kernel
def note_arrival(memory, at):
    """Count a request."""
    memory[at + REQUESTS] += 1.0


@kernel
def note_completion(memory, at, evicted_share, paced):
    """Lower the margin if the queue was held; the less doubt there is at the start, the more of the floor holds."""
    memory[at + COMPLETED] += 1.0
    memory[at + IN_A_ROW] = 0.0
    if memory[at + HELD] != 0.0:
        floor = least_margin(memory, at, evicted_share, paced)
        lower = memory[at + MARGIN] - GAIN * evicted_share
        memory[at + MARGIN] = max(lower, min(memory[at + MARGIN], floor))
        memory[at + HELD] = 0.0
        left = doubt(memory, at)
        if left > 0.0:
            memory[at + MARGIN] = max(memory[at + MARGIN], (1.0 - left) * floor)


@kernel
def note_eviction(memory, at):
    """Raise the margin."""
    memory[at + EVICTED] += 1.0
    memory[at + IN_A_ROW] += 1.0
    left = doubt(memory, at)
    rise, most = GAIN, MAX_MARGIN
    if left > 0.0:
        rise, most = GAIN * (1.0 + IN_A_ROW_GAIN * left * memory[at + IN_A_ROW]), FIRST_MARGIN
    memory[at + MARGIN] = max(memory[at + MARGIN], min(most, memory[at + MARGIN] + rise))


@kernel
def note_return(memory, at, computed_share):
    """Learn what an eviction costs from the share of its tokens that an evicted request finds again."""
    memory[at + RECOMPUTED] += 0.05 * (1.0 - computed_share - memory[at + RECOMPUTED])
