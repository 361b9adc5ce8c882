"""What a policy learns about output lengths: the survival function of a class, from completions and from residents.

Kaplan and Meier's estimate on cells of equal width: the hazard of a cell is its completions ÷ the requests that reached
it in the same time. Those are the ones that completed or left there or beyond, and by how many more residents are that
old now than before. Without residents, and without those whose clients leave, lengths would look shorter than they are.
The past fades, and a prior stands in for what has not been seen. A table of conditional survival then says how likely a
request of a given age still runs at each time of a look-ahead grid. Its rows are filled as they are asked for: few ages
occur between two estimates.

Compiled code cannot hold objects: a law is a stretch of the policy's memory that begins at index `law`.
"""

from __future__ import annotations

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.kernel import inlined_kernel, kernel

CELLS = 512
TIMES = 24
"""Cells of output length, and times of the look-ahead grid."""

WIDTH, SHARE, PROMPT, OUTPUT, OUTPUT_SPREAD, MEMORY, SEEN, WEIGHT, SCALE, PER_TOKEN = range(10)
"""Tokens per cell; the class's share of requests; mean prompt; mean and standard deviation of output; mean
KV-token-iterations of a request; completions seen; completions that the prior counts for at first; where nothing was
known, the median of the law that stands in for a prior (else 0), tokens; cells per token of the last estimate."""
DEATHS = 10
PRIOR = DEATHS + CELLS
RESIDENTS = PRIOR + CELLS + 1  # ages of the residents at the last estimate
GAINED = RESIDENTS + CELLS  # residents now, less those before, of each age
REACHED = GAINED + CELLS
SURVIVAL = REACHED + CELLS
AHEAD = SURVIVAL + CELLS + 1  # by time: whole cells from the beginning of an age's cell to where its middle is then
PART = AHEAD + TIMES  # and the part of a cell beyond them
FILLED = PART + TIMES  # by cell: whether its row of the table is filled
ALIVE = FILLED + CELLS  # the table, by cell and time: whether a request of the cell's age still runs then
LAW_SIZE = ALIVE + CELLS * TIMES

PRIOR_WEIGHT, UNKNOWN_WEIGHT = 20.0, 1.0
"""Completions that a prior counts for at first, and that its absence does; half as much after as many real ones."""

MEANS_WINDOW = 1000.0
"""Requests over which means are taken, exponentially weighted."""

UNKNOWN_SHARE, UNKNOWN_MEDIAN_TOKENS = 0.02, 512.0
"""How much of the prior is the uninformed law, P(output > x) = 1/(1 + x/median): a request runs as long again as it has
run. Nothing is then impossible, however long it runs. Where there is no other prior the median
follows what is seen, tokens generated ÷ completions, after counting as one completion at first."""

UNKNOWN_HORIZON = 8.0
"""Medians that the look-ahead spans where no request has run that long yet: one in nine runs longer."""

MIN_SURVIVAL = 1e-6
HORIZON_SURVIVAL = 0.005


def new_law(share: float, prompt_tokens: float, output_quantiles: FloatArray) -> FloatArray:
    """A law that knows only its prior, shape (LAW_SIZE,).

    Args:
        share: the class's share of the requests.
        prompt_tokens: the class's mean prompt.
        output_quantiles: middles of equal shares of the class's output lengths; empty: no prior.
    """
    law = np.zeros(LAW_SIZE)
    longest = output_quantiles.max() if len(output_quantiles) else 1.0
    law[WIDTH] = 2.0 ** max(0.0, np.ceil(np.log2(1.5 * longest / CELLS)))
    law[WEIGHT] = PRIOR_WEIGHT if len(output_quantiles) else UNKNOWN_WEIGHT
    law[SCALE] = 0.0 if len(output_quantiles) else UNKNOWN_MEDIAN_TOKENS
    edges = law[WIDTH] * np.arange(CELLS + 1)
    median = np.median(output_quantiles) if len(output_quantiles) else UNKNOWN_MEDIAN_TOKENS
    prior = 1.0 / (1.0 + edges / median)
    if len(output_quantiles):
        from_quantiles = 1.0 - np.searchsorted(np.sort(output_quantiles), edges, side="right") / len(output_quantiles)
        prior = UNKNOWN_SHARE * prior + (1.0 - UNKNOWN_SHARE) * from_quantiles
    prior[0] = 1.0
    law[SHARE], law[PROMPT], law[PER_TOKEN] = share, prompt_tokens, 1.0 / law[WIDTH]
    law[PRIOR : PRIOR + CELLS + 1] = prior
    return law


