"""The decode group: residents at the front of the running order that all get one token in every iteration.

Nothing happens to one of them until it ends, is evicted, or the group is dissolved. So none is looked at: a tick of the
group is one step of a counter, and what has become of a member follows from it. One that had g tokens when it joined at
tick t has g - t + tick tokens now. It ends at a known tick (a heap), and needs a KV block when its tokens pass a
multiple of the block size (a counter for each residue). Its longest silence is the longest tick since it joined: the
ticks that no later one reached are kept, in falling order, and searched when it leaves.

Residents behind the group in the running order (prompts in chunks, and what came after them) are walked one by one.
"""

from __future__ import annotations

from fluidgate.arrays import NONE
from fluidgate.engine.ending_heap import add_ending, remove_ending
from fluidgate.engine.layout import TOKEN
from fluidgate.kernel import inlined_kernel, kernel

WALKED_ITERATIONS = 16
"""How long no group forms after one was dissolved: a policy that pauses residents soon pauses them again."""


@inlined_kernel
def _residue(state, row, joined):
    """A member needs a block at tick t if its residue plus t is a multiple of the block size."""
    return (state.prompt_tokens[row] + joined - 1) % state.setting[0].block_size


@inlined_kernel
def members_in_need(state):
    """How many members need a block at the next tick."""
    return state.residues[state.run[0].residue]


@inlined_kernel
def tick(state):
    """Count one token more for every member."""
    run = state.run[0]
    run.tick += 1
    run.residue = (run.residue if run.residue > 0 else state.setting[0].block_size) - 1
    run.group_kv += run.ticked


@inlined_kernel
def needs_block(state, row):
    """Whether a member needs a block at the next tick."""
    joined = state.seats[state.rows[row].slot].joined
    return _residue(state, row, joined) == state.run[0].residue


@inlined_kernel
def gather_decodes(state):
    """Let the walked residents at the front join, as far as the batch just launched gives each a token."""
    run = state.run[0]
    if state.setting[0].grouping == 0 or run.iteration < run.walk_until:
        return
    while run.first_walked < run.ordered:
        row = state.running[run.first_walked]
        seat = state.seats[state.rows[row].slot]
        if seat.steady_at != run.launched or state.generated[row] == state.output_tokens[row]:
            break
        _join(state, row)


@inlined_kernel
def _join(state, row):
    slot, at = state.rows[row].slot, state.run[0].tick
    joined = state.generated[row] - at
    state.seats[slot].joined = joined
    state.seats[slot].since = at
    state.seats[slot].end = state.output_tokens[row] - joined
    state.seats[slot].place = state.run[0].first_walked
    state.residues[_residue(state, row, joined)] += 1
    state.run[0].group_kv += state.computed[row]
    state.run[0].first_walked += 1
    add_ending(state.run[0], state.seats, state.ending, slot)


@inlined_kernel
def is_member(state, row):
    """Whether a resident belongs to the group."""
    return state.seats[state.rows[row].slot].heap_place != NONE


@inlined_kernel
def _refresh(state, row):
    state.generated[row] = state.seats[state.rows[row].slot].joined + state.run[0].tick
    state.computed[row] = state.prompt_tokens[row] + state.generated[row] - 1


@inlined_kernel
def refresh_member(state, row):
    """Write out what has become of a request, if it is a member."""
    if state.rows[row].slot != NONE and is_member(state, row):
        _refresh(state, row)


@inlined_kernel
def _drop(state, row):
    """Take a member out of the group's counts, with what has become of it."""
    slot, size = state.rows[row].slot, state.setting[0].block_size
    _refresh(state, row)
    state.rows[row].blocks = (state.computed[row] + size - 1) // size
    state.residues[_residue(state, row, state.seats[slot].joined)] -= 1
    state.run[0].group_kv -= state.computed[row]
    remove_ending(state.run[0], state.seats, state.ending, slot)


@inlined_kernel
def retire_members(state):
    """Take the members out whose last tokens the latest tick gives. They keep their seats until those tokens land."""
    run = state.run[0]
    while run.decodes > 0 and state.seats[state.ending[0]].end == run.tick:
        seat = state.seats[state.ending[0]]
        _drop(state, seat.row)
        state.rows[seat.row].settled = state.computed[seat.row] - 1
        state.retired[run.retired].row = seat.row
        state.retired[run.retired].since = seat.since
        run.retired += 1


