"""Exact look-ahead: does memory suffice in every future iteration, if every request runs to its known end?

A request of prompt l that has generated g of o tokens holds l + g tokens after its next iteration, one more after each
further one, and l + o - 1 in its last. Memory grows between completions, so it binds just before one: the table keeps,
per resident, the iteration it ends in and the blocks that all hold then. Entries stay right from one decision to the
next while every resident advances by a token per iteration, so a decision costs O(residents), and so does a newcomer.

The token budget may spread a prompt over several iterations. How many depends on the prefix cache, so the bound is
one-sided: the request holds what it would without any delay, and ends as late as the prompts before it can make it. The
token budget is taken as it is in mode vllm; a limit on the chunks of one prompt is ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.kernel import kernel
from fluidgate.policies.protocol import Policy

if TYPE_CHECKING:
    from fluidgate.fluid import FluidPlan, Limits

MAX_SEATS = 1e6
"""A table of this many seats takes 48 MB."""

# memory: [entries, then per entry in the residents' order: row, tokens held less the iteration's number, tokens at its
# end, iteration of its end, blocks held by all in that iteration]
_ROW, _OFFSET, _LAST_TOKENS, _END, _PEAK, _COLUMNS = range(6)


def seats_of(limits: Limits) -> float:
    """Most residents that a plan's limits allow: each holds a block at least."""
    return min(limits.seats, limits.kv_tokens // limits.block_size)


@dataclass(frozen=True)
class LookAhead(Policy):
    """Base of the policies that look ahead.

    Attributes:
        seats: most residents that are looked ahead for; no more are admitted.
    """

    seats: float = 1024.0

    needs_output_length = True

    def __post_init__(self) -> None:
        self.require(1 <= self.seats <= MAX_SEATS, f"seats = {self.seats} must be from 1 to {MAX_SEATS:,.0f}")

    def new_memory(self) -> FloatArray:
        """An empty table with an entry per seat, and one to try a newcomer on."""
        return np.zeros(1 + _COLUMNS * (int(self.seats) + 1))

    @classmethod
    def from_plan(cls, plan: FluidPlan, **overrides: Any) -> Self:
        """The engine's own seats, or one per block."""
        return cls(**({"seats": float(seats_of(plan.limits))} | overrides))


@kernel
def _entry(i):
    return 1 + _COLUMNS * i


@kernel
def _blocks(memory, entry, iteration, block_size):
    """KV blocks that an entry's request holds in an iteration."""
    tokens = min(memory[entry + _OFFSET] + iteration, memory[entry + _LAST_TOKENS])
    return np.ceil(tokens / block_size)


@kernel
def _add(memory, i, view):
    """Add entry i to the peaks of the others, and theirs to its own; returns the highest peak it is part of."""
    new = _entry(i)
    end = memory[new + _END]
    memory[new + _PEAK] = 0.0
    if end < view.iteration:
        return 0.0
    peak = _blocks(memory, new, end, view.block_size)
    highest = 0.0
    for k in range(int(memory[0])):
        other = _entry(k)
        other_end = memory[other + _END]
        if k == i or other_end < view.iteration:
            continue
        if other_end <= end:
            memory[other + _PEAK] += _blocks(memory, new, other_end, view.block_size)
            highest = max(highest, memory[other + _PEAK])
        if other_end >= end:
            peak += _blocks(memory, other, end, view.block_size)
    memory[new + _PEAK] = peak
    return max(highest, peak)


@kernel
def _subtract(memory, i, view):
    """Take entry i out of the peaks that are still to come."""
    old = _entry(i)
    for k in range(int(memory[0])):
        other = _entry(k)
        if k != i and view.iteration <= memory[other + _END] <= memory[old + _END]:
            memory[other + _PEAK] -= _blocks(memory, old, memory[other + _END], view.block_size)


@kernel
def _drop_the_departed(memory, view):
    """Keep the entries of those that are still resident; both are in order of admission."""
    i = 0
    for k in range(int(memory[0])):
        if i < len(view.residents) and memory[_entry(k) + _ROW] == view.residents[i]:
            i += 1
        else:
            memory[_entry(k) + _ROW] = -1.0
            _subtract(memory, k, view)  # nothing is left of it, unless it was evicted, not admitted, or done early
    kept = 0
    for k in range(int(memory[0])):
        if memory[_entry(k) + _ROW] >= 0.0:
            for column in range(_COLUMNS):
                memory[_entry(kept) + column] = memory[_entry(k) + column]
            kept += 1
    memory[0] = kept


@kernel
def _delay(view, ahead, decodes, backlog):
    """Most further iterations for the last of `backlog` prompt tokens, `ahead` residents (`decodes` now) first."""
    over = decodes + backlog - view.token_budget
    if over <= 0:
        return 0
    per_iteration = max(1, view.token_budget - ahead)
    return (over + per_iteration - 1) // per_iteration


@kernel
def least_output(output, lower_ends):
    """The length itself, or the lower end of the interval it lies in."""
    if len(lower_ends) == 0:
        return float(output)
    kind = 0
    while kind + 1 < len(lower_ends) and output >= lower_ends[kind + 1]:
        kind += 1
    return lower_ends[kind]


@kernel
def _forecast(memory, i, view, row, lower_ends, decodes, delay):
    """Write entry i: a request that runs to its least end. One that has decoded beyond it may end any time, and is left
    to the engine."""
    entry = _entry(i)
    generated = view.generated_tokens[row]
    least = least_output(view.output_tokens[row], lower_ends)
    memory[entry + _ROW] = row
    if decodes and generated >= least:
        memory[entry + _OFFSET] = 0.0
        memory[entry + _LAST_TOKENS] = 0.0
        memory[entry + _END] = -1.0
    else:
        prompt = view.prompt_tokens[row]
        memory[entry + _OFFSET] = prompt + generated - view.iteration
        memory[entry + _LAST_TOKENS] = prompt + max(least, generated + 1.0) - 1.0
        memory[entry + _END] = memory[entry + _LAST_TOKENS] - memory[entry + _OFFSET] + delay


@kernel
def _correct(memory, i, view):
    """Put the forecast that stands behind the last entry in the place of entry i."""
    spare, entry = _entry(int(memory[0])), _entry(i)
    differs = False
    for column in range(_PEAK):
        differs = differs or memory[entry + column] != memory[spare + column]
    if differs:
        _subtract(memory, i, view)
        for column in range(_PEAK):
            memory[entry + column] = memory[spare + column]
        _add(memory, i, view)


@kernel
def _refresh(memory, view, lower_ends):
    """Bring the table up to the residents; returns (those that decode, prompt tokens that the others lack)."""
    _drop_the_departed(memory, view)
    entries = int(memory[0])
    decodes = 0
    backlog = 0
    for i in range(len(view.residents)):
        row = view.residents[i]
        missing = view.prompt_tokens[row] + view.generated_tokens[row] - view.computed_tokens[row]
        delay = 0
        if missing > 1:
            backlog += missing
            delay = _delay(view, i, decodes, backlog)
        else:
            decodes += 1
        _forecast(memory, int(memory[0]), view, row, lower_ends, missing <= 1, delay)
        if i < entries:
            _correct(memory, i, view)
        else:
            _add(memory, i, view)
            memory[0] += 1
    return decodes, backlog


@kernel
def admissible(memory, view, lower_ends):
    """How many of the waiting may enter, in their order, so that memory suffices until all have ended.

    Counts at most what one iteration's token budget can begin, prefix cache aside. An idle engine takes the first.

    Args:
        lower_ends: rising first lengths of the intervals that lengths are known by; none: lengths are known exactly.
    """
    seats = min(view.max_num_seqs, (len(memory) - 1) // _COLUMNS - 1)
    residents = len(view.residents)
    if residents >= seats:
        return 0
    decodes, backlog = _refresh(memory, view, lower_ends)
    row = view.waiting_head[0]
    count = 0
    while row >= 0 and residents + count < seats and decodes + backlog < view.token_budget:
        backlog += view.prompt_tokens[row] + view.generated_tokens[row]
        delay = _delay(view, residents + count, decodes, backlog)
        _forecast(memory, residents + count, view, row, lower_ends, False, delay)
        if _add(memory, residents + count, view) > view.total_blocks:
            _subtract(memory, residents + count, view)
            break
        memory[0] += 1
        count += 1
        row = view.next_waiting[row]
    return max(count, 1) if residents == 0 else count