@kernel
def cell_of(memory, law, tokens):
    """The cell of an age or a length; the last one is open."""
    return min(CELLS - 1, int(tokens / memory[law + WIDTH]))


@kernel
def survival(memory, law, tokens):
    """P(output > tokens), by the last estimate."""
    place = tokens * memory[law + PER_TOKEN]
    return _survival_at(memory, law, int(place), place - int(place))


@inlined_kernel
def _survival_at(memory, law, j, part):
    """Survival past j cells of the estimate and part of one: linear within a cell, and as long again past the last."""
    if j >= CELLS:
        scale = memory[law + SCALE] * memory[law + PER_TOKEN]
        return max(MIN_SURVIVAL, memory[law + SURVIVAL + CELLS]) * (CELLS + scale) / (j + part + scale)
    before = memory[law + SURVIVAL + j]
    return max(MIN_SURVIVAL, before + (memory[law + SURVIVAL + j + 1] - before) * part)


@kernel
def cover(memory, law, tokens):
    """Widen the cells until a length fits. The survival function and its table keep theirs until the next estimate."""
    while tokens > CELLS * memory[law + WIDTH]:
        _double_width(memory, law)


@kernel
def _double_width(memory, law):
    half = CELLS // 2
    for counts in (law + DEATHS, law + RESIDENTS, law + GAINED):
        for j in range(CELLS):
            memory[counts + j] = memory[counts + 2 * j] + memory[counts + 2 * j + 1] if j < half else 0.0
    for j in range(CELLS + 1):
        last = memory[law + PRIOR + half]  # right when it is needed: cells are filled from the front
        memory[law + PRIOR + j] = memory[law + PRIOR + 2 * j] if j <= half else last * half / j
    memory[law + WIDTH] *= 2.0


@kernel
def count_completion(memory, law, prompt_tokens, output_tokens):
    """Learn from a finished request."""
    cover(memory, law, output_tokens)
    memory[law + DEATHS + cell_of(memory, law, output_tokens - 1)] += 1.0
    memory[law + SEEN] += 1.0
    weight = 1.0 / min(MEANS_WINDOW, memory[law + WEIGHT] + memory[law + SEEN])
    memory[law + PROMPT] += weight * (prompt_tokens - memory[law + PROMPT])


@kernel
def start_count(memory, law):
    """Start a new count of the residents: `start_count`, `count_resident` for each, `estimate`, `fade`."""
    for j in range(CELLS):
        memory[law + GAINED + j] -= memory[law + RESIDENTS + j]
        memory[law + RESIDENTS + j] = 0.0


@kernel
def count_resident(memory, law, age_tokens):
    """A resident has reached its age."""
    memory[law + RESIDENTS + cell_of(memory, law, age_tokens)] += 1.0


@kernel
def count_departure(memory, law, age_tokens):
    """A request has reached its age and is gone without having ended. The mean prompt stays that of completions."""
    cover(memory, law, age_tokens + 1)
    memory[law + GAINED + cell_of(memory, law, age_tokens)] += 1.0


@kernel
def fade(memory, law, share):
    """Let what has been seen so far count `share` of what it did."""
    for j in range(CELLS):
        memory[law + DEATHS + j] *= share
        memory[law + GAINED + j] *= share


@kernel
def _rescale(memory, law):
    """Let the uninformed law take its median from what has been seen."""
    width = memory[law + WIDTH]
    generated, ended = memory[law + WEIGHT] * UNKNOWN_MEDIAN_TOKENS, memory[law + WEIGHT]
    for j in range(CELLS):
        generated += width * memory[law + REACHED + j]
        ended += memory[law + DEATHS + j]
    memory[law + SCALE] = generated / ended
    for j in range(CELLS + 1):
        memory[law + PRIOR + j] = 1.0 / (1.0 + j * width / memory[law + SCALE])


