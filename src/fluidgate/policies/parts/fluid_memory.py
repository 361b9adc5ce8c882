"""Where `fluid` keeps what it knows: its parameters in `params`, and in `memory` what it learns."""

from __future__ import annotations

from fluidgate.fluid.stability import COHERENT
from fluidgate.kernel import kernel
from fluidgate.policies.parts.forecast import FORECAST_SIZE
from fluidgate.policies.parts.length_law import LAW_SIZE, TIMES
from fluidgate.policies.parts.margin import MARGIN_SIZE, doubt
from fluidgate.policies.parts.residents import law_of

# params: [evicted_share, laws, share of law 1.., laws, prompt of law 1.., ..., drop_residents]
EVICTED_SHARE, LAWS, SHARES = range(3)
DROP_RESIDENTS = -1

# memory: a header, the margin's loop, the grid of times, two forecasts, and per class its law and place in the queue
(
    READY,
    COMPLETIONS,  # since the laws were estimated
    ESTIMATED,  # the iteration in which they were
    UNTESTED,  # completions since the coherence was computed
    COHERENCE,
    PACE,  # x*, admissions per iteration
    ITERATION,  # of the last decision
    REFUSED,  # row that did not fit and cannot fit before a resident leaves
    CLOSED,  # whether the last decision found no room for some who wait
    LOOP,
) = range(10)
GRID = LOOP + MARGIN_SIZE
OF_RESIDENTS = GRID + TIMES
TRIAL = OF_RESIDENTS + FORECAST_SIZE
CLASSES = TRIAL + FORECAST_SIZE
CREDIT, CURSOR, ENTERING = LAW_SIZE, LAW_SIZE + 1, LAW_SIZE + 2
CLASS_SIZE = LAW_SIZE + 3


@kernel
def law_at(params, class_id):
    """Where the law of a class begins; labels that the plan did not know share the last one."""
    return law_of(class_id, CLASSES, int(params[LAWS]), CLASS_SIZE)


@kernel
def in_time_at(params):
    """Where what is learned about deadlines begins, behind the laws."""
    return CLASSES + int(params[LAWS]) * CLASS_SIZE


@kernel
def stands(memory):
    """Whether who is refused stays so until something changes: no credits accrue, no start is learned from."""
    return memory[COHERENCE] < COHERENT and doubt(memory, LOOP) <= 0.0
