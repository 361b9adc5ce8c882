"""The costliest of a stream of requests: as many as `shed` can name in one call, in order of cost.

The state is a stretch of the policy's memory that begins at index `at`: how many are kept, their rows, their costs.
"""

from __future__ import annotations

from fluidgate.kernel import kernel
from fluidgate.policies.protocol import SHED_AT_ONCE

_ROWS, _COSTS, COSTLIEST_SIZE = 1, 1 + SHED_AT_ONCE, 1 + 2 * SHED_AT_ONCE


@kernel
def keep_costly(memory, at, row, taken):
    """Keep a request if it is among the costliest; of equals the latest."""
    kept = int(memory[at])
    rows, costs = at + _ROWS, at + _COSTS
    if kept == SHED_AT_ONCE:
        if taken < memory[costs]:
            return
        first = 1
        while first < kept and memory[costs + first] <= taken:
            memory[rows + first - 1], memory[costs + first - 1] = memory[rows + first], memory[costs + first]
            first += 1
        memory[rows + first - 1], memory[costs + first - 1] = row, taken
        return
    place = kept
    while place > 0 and memory[costs + place - 1] > taken:
        memory[rows + place], memory[costs + place] = memory[rows + place - 1], memory[costs + place - 1]
        place -= 1
    memory[rows + place], memory[costs + place] = row, taken
    memory[at] = kept + 1


@kernel
def take_costliest(memory, at):
    """The row of the costliest, the latest of equals; -1: none is left. It is kept no longer."""
    if memory[at] == 0.0:
        return -1
    memory[at] -= 1.0
    return int(memory[at + _ROWS + int(memory[at])])
