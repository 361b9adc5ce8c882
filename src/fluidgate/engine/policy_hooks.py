"""What a policy is asked and told: which decision functions it has, its view of the engine, and its events."""

from __future__ import annotations

from fluidgate.kernel import kernel
from fluidgate.policies.protocol import Event, View

HAS_CLASSIFY, HAS_RANK, HAS_ADMIT, HAS_ADVANCE, HAS_OBSERVE = 1, 2, 4, 8, 16

REFUSALS_STAND = 32
"""`Policy.refusals_stand`."""

HAS_SHED = 64

NO_LIMIT = 1 << 40
"""A quota larger than any queue, a budget larger than any batch."""


@kernel
def make_view(state, cache):
    """What a policy sees (`policies.protocol.View`)."""
    return View(
        state.run[0].now_s,
        state.run[0].iteration,
        cache.free[0] * state.setting[0].view_blocks // state.setting[0].total_blocks,
        state.setting[0].view_blocks,
        state.setting[0].block_size,
        state.setting[0].view_budget,
        state.setting[0].max_num_seqs,
        state.running[: state.run[0].running],
        state.head,
        state.waiting,
        state.next_waiting,
        state.arrival_s,
        state.prompt_tokens,
        state.generated,
        state.computed,
        state.shown_output,
        state.class_id,
        state.shown_timeout_s,
        state.shown_ttft_timeout_s,
    )


@kernel
def make_event(state, kind, row):
    """What `observe` gets (`policies.protocol.Event`)."""
    return Event(
        kind,
        state.run[0].now_s,
        row,
        state.arrival_s[row],
        state.prompt_tokens[row],
        state.generated[row],
        state.computed[row],
        state.class_id[row],
        state.rows[row].group,
    )
