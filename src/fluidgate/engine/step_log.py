"""The log of a run: a record for every iteration and, at the level of decisions, its batch and its victims."""

from __future__ import annotations

from fluidgate.arrays import NONE
from fluidgate.engine.decode_group import is_member
from fluidgate.engine.layout import LOG_DECISIONS, LOG_NOTHING
from fluidgate.kernel import inlined_kernel, kernel


@kernel
def write_log(state, cache, log, start_s, end_s, tokens):
    """Record an iteration and, at the level of decisions, its batch and its victims."""
    run = state.run[0]
    step = log.steps[run.log_steps]
    step.scheduled = run.ticked + run.scheduled
    step.tokens = tokens
    step.running = run.running
    step.waiting = run.waiting
    step.free_blocks = cache.free[0]
    step.preempted = run.victims
    step.start_s = start_s
    step.end_s = end_s
    run.log_steps += 1
    if state.setting[0].log_level == LOG_DECISIONS:
        _write_batch(state, log)
        for k in range(run.victims):
            log.victims[run.log_victims + k] = state.victims[k]
        run.log_victims += run.victims


@kernel
def _write_batch(state, log):
    """The batch just launched, members of the decode group first. Those that it lets join are not among them."""
    run, at = state.run[0], state.run[0].log_rows
    for place in range(run.first_walked if run.ticked > 0 else 0):
        row = state.running[place]
        if row != NONE and is_member(state, row) and state.seats[state.rows[row].slot].since < run.tick:
            log.batch[at].row, log.batch[at].tokens = row, 1
            at += 1
    flight = (run.launched - 1) % 2
    for k in range(run.scheduled):
        entry = state.batch[flight * len(state.free_slots) + k]
        log.batch[at].row, log.batch[at].tokens = entry.row, entry.tokens
        at += 1
    run.log_rows = at


@inlined_kernel
def log_has_room(state, log):
    """Whether one more iteration of any size fits into the log."""
    if state.setting[0].log_level == LOG_NOTHING:
        return True
    most = len(state.free_slots)
    return (
        state.run[0].log_steps < len(log.steps)
        and state.run[0].log_rows + most <= len(log.batch)
        and state.run[0].log_victims + most <= len(log.victims)
    )
