"""`nested-wait`: Nested WAIT, for unknown output lengths (Ao, Luo, Simchi-Levi, Wang, arXiv 2504.11320, Algorithm 2).

A request moves through segments of stages as it generates; segment k has a threshold n_k. `strict` is the algorithm
to the letter: an iteration runs segments 1..k for the largest k such that the entry queue of each holds n_k, at most
n_k requests at every stage, and pauses the rest. The deployable mode lets requests enter at the pace n_1, a real
number, holds an incomplete entry group for at most `hold_s`, and pauses residents only when their next blocks do not
fit: those of the deepest segments with an incomplete entry group first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.bounds import MAX_COUNT
from fluidgate.kernel import kernel
from fluidgate.policies.parts.pacing import MEMORY_SLACK, accrue, blocks_for_next_step, blocks_short, pause_for_memory
from fluidgate.policies.parts.thresholds import (
    GROUPS,
    HOLD_S,
    STRICT,
    THRESHOLDS,
    ThresholdPolicy,
    held_until,
    warn_if_infeasible,
)
from fluidgate.policies.protocol import ADMITTED
from fluidgate.policies.registry import policy

if TYPE_CHECKING:
    from fluidgate.fluid import FluidPlan

# params: [hold_s, strict, L, n_1..n_L, L - 1, cuts r_1..r_{L-1}]; memory: [iteration, credit], and to the letter
# residents by stage
COUNTS = 2
COUNTED_STAGES = 2**15
"""Stages whose residents are counted in memory; at later ones, which few requests reach, they are looked for."""


@kernel
def _cut(params, k):
    """Stage at which segment k (from 0) begins: survivors wait there to enter it."""
    return 0 if k == 0 else int(params[THRESHOLDS + int(params[GROUPS]) + k])


@kernel
def _segment_of(params, generated):
    k = int(params[GROUPS]) - 1
    while generated < _cut(params, k):
        k -= 1
    return k


@kernel
def _at_stage(view, stage):
    count = 0
    for row in view.residents:
        count += view.generated_tokens[row] == stage
    return count


@kernel
def _running_segments(params, view):
    """How many segments, from the first, have enough requests at their entry."""
    if view.waiting_count[0] < params[THRESHOLDS]:
        return 0
    k = 1
    while k < int(params[GROUPS]) and _at_stage(view, _cut(params, k)) >= params[THRESHOLDS + k]:
        k += 1
    return k


@kernel
def _advance_strictly(params, memory, view, out_mask):
    """Of the running segments, the first n_k residents at every stage; counted in `memory`, by stage."""
    running = _running_segments(params, view)
    counted = len(memory) - COUNTS
    for row in view.residents:
        if view.generated_tokens[row] < counted:
            memory[COUNTS + view.generated_tokens[row]] = 0.0
    for i in range(len(view.residents)):
        stage = view.generated_tokens[view.residents[i]]
        k = _segment_of(params, stage)
        if stage < counted:
            ahead = int(memory[COUNTS + stage])
            memory[COUNTS + stage] += 1.0
        else:
            ahead = 0
            for other in view.residents[:i]:
                ahead += view.generated_tokens[other] == stage
        out_mask[i] = k < running and ahead < params[THRESHOLDS + k]


@kernel
def _pause_deep_segments(params, view, out_mask):
    """Until the rest fits, pause segments that may not start by the thresholds, deepest first; never the first row.

    Returns whether there was anything to do.
    """
    short = blocks_short(view, out_mask)
    if short <= 0:
        return False
    k = int(params[GROUPS]) - 1
    while short > 0 and k > 0:
        if _at_stage(view, _cut(params, k)) < params[THRESHOLDS + k]:
            for i in range(1, len(view.residents)):
                row = view.residents[i]
                need = blocks_for_next_step(view, row)
                if need > 0 and _segment_of(params, view.generated_tokens[row]) == k:
                    out_mask[i] = 0
                    short -= need
        k -= 1
    return True


def _admit(params, memory, view, out_quota):
    pace = params[THRESHOLDS]
    if params[STRICT] != 0.0:
        out_quota[0] = int(pace) if _running_segments(params, view) > 0 else 0
        return np.inf
    memory[1] = accrue(memory[1], pace, view.iteration - memory[0])
    memory[0] = view.iteration
    out_quota[0] = int(memory[1])
    if len(view.residents) == 0:  # never hold an idle engine
        out_quota[0] = max(out_quota[0], 1)
        return np.inf
    release_s = held_until(view, 0, pace, params[HOLD_S])
    if release_s > view.now_s:
        out_quota[0] = 0
        return release_s
    return np.inf


def _advance(params, memory, view, out_mask):
    if params[STRICT] != 0.0:
        _advance_strictly(params, memory, view, out_mask)
    else:
        if _pause_deep_segments(params, view, out_mask):
            pause_for_memory(view, out_mask)
    return np.inf


def _observe(params, memory, event):
    if event.kind == ADMITTED:
        memory[1] = max(0.0, memory[1] - 1.0)


@policy("nested-wait")
class NestedWait(ThresholdPolicy):
    """Segments of stages, each with a threshold.

    Attributes:
        cuts: stages r_1..r_{L-1} at which segments 2..L begin, tokens generated.
    """

    cuts: tuple[float, ...]

    def __post_init__(self) -> None:
        self.check(self.cuts, "cuts", "segment")

    admit = staticmethod(_admit)
    advance = staticmethod(_advance)
    observe = staticmethod(_observe)

    @property
    def engine_settings(self) -> dict[str, Any]:
        """To the letter memory alone limits residents: the paper has no seats, and paused requests would fill them."""
        return {"max_num_seqs": MAX_COUNT, "max_num_active_seqs": None} if self.strict else {}

    def new_memory(self) -> FloatArray:
        """The iteration the credit was last updated at, and the credit; to the letter also residents by stage."""
        return np.concatenate(([0.0, 1.0], np.zeros(COUNTED_STAGES if self.strict else 0)))

    @classmethod
    def from_plan(cls, plan: FluidPlan, **overrides: Any) -> Self:
        """The plan's whole thresholds (strict), or the memory's own pace and each segment's share of it.

        The paper's ratios n_k/n_{k-1} exceed the survival p_k, for its guarantee; on widely spread lengths the
        memory they waste halves the rate. The deployable thresholds are the fluid limit, n_k/n_{k-1} = p_k.
        """
        if overrides.get("strict", False):
            from fluidgate.fluid.verdict import whole_nested

            whole = plan.nested_whole
            if not {"thresholds", "cuts"} & set(overrides):
                warn_if_infeasible(whole_nested(plan.limits, whole), cls.name)
            cuts = whole.segments.output_edges[:-1]
            return cls.planned(whole.iteration_time_s, whole.thresholds, {"cuts": cuts}, overrides)
        nested = plan.nested
        pace = MEMORY_SLACK * plan.rate_limit * nested.segments.share
        return cls.planned(nested.iteration_time_s, pace, {"cuts": nested.segments.output_edges[:-1]}, overrides)
