"""`fluid-volume`: `fluid` with the queue in order of expected volume, and ageing.

A request's volume is the KV memory that it takes, summed over its iterations: l·E[o] + E[o(o - 1)]/2 with the output
law of its class. Smallest volume first (arXiv 2606.22327) is to memory what shortest job first is to time: it lowers
mean latency in overload, at the cost of the large. Ageing bounds that cost: a request of mean volume is overtaken only
by smaller ones that come less than `patience_s` after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fluidgate.kernel import kernel
from fluidgate.policies.fluid import Fluid
from fluidgate.policies.parts.fluid_memory import LAWS, SHARES
from fluidgate.policies.parts.length_law import UNKNOWN_MEDIAN_TOKENS
from fluidgate.policies.registry import policy

if TYPE_CHECKING:
    from fluidgate.fluid import FluidPlan

SERVICE_TIMES = 10.0
"""The planned patience, in mean service times at the stability boundary."""


@kernel
def _volume(params, law, prompt_tokens):
    """Expected volume of a request of a class, by the prior."""
    laws = int(params[LAWS])
    first = SHARES + 2 * laws + 2  # past the shares, the prompts and the quantiles' number
    each = int(params[first - 1]) // laws
    output, product = UNKNOWN_MEDIAN_TOKENS, 0.5 * UNKNOWN_MEDIAN_TOKENS**2
    if each > 0:
        output, product = 0.0, 0.0
        for k in range(each):
            tokens = params[first + law * each + k]
            output += tokens / each
            product += 0.5 * tokens * (tokens - 1.0) / each
    return prompt_tokens * output + product


def _rank(params, request):
    laws = int(params[LAWS])
    mean, total = 0.0, 0.0
    for c in range(laws):
        share, prompt_tokens = params[SHARES + c], params[SHARES + laws + 1 + c]
        mean += share * _volume(params, c, prompt_tokens)
        total += share
    law = min(max(request.class_id, 0), laws - 1)
    return request.arrival_s + params[-1] * total * _volume(params, law, request.prompt_tokens) / mean


@policy("fluid-volume")
class FluidVolume(Fluid):
    """Admit while the predicted memory stays below capacity, the smallest expected volume first.

    Attributes:
        patience_s: how much later a request of no volume may come and still pass one of mean volume, seconds.
    """

    patience_s: float = 60.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(not self.sheds, "sheds nobody: leave its timeouts out, or take fluid")
        self.require(0 <= self.patience_s < np.inf, f"patience_s = {self.patience_s} must be at least 0 s, and finite")

    classify = None  # type: ignore[assignment]
    rank = staticmethod(_rank)

    @property
    def num_classes(self) -> int:
        """One queue: its order is the policy's."""
        return 1

    @classmethod
    def from_plan(cls, plan: FluidPlan, **overrides: Any) -> Self:
        """`fluid`'s own parameters, and a patience of ten mean service times at the boundary."""
        service_s = plan.mix.mean_output_tokens * plan.stability.iteration_time_s
        own = {"patience_s": SERVICE_TIMES * service_s, "timeout_s": 0.0, "ttft_timeout_s": 0.0}
        return super().from_plan(plan, **(own | overrides))