@kernel
def leave_group(state, row):
    """Make a member a resident like any other; a token of the group that is in flight for it becomes its own."""
    run, slots = state.run[0], len(state.free_slots)
    since = state.seats[state.rows[row].slot].since
    _drop(state, row)
    if since == run.tick:
        return
    flying = (run.launched - 1) % 2
    flight, request = state.flights[flying], state.rows[row]
    request.in_flight = 0
    if run.flying > 0:
        entry = state.batch[flying * slots + flight.scheduled]
        entry.row, entry.tokens, entry.gives, entry.number = row, 1, TOKEN, state.generated[row]
        flight.scheduled += 1
        flight.ticked -= 1
        request.in_flight = 1
        request.computing += 1
    request.settled = state.computed[row] - request.in_flight
    state.last_token_s[row] = run.last_tick_s
    state.longest_gap_s[row] = max(state.longest_gap_s[row], longest_tick_s(state, since))


@kernel
def close_ranks(state):
    """Close the empty places in the running order."""
    run = state.run[0]
    kept = 0
    for place in range(run.ordered):
        row = state.running[place]
        if row != NONE:
            state.running[kept] = row
            state.seats[state.rows[row].slot].place = kept
            kept += 1
    run.first_walked -= run.empty_places
    run.ordered = kept
    run.empty_places = 0


@kernel
def show_members(state):
    """Write out what has become of the members, for who looks at residents: the columns and the running order."""
    if state.run[0].empty_places > 0:
        close_ranks(state)
    for place in range(state.run[0].first_walked):
        row = state.running[place]
        if is_member(state, row):
            _refresh(state, row)


@kernel
def dissolve_group(state):
    """Let all members be walked for a while."""
    run = state.run[0]
    close_ranks(state)
    for place in range(run.first_walked):
        if is_member(state, state.running[place]):
            leave_group(state, state.running[place])
    run.first_walked = 0
    run.walk_until = run.iteration + WALKED_ITERATIONS


@inlined_kernel
def drop_finished(state):
    """Take the walked residents without a slot out of the running order."""
    run = state.run[0]
    kept = run.first_walked
    for i in range(kept, run.ordered):
        row = state.running[i]
        if state.rows[row].slot != NONE:
            state.running[kept] = row
            kept += 1
    run.ordered = kept


# The ticks that no later one reached, in falling order of their length.


@inlined_kernel
def note_tick(state, number, seconds):
    """Remember how long a tick took, from one token of the members to the next."""
    run = state.run[0]
    count = run.peaks
    while count > 0 and state.peaks[count - 1].seconds <= seconds:
        count -= 1
    if count == len(state.peaks):
        count = _forget_unneeded(state)
    state.peaks[count].seconds = seconds
    state.peaks[count].tick = number
    run.peaks = count + 1


@inlined_kernel
def _first_after(state, number):
    """Place of the first remembered tick after the one of that number."""
    low, high = 0, state.run[0].peaks
    while low < high:
        middle = (low + high) // 2
        if state.peaks[middle].tick > number:
            high = middle
        else:
            low = middle + 1
    return low


@kernel
def longest_tick_s(state, since):
    """The longest tick that has landed after the one numbered `since`; 0 if none has."""
    place = _first_after(state, since)
    return state.peaks[place].seconds if place < state.run[0].peaks else 0.0


@kernel
def _forget_unneeded(state):
    """Keep the ticks that someone asks for; returns how many. There is room for twice as many as there are seats."""
    run = state.run[0]
    for i in range(run.peaks):
        state.peaks[i].needed = 0
    for i in range(run.decodes + run.retired):
        since = state.seats[state.ending[i]].since if i < run.decodes else state.retired[i - run.decodes].since
        place = _first_after(state, since)
        if place < run.peaks:
            state.peaks[place].needed = 1
    kept = 0
    for i in range(run.peaks):
        if state.peaks[i].needed != 0:
            state.peaks[kept].seconds = state.peaks[i].seconds
            state.peaks[kept].tick = state.peaks[i].tick
            kept += 1
    return kept
