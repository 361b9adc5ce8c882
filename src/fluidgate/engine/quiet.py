"""Iterations in which only the decode group runs and nothing happens to anyone: the loop's work, kept in registers.

Between two events an iteration differs from the one before by its clock, its KV tokens and its blocks; all else in the
loop would find nothing to do. What is computed is what the loop computes, in the same order, to the last bit.
"""

from __future__ import annotations

from fluidgate.engine.arrivals import next_arrival_s
from fluidgate.engine.batch_time import batch_seconds, book_gap
from fluidgate.engine.counted_blocks import take_blocks
from fluidgate.engine.decode_group import members_in_need, note_tick, tick
from fluidgate.engine.layout import LOG_NOTHING
from fluidgate.engine.modes import VLLM
from fluidgate.engine.queue import add_hold_time
from fluidgate.kernel import inlined_kernel


@inlined_kernel
def is_quiet(state):
    """Whether the batch just launched is of the decode group alone, and no request got in or out, or soon will."""
    run, setting = state.run[0], state.setting[0]
    alone = run.ticked > 0 and run.scheduled == 0 and run.victims == 0 and run.ticked == run.running
    alone = alone and not (run.prefills_held and run.waiting > 0)
    return alone and setting.log_level == LOG_NOTHING and (setting.mode != VLLM or run.decodes <= setting.token_budget)


@inlined_kernel
def run_quietly(state, cache, until_s, held):
    """Run the iterations up to the next arrival, completion, or shortage of blocks, or to `until_s`.

    `held`: the policy keeps all who wait out, and would again in each of these iterations.

    With a batch in flight, the group's as well, each iteration launches the next one and lands that one.
    """
    run, setting = state.run[0], state.setting[0]
    decodes, total, flying, spare = run.decodes, setting.total_blocks, run.flying, setting.spare_block
    stop_s = min(until_s, next_arrival_s(state))
    last = state.seats[state.ending[0]].end - 1
    now, busy_until = run.now_s, run.busy_until_s
    busy, block_seconds, nearly_full = run.busy_s, run.block_seconds, run.nearly_full_s
    begun, seconds, start = run.tick, 0.0, 0.0
    while run.tick < last and now < stop_s and members_in_need(state) + spare <= cache.free[0]:
        take_blocks(run, state.rows, cache.free, members_in_need(state))
        tick(state)
        seconds = batch_seconds(state, decodes, run.group_kv, 0, 0, 0, decodes)
        start = max(now, busy_until)
        landed = busy_until if flying > 0 else start + seconds
        busy_until = start + seconds
        used = total - cache.free[0]
        busy += seconds
        block_seconds += used * seconds
        if 10 * used > 9 * total:
            nearly_full += seconds
        if held:
            add_hold_time(state, landed - now)
        note_tick(state, run.tick - flying, landed - now)
        book_gap(state, landed - now, decodes)
        now = landed
    if run.tick > begun:
        run.now_s, run.busy_until_s = now, busy_until
        run.busy_s, run.block_seconds, run.nearly_full_s = busy, block_seconds, nearly_full
        run.peak_blocks = max(run.peak_blocks, total - cache.free[0])
        run.iteration += run.tick - begun
        run.last_tick_s = run.last_step_end_s = now
        flight = state.flights[(run.launched - 1) % 2]
        flight.start_s, flight.seconds, flight.end_s, flight.tick = start, seconds, busy_until, run.tick