@kernel
def estimate(memory, law, rounding_tokens):
    """The survival function, and the means that follow from it.

    With l the mean prompt, E[a] = sum over x of (l + x) P(output > x): KV memory summed over the iterations. Once
    enough has been seen the means leave out lengths that no request has reached: there is only the prior there.
    """
    prior_weight = memory[law + WEIGHT] / (1.0 + memory[law + SEEN] / memory[law + WEIGHT])
    reached = 0.0
    for j in range(CELLS - 1, -1, -1):
        memory[law + GAINED + j] += memory[law + RESIDENTS + j]
        gained = memory[law + GAINED + j]
        reached += gained + memory[law + DEATHS + j]
        # On average a resident has passed half of its cell. Evicted requests are not counted, so it may be low.
        memory[law + REACHED + j] = max(memory[law + DEATHS + j], reached - 0.5 * gained)
    if memory[law + SCALE] > 0.0:
        _rescale(memory, law)
    width = memory[law + WIDTH]
    held = memory[law + PROMPT] + rounding_tokens
    alive, output, output_squared, kv = 1.0, 0.0, 0.0, 0.0
    memory[law + PER_TOKEN] = 1.0 / width
    for j in range(CELLS):
        prior = memory[law + PRIOR + j]
        at_risk = memory[law + REACHED + j] + prior_weight * prior
        deaths = memory[law + DEATHS + j] + prior_weight * (prior - memory[law + PRIOR + j + 1])
        memory[law + SURVIVAL + j] = alive
        after = alive * (1.0 - min(1.0, deaths / at_risk)) if at_risk > 0.0 else 0.0
        if memory[law + SEEN] < memory[law + WEIGHT] or memory[law + REACHED + j] > 0.0:
            tokens = 0.5 * (alive * (width + 1.0) + after * (width - 1.0))  # a sum over whole tokens
            middle = (j + 0.5) * width - 0.5
            output += tokens
            output_squared += (2.0 * middle + 1.0) * tokens
            kv += (held + middle) * tokens
        alive = after
    memory[law + SURVIVAL + CELLS] = alive
    memory[law + OUTPUT] = output
    memory[law + OUTPUT_SPREAD] = np.sqrt(max(0.0, output_squared - output * output))
    memory[law + MEMORY] = kv


@kernel
def horizon(memory, law, capacity_tokens):
    """An output length that hardly any request exceeds; none can exceed what memory holds."""
    j = 1
    while j < CELLS and memory[law + SURVIVAL + j] > HORIZON_SURVIVAL:
        j += 1
    if j == CELLS and memory[law + SCALE] > 0.0:
        return min(capacity_tokens, max(j * memory[law + WIDTH], UNKNOWN_HORIZON * memory[law + SCALE]))
    return j * memory[law + WIDTH]


@kernel
def start_table(memory, law, grid):
    """Empty the table of conditional survival: the estimate or the times at `memory[grid : grid + TIMES]` are new."""
    for k in range(TIMES):
        ahead = 0.5 + memory[grid + k] * memory[law + PER_TOKEN]
        memory[law + AHEAD + k] = np.floor(ahead)
        memory[law + PART + k] = ahead - memory[law + AHEAD + k]
    for j in range(CELLS):
        memory[law + FILLED + j] = 0.0


@inlined_kernel
def table_row(memory, law, age_tokens):
    """Where the table's row of an age begins; the last one is for every greater age."""
    cell = min(CELLS - 1, int(age_tokens * memory[law + PER_TOKEN]))
    if memory[law + FILLED + cell] == 0.0:
        _fill_row(memory, law, cell)
    return law + ALIVE + cell * TIMES


@kernel
def _fill_row(memory, law, cell):
    """Fill a row of the table, for the middle of its cell."""
    row = law + ALIVE + cell * TIMES
    memory[law + FILLED + cell] = 1.0
    per_now = 1.0 / _survival_at(memory, law, cell, 0.5)
    for k in range(TIMES):
        still = _survival_at(memory, law, cell + int(memory[law + AHEAD + k]), memory[law + PART + k])
        memory[row + k] = min(1.0, still * per_now)
