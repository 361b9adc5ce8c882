"""What is seen of requests from outside of an engine: the tokens that have come."""

from __future__ import annotations

from fluidgate.arrays import NONE
from fluidgate.engine.decode_group import is_member
from fluidgate.kernel import entry_kernel


@entry_kernel
def look_at(state, rows, time_s, tokens):
    """Write the tokens that each of `rows` is seen to have at a time, -1 for one that has ended.

    Returns the fewest tokens that any of the others still gets. A token of a batch in flight is not seen.
    """
    run, fewest = state.run[0], 1 << 40
    late = 1 if run.now_s > time_s or run.flying > 0 else 0
    for i in range(len(rows)):
        row = rows[i]
        request, seen = state.rows[row], state.generated[row]
        if request.slot == NONE:
            if seen == state.output_tokens[row] and state.last_token_s[row] <= time_s:
                tokens[i] = -1
                continue
        elif is_member(state, row):
            seen = state.seats[request.slot].joined + run.tick - late
        else:
            seen -= max(late, request.in_flight)
        tokens[i] = max(0, seen)
        fewest = min(fewest, state.output_tokens[row] - tokens[i])
    return fewest
