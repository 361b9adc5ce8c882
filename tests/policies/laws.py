"""Laws of output lengths for tests: taught by hand, their kernels uncompiled."""

import numpy as np
from numpy.typing import NDArray

from fluidgate.kernel import interpreted
from fluidgate.policies.parts import length_law
from fluidgate.policies.parts.length_law import CELLS, PRIOR, PRIOR_WEIGHT, SURVIVAL, TIMES, WIDTH, new_law

Floats = NDArray[np.float64]
Lengths = NDArray[np.int64] | list[int]

count_completion = interpreted(length_law.count_completion)
count_departure = interpreted(length_law.count_departure)
count_resident = interpreted(length_law.count_resident)
cover = interpreted(length_law.cover)
estimate = interpreted(length_law.estimate)
fade = interpreted(length_law.fade)
_horizon = interpreted(length_law.horizon)
survival = interpreted(length_law.survival)
start_count = interpreted(length_law.start_count)
start_table = interpreted(length_law.start_table)
table_row = interpreted(length_law.table_row)

QUANTILES = (20.0, 60.0, 100.0)
"""Of the prior of most laws here."""


def learned(completions: Lengths, residents: list[int], *quantiles: float) -> Floats:
    """A law that has seen completions (outputs) and residents (ages), prompts of 10 tokens."""
    law = new_law(1.0, 10.0, np.array(quantiles))
    for output in completions:
        count_completion(law, 0, 10, int(output))
    observe_residents(law, residents)
    return law


def observe_residents(law: Floats, ages: list[int], *, keep: float = 1.0) -> None:
    """Count the residents, estimate, and let what was seen fade."""
    start_count(law, 0)
    for age in ages:
        cover(law, 0, age + 1)
    for age in ages:
        count_resident(law, 0, age)
    estimate(law, 0, 0.0)
    fade(law, 0, keep)


def horizon(law: Floats, at: int, capacity_tokens: float = np.inf) -> float:
    """Tokens that next to nobody generates, where memory holds so many."""
    return float(_horizon(law, at, capacity_tokens))


def chances(memory: Floats, at: int, age: int) -> Floats:
    """Whether a request of an age still runs, by time, as the table says."""
    row = table_row(memory, at, age)
    return memory[row : row + TIMES].copy()


def table_of(memory: Floats, at: int, grid: int) -> Floats:
    """A new table for the times at `grid`, all of its rows filled; by cell of age and time."""
    start_table(memory, at, grid)
    return np.array([chances(memory, at, cell * memory[at + WIDTH]) for cell in range(CELLS)])


def survival_of(law: Floats) -> Floats:
    """P(output > tokens) at the edges of the cells."""
    return law[SURVIVAL : SURVIVAL + CELLS + 1]


def prior_of(law: Floats) -> Floats:
    """The prior at the edges of the cells."""
    return law[PRIOR : PRIOR + CELLS + 1]


def prior_weight(completions: int) -> float:
    """What the prior still counts for, in completions: half of it after as many real ones."""
    return PRIOR_WEIGHT / (1 + completions / PRIOR_WEIGHT)


def share_above(lengths: Lengths, tokens: Floats) -> Floats:
    """The share of lengths above each number of tokens."""
    return (np.array(lengths)[:, None] > tokens).mean(axis=0)
