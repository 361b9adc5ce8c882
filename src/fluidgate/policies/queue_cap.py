"""`queue-cap`: refuse who finds a full queue. Admission is the engine's own, in order of arrival.

Who can enter now does not count.

The best cap is the number of requests that a full engine starts while the longest wait that still pays: it depends on
lengths, machine and deadlines, and has to be found by trial.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fluidgate.policies.parts.shedding import name_beyond, room
from fluidgate.policies.protocol import MANY, Policy
from fluidgate.policies.registry import policy

if TYPE_CHECKING:
    from fluidgate.fluid import FluidPlan


def _shed(params, memory, view, out_rows):
    name_beyond(view, 0, room(view, view.token_budget - len(view.residents)) + int(params[0]), out_rows, 0)
    return np.inf


@policy("queue-cap")
class QueueCap(Policy):
    """Refuse requests that find `waiting` others in the queue.

    Attributes:
        waiting: most requests that wait.
    """

    waiting: float

    def __post_init__(self) -> None:
        whole = 0 <= self.waiting < MANY and self.waiting % 1 == 0
        self.require(whole, f"waiting = {self.waiting} must be a whole number, at least 0")

    shed = staticmethod(_shed)

    @classmethod
    def from_plan(cls, plan: FluidPlan, **overrides: Any) -> Self:
        """As many as the plan lets be resident: a wait of about one service."""
        return cls(**({"waiting": float(max(1, int(plan.concurrency_cap)))} | overrides))
