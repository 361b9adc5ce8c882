"""The batch of an iteration: residents and admissions, in the order of the mode."""

from __future__ import annotations

from fluidgate.engine.cadence import holds_prefills, note_prefills
from fluidgate.engine.decode_group import retire_members
from fluidgate.engine.group_step import schedule_groups
from fluidgate.engine.modes import PREFILL_FIRST
from fluidgate.engine.step import admit_waiting, continue_residents
from fluidgate.kernel import inlined_kernel


@inlined_kernel
def form_batch(state, cache):
    """Fill `state.batch` and `state.victims` for this iteration.

    Residents go before admissions, and where one was preempted none is admitted: the blocks are its own. Where decodes
    need a spare block, one that takes none leaves all of them, and as in Vidur the victim may take them back at once.
    Mode prefill-first admits first, and decodes only where no prompt can start.
    """
    run, setting = state.run[0], state.setting[0]
    run.scheduled = run.ticked = run.victims = 0
    retire_members(state)
    run.prefills_held = holds_prefills(state)
    budget, threshold = setting.token_budget, setting.long_prefill
    if run.running + run.waiting <= 1 and not setting.cut_lone_prefill:
        threshold = 0  # no other request to starve
    if setting.kv_groups > 0:
        schedule_groups(state, cache, threshold)
        note_prefills(state)
        return
    prompts_first = setting.mode == PREFILL_FIRST
    for turn in range(2):
        if (turn == 0) == prompts_first:
            if run.waiting > 0 and (run.victims == 0 or setting.spare_block):
                admit_waiting(state, cache, budget, threshold)
        elif not prompts_first or run.scheduled == 0:
            budget = continue_residents(state, cache, threshold)
    note_prefills(state)
