"""`learned-cap`: a concurrency cap at the fluid equilibrium, learned from completions; needs no plan.

With E[o] iterations and E[a] KV-token-iterations per request, memory C holds n* = C·E[o]/E[a] residents (theory of
`fluid.stability`). Both means follow the completed requests; until enough have completed there is no cap.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fluidgate.policies.protocol import FINISHED, Policy
from fluidgate.policies.registry import policy

_COUNT, _ITERATIONS, _KV = range(3)


def _admit(params, memory, view, out_quota):
    if memory[_COUNT] >= params[0]:
        rounding = 0.5 * (view.block_size - 1) * memory[_ITERATIONS]
        capacity = view.total_blocks * view.block_size
        cap = max(1, int(params[2] * capacity * memory[_ITERATIONS] / (memory[_KV] + rounding)))
        out_quota[0] = max(0, cap - len(view.residents))
    return np.inf


def _observe(params, memory, event):
    if event.kind == FINISHED and event.generated_tokens > 0:
        memory[_COUNT] += 1.0
        weight = max(1.0 / memory[_COUNT], 1.0 / params[1])
        output = float(event.generated_tokens)
        memory[_ITERATIONS] += weight * (output - memory[_ITERATIONS])
        memory[_KV] += weight * (output * event.prompt_tokens + 0.5 * output * (output - 1.0) - memory[_KV])


@policy("learned-cap")
class LearnedCap(Policy):
    """Cap residents at the learned equilibrium.

    Attributes:
        least: completions before the cap is trusted.
        window: completions over which the means are taken, exponentially weighted.
        share: the cap's share of n*.
    """

    least: float = 50.0
    window: float = 1000.0
    share: float = 1.0

    def __post_init__(self) -> None:
        self.require(self.least >= 1, f"least = {self.least} must be at least 1 completion")
        self.require(self.window >= 1, f"window = {self.window} must be at least 1 completion")
        self.require(0 < self.share < np.inf, f"share = {self.share} must be above 0 and finite")

    admit = staticmethod(_admit)
    observe = staticmethod(_observe)

    def new_memory(self) -> NDArray[np.float64]:
        """Completions, mean iterations and mean KV-token-iterations of a request."""
        return np.zeros(3)
