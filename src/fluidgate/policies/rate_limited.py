"""`rate-limited`: at most x* admissions per iteration, the remedy of Ao, Dong, Luo, Simchi-Levi, arXiv 2606.15555.

Greedy admission into a saturated queue falls into a limit cycle with evictions. Admitting at the equilibrium's own
pace, x* per iteration, without waiting for a batch, keeps the residents' ages spread out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.policies.parts.pacing import accrue
from fluidgate.policies.protocol import ADMITTED, MANY, Policy
from fluidgate.policies.registry import policy

if TYPE_CHECKING:
    from fluidgate.fluid import FluidPlan

_CREDIT, _ITERATION = range(2)


def _admit(params, memory, view, out_quota):
    memory[_CREDIT] = accrue(memory[_CREDIT], params[0], view.iteration - memory[_ITERATION])
    memory[_ITERATION] = view.iteration
    out_quota[0] = int(memory[_CREDIT])
    if len(view.residents) == 0:
        out_quota[0] = max(out_quota[0], 1)
    return np.inf


def _observe(params, memory, event):
    if event.kind == ADMITTED:
        memory[_CREDIT] = max(0.0, memory[_CREDIT] - 1.0)


@policy("rate-limited")
class RateLimited(Policy):
    """Admit at most `per_iteration` requests per iteration; a fraction is carried over to the next ones."""

    per_iteration: float

    def __post_init__(self) -> None:
        self.require(0 < self.per_iteration < MANY, f"per_iteration = {self.per_iteration} must be above 0 and finite")

    admit = staticmethod(_admit)
    observe = staticmethod(_observe)

    def new_memory(self) -> FloatArray:
        """The credit, and the iteration it was last updated at; the first request enters at once."""
        return np.array([1.0, 0.0])

    @classmethod
    def from_plan(cls, plan: FluidPlan, **overrides: Any) -> Self:
        """The memory's own pace, x* (`FluidPlan.rate_limit`)."""
        return cls(**({"per_iteration": plan.rate_limit} | overrides))
