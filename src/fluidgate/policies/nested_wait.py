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
from fluidgate.kernel import kernel
from fluidgate.policies.parts.pacing import MEMORY_SLACK, accrue, blocks_for_next_step, blocks_short, pause_for_memory
from fluidgate.policies.protocol import ADMITTED, MANY, Policy
from fluidgate.policies.registry import policy

if TYPE_CHECKING:
    from fluidgate.fluid import FluidPlan

# params: [hold_s, strict, L, n_1..n_L, L - 1, cuts r_1..r_{L-1}]; memory: [iteration, credit]
_HOLD_S, _STRICT, _SEGMENTS, _THRESHOLDS = range(4)


@kernel
def _cut(params, k):
    """Stage at which segment k (from 0) begins: survivors wait there to enter it."""
    return 0 if k == 0 else int(params[_THRESHOLDS + int(params[_SEGMENTS]) + k])


@kernel
def _segment_of(params, generated):
    k = int(params[_SEGMENTS]) - 1
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
    if view.waiting_count[0] < params[_THRESHOLDS]:
        return 0
    k = 1
    while k < int(params[_SEGMENTS]) and _at_stage(view, _cut(params, k)) >= params[_THRESHOLDS + k]:
        k += 1
    return k


@kernel
def _advance_strictly(params, view, out_mask):
    running = _running_segments(params, view)
    for i in range(len(view.residents)):
        stage = view.generated_tokens[view.residents[i]]
        k = _segment_of(params, stage)
        ahead = 0
        for other in view.residents[:i]:
            ahead += view.generated_tokens[other] == stage
        out_mask[i] = k < running and ahead < params[_THRESHOLDS + k]


@kernel
def _pause_deep_segments(params, view, out_mask):
    """Until the rest fits, pause segments that may not start by the thresholds, deepest first; never the first row."""
    short = blocks_short(view, out_mask)
    k = int(params[_SEGMENTS]) - 1
    while short > 0 and k > 0:
        if _at_stage(view, _cut(params, k)) < params[_THRESHOLDS + k]:
            for i in range(1, len(view.residents)):
                row = view.residents[i]
                need = blocks_for_next_step(view, row)
                if need > 0 and _segment_of(params, view.generated_tokens[row]) == k:
                    out_mask[i] = 0
                    short -= need
        k -= 1


def _admit(params, memory, view, out_quota):
    pace = params[_THRESHOLDS]
    if params[_STRICT] != 0.0:
        out_quota[0] = int(pace) if _running_segments(params, view) > 0 else 0
        return np.inf
    memory[1] = accrue(memory[1], pace, view.iteration - memory[0])
    memory[0] = view.iteration
    out_quota[0] = int(memory[1])
    if len(view.residents) == 0:  # never hold an idle engine
        out_quota[0] = max(out_quota[0], 1)
        return np.inf
    release_s = view.arrival_s[view.waiting_head[0]] + params[_HOLD_S]
    if view.waiting_count[0] < int(pace) and view.now_s < release_s:
        out_quota[0] = 0
        return release_s
    return np.inf


def _advance(params, memory, view, out_mask):
    if params[_STRICT] != 0.0:
        _advance_strictly(params, view, out_mask)
    else:
        _pause_deep_segments(params, view, out_mask)
        pause_for_memory(view, out_mask)
    return np.inf


def _observe(params, memory, event):
    if event.kind == ADMITTED:
        memory[1] = max(0.0, memory[1] - 1.0)


@policy("nested-wait")
class NestedWait(Policy):
    """Segments of stages, each with a threshold.

    Attributes:
        hold_s: longest hold of an incomplete entry group (deployable mode), seconds.
        strict: the paper's algorithm to the letter; thresholds are then whole numbers.
        thresholds: n_k per segment, requests.
        cuts: stages r_1..r_{L-1} at which segments 2..L begin, tokens generated.
    """

    hold_s: float
    strict: bool
    thresholds: tuple[float, ...]
    cuts: tuple[float, ...]

    def __post_init__(self) -> None:
        self.require(len(self.thresholds) == len(self.cuts) + 1, "needs one threshold per segment")
        in_range = all(0 < n < MANY for n in self.thresholds)
        self.require(in_range, f"thresholds {self.thresholds} must be above 0 and finite")
        rising = all(a < b for a, b in zip((0.0, *self.cuts), self.cuts, strict=False))
        self.require(rising, f"cuts {self.cuts} must rise and be above 0 tokens")
        self.require(0 <= self.hold_s < np.inf, f"hold_s = {self.hold_s} must be at least 0 s, and finite")
        whole = all(n % 1 == 0 for n in self.thresholds)
        self.require(whole or not self.strict, f"strict mode needs whole thresholds, not {self.thresholds}")

    admit = staticmethod(_admit)
    advance = staticmethod(_advance)
    observe = staticmethod(_observe)

    @property
    def may_idle(self) -> bool:
        """Only to the letter."""
        return self.strict

    def new_memory(self) -> FloatArray:
        """The iteration the credit was last reckoned at, and the credit."""
        return np.array([0.0, 1.0])

    @classmethod
    def from_plan(cls, plan: FluidPlan, **overrides: Any) -> Self:
        """The plan's thresholds in whole requests (strict), or the memory's own pace and each segment's share of it.

        The paper's ratios n_k/n_{k-1} exceed the survival p_k, for its guarantee; on widely spread lengths the
        memory they waste halves the rate. The deployable thresholds are the fluid limit, n_k/n_{k-1} = p_k.
        """
        nested = plan.nested
        strict = bool(overrides.get("strict", False))
        pace = MEMORY_SLACK * plan.rate_limit * nested.segments.share
        thresholds = np.ceil(nested.thresholds) if strict else pace
        planned = {
            "hold_s": nested.iteration_time_s,
            "strict": strict,
            "thresholds": tuple(float(n) for n in thresholds),
            "cuts": tuple(float(r) for r in nested.segments.output_edges[:-1]),
        }
        return cls(**(planned | overrides))
