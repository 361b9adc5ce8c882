"""Which requests a policy gives up: the end of a queue, those that would be late, residents without a chance.

Functions write rows into `out_rows` from place `named` on, and return how many are named in all.
"""

from __future__ import annotations

import numpy as np

from fluidgate.kernel import kernel
from fluidgate.policies.parts.blocks import blocks_for
from fluidgate.policies.parts.costliest import keep_costly, take_costliest
from fluidgate.policies.parts.in_time import (
    COSTLIEST,
    cost,
    first_waiting,
    is_given_up_for_others,
    is_hopeless,
    is_short_of_time,
    latest_age_s,
    next_waiting,
    start_s,
)
from fluidgate.policies.parts.residents import law_of


@kernel
def room(view, budget):
    """How many waiting requests find free seats, blocks and a token budget, class by class in their order."""
    seats, blocks, tokens, found = view.max_num_seqs - len(view.residents), view.free_blocks, 0, 0
    for head in view.waiting_head:
        row = head
        while row >= 0 and found < seats and tokens < budget:
            tokens += view.prompt_tokens[row] + view.generated_tokens[row]
            blocks -= blocks_for(view.prompt_tokens[row] + view.generated_tokens[row], view.block_size)
            if blocks < 0:
                return found
            found += 1
            row = view.next_waiting[row]
    return found


@kernel
def room_in_order(memory, at, laws, view):
    """How many waiting requests, the first in order, find free seats and blocks and a place in the next iteration.

    Where hardly anyone has had to wait of late, prompts may take more than one iteration.
    """
    budget = float(view.token_budget) if is_short_of_time(memory, at) else np.inf
    seats, blocks = view.max_num_seqs - len(view.residents), view.free_blocks
    found, tokens, row = 0, len(view.residents), first_waiting(memory, at, laws, view)
    while row >= 0 and found < seats and tokens < budget:
        prompt = view.prompt_tokens[row] + view.generated_tokens[row]
        blocks -= blocks_for(prompt, view.block_size)
        if blocks < 0:
            break
        found += 1
        tokens += prompt
        row = next_waiting(memory, at, laws, view, row)
    return found


@kernel
def name_beyond(view, queue, places, out_rows, named):
    """Name the requests of a queue beyond its first `places`."""
    if view.waiting_count[queue] <= places:
        return named
    row, place = view.waiting_head[queue], 0
    while row >= 0 and named < len(out_rows):
        if place >= places:
            out_rows[named] = row
            named += 1
        place += 1
        row = view.next_waiting[row]
    return named


@kernel
def name_late(memory, at, laws, view, room, pace_s, out_rows, named, all_of_it):
    """Name who would start too late, and say when the next one will have waited too long (s).

    Moore's rule (Management Science 15, 1968): in the order in which clients leave, where a request would be late the
    costliest so far goes, until it is not; one that has waited too long itself goes. `room`
    of those who wait start as fast as prompts are computed, the others as fast as others have started. Without
    `all_of_it` it stops at the first that stays.
    """
    each_s, token_s = start_s(memory, at), pace_s / max(1, view.token_budget - len(view.residents))
    ahead, tokens, next_s = -room, 0, np.inf
    costliest = at + COSTLIEST
    memory[costliest] = 0.0
    row = first_waiting(memory, at, laws, view)
    while row >= 0 and named < len(out_rows):
        prompt = view.prompt_tokens[row] + view.generated_tokens[row]
        age_s = view.now_s - view.arrival_s[row]
        latest_s = latest_age_s(memory, at, laws, view, row, pace_s, ahead < 0)
        goes = row if age_s > latest_s else -1
        if goes < 0 and latest_s < np.inf and is_given_up_for_others(memory, at, laws, view, row):
            keep_costly(memory, costliest, row, cost(memory, at, laws, view, row))
        while goes != row and named < len(out_rows):
            if age_s + max((tokens + prompt) * token_s, ahead * each_s) <= latest_s:
                break
            goes = take_costliest(memory, costliest)
            if goes < 0:
                break
            if goes != row:
                out_rows[named] = goes
                named += 1
                ahead -= 1
                tokens -= view.prompt_tokens[goes]
        if goes == row:
            out_rows[named] = row
            named += 1
        else:
            next_s = min(next_s, view.arrival_s[row] + latest_s)
            if not all_of_it:
                break
            ahead += 1
            tokens += prompt
        row = next_waiting(memory, at, laws, view, row)
    return named, next_s


@kernel
def name_hopeless(memory, at, laws, first_law, law_size, view, pace_s, out_rows, named):
    """Name the residents that have no chance to end in time."""
    for row in view.residents:
        law = law_of(view.class_id[row], first_law, laws, law_size)
        if named < len(out_rows) and is_hopeless(memory, at, laws, law, view, row, pace_s):
            out_rows[named] = row
            named += 1
    return named
