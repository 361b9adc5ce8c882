"""`wait`: WAIT, for known output lengths (Ao, Luo, Simchi-Levi, Wang, arXiv 2504.11320, Algorithm 1).

Requests are sorted into types by output length; type j has a threshold n_j. `strict` is the algorithm to the
letter: an iteration runs the types with at least n_j waiting, at most n_j requests at every stage, and pauses all
others, so it idles at light load and never drains. The deployable mode keeps the thresholds and drops the idling:
n_j, a real number, is the pace at which type j enters; an entry group that is not yet complete is held for at most
`hold_s`; decodes run unless their next blocks do not fit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.kernel import kernel
from fluidgate.policies.parts.pacing import MEMORY_SLACK, accrue, pause_for_memory
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

# params: [hold_s, strict, J, n_1..n_J, J - 1, edges...]; memory: [iteration, credit of type 1..J]


@kernel
def _type_of(params, output_tokens):
    first_edge = THRESHOLDS + int(params[GROUPS]) + 1
    kind = 0
    while first_edge + kind < len(params) and output_tokens > params[first_edge + kind]:
        kind += 1
    return kind


@kernel
def _runs_strictly(params, view, i):
    """Whether resident i is among the first n_j of its type and stage, and its type is eligible."""
    row = view.residents[i]
    kind = _type_of(params, view.output_tokens[row])
    threshold = params[THRESHOLDS + kind]
    if view.waiting_count[kind] < threshold:
        return False
    ahead = 0
    for k in range(i):
        other = view.residents[k]
        same_stage = view.generated_tokens[other] == view.generated_tokens[row]
        ahead += same_stage and _type_of(params, view.output_tokens[other]) == kind
    return ahead < threshold


@kernel
def _admit_paced(params, memory, view, out_quota):
    wake_s = np.inf
    elapsed = view.iteration - memory[0]
    memory[0] = view.iteration
    first = -1
    for kind in range(int(params[GROUPS])):
        pace = params[THRESHOLDS + kind]
        memory[1 + kind] = accrue(memory[1 + kind], pace, elapsed)
        out_quota[kind] = int(memory[1 + kind])
        head = view.waiting_head[kind]
        if head < 0:
            continue
        if first < 0 or view.arrival_s[head] < view.arrival_s[view.waiting_head[first]]:
            first = kind
        release_s = held_until(view, kind, pace, params[HOLD_S])
        if release_s > view.now_s:
            out_quota[kind] = 0
            wake_s = min(wake_s, release_s)
    if len(view.residents) == 0 and first >= 0:  # never hold an idle engine
        out_quota[first] = max(out_quota[first], 1)
    return wake_s


def _classify(params, request):
    return _type_of(params, request.output_tokens)


def _admit(params, memory, view, out_quota):
    if params[STRICT] == 0.0:
        return _admit_paced(params, memory, view, out_quota)
    for kind in range(int(params[GROUPS])):
        threshold = int(params[THRESHOLDS + kind])
        out_quota[kind] = threshold if view.waiting_count[kind] >= threshold else 0
    return np.inf


def _advance(params, memory, view, out_mask):
    if params[STRICT] == 0.0:
        pause_for_memory(view, out_mask)
    else:
        for i in range(len(view.residents)):
            out_mask[i] = _runs_strictly(params, view, i)
    return np.inf


def _observe(params, memory, event):
    if event.kind == ADMITTED:
        credit = 1 + event.policy_class
        memory[credit] = max(0.0, memory[credit] - 1.0)


@policy("wait")
class Wait(ThresholdPolicy):
    """Type j enters at its threshold's pace.

    Attributes:
        output_edges: type j has outputs in (edge j-1, edge j], tokens.
    """

    output_edges: tuple[float, ...]

    needs_output_length = True

    def __post_init__(self) -> None:
        self.check(self.output_edges, "output edges", "type")

    classify = staticmethod(_classify)
    admit = staticmethod(_admit)
    advance = staticmethod(_advance)
    observe = staticmethod(_observe)

    @property
    def num_classes(self) -> int:
        """One class per type."""
        return len(self.thresholds)

    def new_memory(self) -> FloatArray:
        """The iteration credits were last updated at, and the credit of each type."""
        return np.concatenate(([0.0], np.ones(self.num_classes)))

    @classmethod
    def from_plan(cls, plan: FluidPlan, **overrides: Any) -> Self:
        """The plan's least whole thresholds (strict), or the pace λ_j τ with τ near the memory's end of its range."""
        wait = plan.wait
        period_s = max(wait.period_s, MEMORY_SLACK * wait.period_range_s[1])
        strict = bool(overrides.get("strict", False))
        thresholds = wait.integer if strict else wait.rate * period_s
        if strict:
            from fluidgate.fluid.verdict import whole_wait

            warn_if_infeasible(whole_wait(plan.limits, wait), cls.name)
        return cls.planned(wait.iteration_time_s, thresholds, {"output_edges": wait.output_edges}, overrides)
