"""How long clients wait, learned from the ages at which they give up: until the first token, and from then on.

Kaplan and Meier's estimate on cells of age, each 12% wider than the one before: the hazard of a cell is those who left
in it ÷ those who were there. Who got a token, ended, was shed, or is still here, would have left later; who streams
counts from the age of its first token on (delayed entry). Within a cell all leave at their mean age, so that a timeout
which all clients share is found exactly.

The state is a stretch of the policy's memory that begins at index `at`: first the law until the first token, then the
one from there on.
"""

from __future__ import annotations

import numpy as np

from fluidgate.kernel import kernel
from fluidgate.policies.protocol import ABORTED, ARRIVED, FINISHED, FIRST_TOKEN, SHED

CELLS, FIRST_S, WIDENING = 96, 0.1, 1.12
"""The first cell ends at 0.1 s, the last but one at 80 minutes; the last is open."""

_LEFT, _AGES, _ENDED, _BEGAN, _HERE, _STAY = (k * CELLS for k in range(6))
"""By cell: those who gave up in it, the sum of their ages, those who ended otherwise, those who were first seen in it,
those who are of this age now; and the share that stays beyond it."""
_SIZE = 6 * CELLS
PATIENCE_SIZE = 2 * _SIZE

FEWEST_LEFT = 8.0
"""Clients that must have left before a law is told from them."""

REMEMBERED = 8192.0
"""Requests after which what was seen counts half."""

GONE = 0.02
"""The share that stays where patience counts as over."""


@kernel
def _cell(age_s):
    if age_s <= FIRST_S:
        return 0
    return min(CELLS - 1, 1 + int(np.log(age_s / FIRST_S) / np.log(WIDENING)))


@kernel
def note_patience(memory, at, event):
    """Learn from an event."""
    age_s = max(0.0, event.now_s - event.arrival_s)
    cell, law = _cell(age_s), at if event.generated_tokens == 0 else at + _SIZE
    if event.kind == ARRIVED:
        memory[at + _BEGAN] += 1.0
    elif event.kind == FIRST_TOKEN:
        memory[at + _ENDED + cell] += 1.0
        memory[at + _SIZE + _BEGAN + cell] += 1.0
    elif event.kind == ABORTED:
        memory[law + _LEFT + cell] += 1.0
        memory[law + _AGES + cell] += age_s
    elif event.kind == FINISHED or event.kind == SHED:
        memory[law + _ENDED + cell] += 1.0


@kernel
def _count_present(memory, at, view):
    """Count who is here now, by age."""
    for law in (at, at + _SIZE):
        for j in range(CELLS):
            memory[law + _HERE + j] = 0.0
    for row in view.residents:
        law = at if view.generated_tokens[row] == 0 else at + _SIZE
        memory[law + _HERE + _cell(view.now_s - view.arrival_s[row])] += 1.0
    for head in view.waiting_head:
        row = head
        while row >= 0:
            law = at if view.generated_tokens[row] == 0 else at + _SIZE
            memory[law + _HERE + _cell(view.now_s - view.arrival_s[row])] += 1.0
            row = view.next_waiting[row]


@kernel
def learn_patience(memory, at, view):
    """Estimate both laws; returns whether clients are known to leave."""
    if memory[at + _BEGAN] > REMEMBERED:
        for k in range(PATIENCE_SIZE):
            memory[at + k] *= 0.5
    _count_present(memory, at, view)
    left = 0.0
    for law in (at, at + _SIZE):
        there, stay = 0.0, 1.0
        for j in range(CELLS):
            there += memory[law + _BEGAN + j]
            gone = memory[law + _LEFT + j]
            stay *= 1.0 - min(1.0, gone / there) if there > 0.0 else 1.0
            there = max(0.0, there - gone - memory[law + _ENDED + j] - memory[law + _HERE + j])
            memory[law + _STAY + j] = stay
            left += gone
    return left >= FEWEST_LEFT


@kernel
def stays(memory, at, streams, age_s):
    """The share of clients that is still there at an age; `streams`: of those that have had a token."""
    law, cell = at + _SIZE if streams else at, _cell(age_s)
    gone = memory[law + _LEFT + cell]
    if gone > 0.0 and age_s >= memory[law + _AGES + cell] / gone:
        return memory[law + _STAY + cell]
    return memory[law + _STAY + cell - 1] if cell > 0 else 1.0


@kernel
def patience_ends_s(memory, at):
    """The age at which hardly anyone is still there, by either law, seconds; that of the last who left, if none."""
    ends_s = 0.0
    for law in (at, at + _SIZE):
        last_s = 0.0
        for j in range(CELLS):
            gone = memory[law + _LEFT + j]
            if gone > 0.0:
                last_s = memory[law + _AGES + j] / gone
            if memory[law + _STAY + j] <= GONE:
                break
        ends_s = max(ends_s, last_s)
    return ends_s
