"""`concurrency-cap`: at most a fixed number of residents (vLLM's `--max-num-active-seqs`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fluidgate.policies.protocol import MANY, Policy
from fluidgate.policies.registry import policy

if TYPE_CHECKING:
    from fluidgate.fluid import FluidPlan


def _admit(params, memory, view, out_quota):
    out_quota[0] = max(0, int(params[0]) - len(view.residents))
    return np.inf


@policy("concurrency-cap")
class ConcurrencyCap(Policy):
    """Admit while fewer than `cap` requests are resident."""

    cap: float

    refusals_stand = True

    def __post_init__(self) -> None:
        self.require(1 <= self.cap < MANY, f"cap = {self.cap} must be at least 1 request, and finite")

    admit = staticmethod(_admit)

    @classmethod
    def from_plan(cls, plan: FluidPlan, **overrides: Any) -> Self:
        """The fluid equilibrium at the stability boundary, n* (`FluidPlan.concurrency_cap`), at least one request.

        n* is below 1 where prompts longer than the token budget meet outputs of a token or two.
        """
        return cls(**({"cap": max(1.0, plan.concurrency_cap)} | overrides))
