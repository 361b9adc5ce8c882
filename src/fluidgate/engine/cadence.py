"""vLLM's `prefill_schedule_interval`: prompts are computed in one step of several, and decodes alone in those between.

The interval is counted from the last step that computed prompt tokens, over steps that computed anything. It lets go
once such a step leaves requests waiting (`prefills_lag`): an engine that cannot keep up holds nothing back. Nor does it
while no resident decodes. A request that is admitted with one token to compute counts as a decode.

Steps without tokens do not count, so a policy that pauses all decodes beside a prompt in chunks would hold both for
ever; `engine.refusals` has that.

Source: vLLM 0.33, `v1/core/sched/scheduler.py`, where it holds on an engine by itself. Up to 0.32 it holds only where
the ranks of data-parallel experts share one counter, which is not modelled.
"""

from __future__ import annotations

from fluidgate.kernel import inlined_kernel


@inlined_kernel
def is_prefilling(state, row):
    """Whether a resident lacks more than its latest token: its prompt, or after an eviction what it had."""
    if state.generated[row] == 0:
        return True
    return state.setting[0].restart == 0 and state.computed[row] <= state.rows[row].high_water


@inlined_kernel
def holds_prefills(state):
    """Whether the interval keeps prompts out of the batch that is to be formed."""
    run, setting = state.run[0], state.setting[0]
    executed = run.iteration - run.empty_iterations
    if setting.prefill_interval == 1 or run.prefills_lag or executed + 1 - run.last_prefill >= setting.prefill_interval:
        return False
    prefilling = 0
    for i in range(run.first_walked, run.ordered):  # members of the decode group are done with it
        prefilling += is_prefilling(state, state.running[i])
    return prefilling < run.running


@inlined_kernel
def note_prefills(state):
    """After a batch was formed: whether it computes prompts, and whether it left requests waiting."""
    run, slots = state.run[0], len(state.free_slots)
    if state.setting[0].prefill_interval == 1:
        return
    if run.victims == 0 and run.prefills_held == 0:
        run.prefills_lag = run.waiting > 0
    for k in range(run.scheduled):
        row = state.batch[run.launched % 2 * slots + k].row
        missing = state.prompt_tokens[row] + state.generated[row] - state.computed[row]
        is_new = state.computed[row] == state.rows[row].residency_start
        if missing > 1 if is_new else is_prefilling(state, row):
            run.last_prefill = run.iteration - run.empty_iterations + 1
            return
