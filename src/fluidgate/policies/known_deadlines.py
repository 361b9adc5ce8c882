"""`known-deadlines`: `known-lengths`, and nothing is started that cannot end before its client leaves.

In order of arrival, with lengths and timeouts known, nothing is wasted: no policy that keeps this order, and sheds only
what can no longer end in time, completes more (model.md §10). A request of o output tokens ends o iterations after it
starts, and one later for each budget that its prompt and those before it fill; an iteration is taken to last as long as
the latest ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.kernel import kernel
from fluidgate.policies.known_lengths import KnownLengths
from fluidgate.policies.parts.lookahead import admissible
from fluidgate.policies.parts.pace import PACE_SIZE, new_pace, note_pace
from fluidgate.policies.protocol import MANY
from fluidgate.policies.registry import policy

if TYPE_CHECKING:
    from fluidgate.fluid import FluidPlan


@kernel
def _latest_start_s(view, row, ahead, pace_s):
    """When a waiting request must start at the latest to end in time, with so many tokens to be computed before it."""
    prefill = 1.0 + np.ceil((ahead + view.prompt_tokens[row] + view.generated_tokens[row]) / view.token_budget)
    left = view.output_tokens[row] - view.generated_tokens[row]
    end_s = view.arrival_s[row] + view.timeout_s[row] - (prefill + left - 1.0) * pace_s
    if view.generated_tokens[row] > 0:
        return end_s
    return min(end_s, view.arrival_s[row] + view.ttft_timeout_s[row] - prefill * pace_s)


def _admit(params, memory, view, out_quota):
    out_quota[0] = admissible(memory[PACE_SIZE:], view, params[:0])
    return np.inf


def _shed(params, memory, view, out_rows):
    pace_s = note_pace(memory, 0, view)
    row, named, tokens, next_s = view.waiting_head[0], 0, 0, np.inf
    while row >= 0 and named < len(out_rows) and tokens < view.token_budget:  # all that may enter now
        latest_s = _latest_start_s(view, row, tokens, pace_s)
        if view.now_s > latest_s:
            out_rows[named] = row
            named += 1
        else:
            next_s = min(next_s, latest_s)
            tokens += view.prompt_tokens[row] + view.generated_tokens[row]
        row = view.next_waiting[row]
    return next_s


@policy("known-deadlines")
class KnownDeadlines(KnownLengths):
    """Admit the requests that fit to their end and end in time, in order of arrival.

    Attributes:
        iteration_s: what an iteration of a full batch takes, seconds, until it is seen; 0: unknown.
    """

    iteration_s: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(0 <= self.iteration_s < MANY, f"iteration_s = {self.iteration_s} must be at least 0 s, and finite")

    admit = staticmethod(_admit)
    shed = staticmethod(_shed)

    @property
    def needs_timeouts(self) -> bool:
        """From every client."""
        return True

    def new_memory(self) -> FloatArray:
        """The pace of a full batch, and an empty table."""
        return np.concatenate([new_pace(self.iteration_s), super().new_memory()])

    @classmethod
    def from_plan(cls, plan: FluidPlan, **overrides: Any) -> Self:
        """The seats of the plan's limits, and the iteration at the boundary."""
        return super().from_plan(plan, **({"iteration_s": plan.stability.iteration_time_s} | overrides))
