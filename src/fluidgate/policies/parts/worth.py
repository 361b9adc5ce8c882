"""What starting a request is worth: its chance to end before its client leaves, over what it takes until then."""

from __future__ import annotations

from fluidgate.kernel import kernel
from fluidgate.policies.parts.length_law import PROMPT, survival

POINTS = 64
"""Values of k, evenly up to the client's patience, at which sums over a request's iterations are taken."""

KEPT_WORTH = 0.98
"""A request is worth starting as long as it has so much of the worth that it had when it came. With less, the queue
may be longer and leaves the engine idle less often, and more of what is started is served for nothing."""


@kernel
def one_step_more(memory, law, step, i, output, moment):
    """With i steps left before its client leaves, where `output` and `moment` are those of a request with i - 1.

    Its chance to end in time, the iterations that it takes, and the tokens that it has generated, summed over them.
    """
    before, after = survival(memory, law, (i - 1) * step), survival(memory, law, i * step)
    more = 0.5 * (before + after) * step
    return 1.0 - after, output + more, moment + more * (i - 0.5) * step


@kernel
def worth_it_from(memory, law, view, token, step, enough):
    """The iterations left from which on a request is always worth that much."""
    output, moment, need = 0.0, 0.0, 1
    for i in range(1, POINTS):
        chance, output, moment = one_step_more(memory, law, step, i, output, moment)
        if chance < enough * taken(view, token, memory[law + PROMPT], output, moment):
            need = i + 1
    return need * step


@kernel
def taken(view, token, prompt, output, moment):
    """Iterations of the engine that a request takes, of memory, seats and time together; a token takes `token`.

    The limits bind in turn as the mix of what is served changes, so each counts; the largest share alone would tell no
    prompts apart where the seats bind.
    """
    kv = (prompt * output + moment) / (view.total_blocks * view.block_size)
    return kv + output / view.max_num_seqs + token * (prompt + output)
