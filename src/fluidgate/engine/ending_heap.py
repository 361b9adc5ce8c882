"""The members of the decode group by the tick at which they end; those of one tick in running order. A binary heap."""

from __future__ import annotations

from fluidgate.arrays import NONE
from fluidgate.kernel import inlined_kernel, kernel


@inlined_kernel
def _ends_before(seats, slot, other):
    end, other_end = seats[slot].end, seats[other].end
    return end < other_end or (end == other_end and seats[slot].place < seats[other].place)


@inlined_kernel
def _put(seats, ending, i, slot):
    ending[i] = slot
    seats[slot].heap_place = i


@inlined_kernel
def _rise(seats, ending, i, slot):
    """Put `slot` at or above i."""
    while i > 0 and _ends_before(seats, slot, ending[(i - 1) // 2]):
        _put(seats, ending, i, ending[(i - 1) // 2])
        i = (i - 1) // 2
    _put(seats, ending, i, slot)


@kernel
def add_ending(run, seats, ending, slot):
    """Add a member, whose `seat_end` and `seat_place` are set."""
    last = run.decodes
    run.decodes = last + 1
    _rise(seats, ending, last, slot)


@kernel
def remove_ending(run, seats, ending, slot):
    """Remove a member."""
    last = run.decodes - 1
    run.decodes = last
    i = seats[slot].heap_place
    seats[slot].heap_place = NONE
    moved = ending[last]
    if moved == slot:
        return
    below = 2 * i + 1
    while below < last:
        if below + 1 < last and _ends_before(seats, ending[below + 1], ending[below]):
            below += 1
        if not _ends_before(seats, ending[below], moved):
            break
        _put(seats, ending, i, ending[below])
        i = below
        below = 2 * i + 1
    _rise(seats, ending, i, moved)
