"""`no-evict`: admit only what memory holds to the longest possible end (TensorRT-LLM's GUARANTEED_NO_EVICT).

Source: TensorRT-LLM 1.x, `cpp/tensorrt_llm/batch_manager/capacityScheduler.cpp`, `GuaranteedNoEvictScheduler`, its
default: every started request keeps the blocks for prompt and maximum output in reserve, and the queue is admitted in
order until the next request's blocks are not to be had.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fluidgate.kernel import kernel
from fluidgate.policies.parts.blocks import blocks_for
from fluidgate.policies.parts.pacing import never_idle
from fluidgate.policies.protocol import MANY, Policy
from fluidgate.policies.registry import policy

if TYPE_CHECKING:
    from fluidgate.fluid import FluidPlan


@kernel
def _most_blocks(params, view, row):
    """Blocks of a request at its maximum length; one that has outgrown the maximum counts as it is."""
    output = max(int(params[0]), view.generated_tokens[row])
    return blocks_for(view.prompt_tokens[row] + output, view.block_size)


def _admit(params, memory, view, out_quota):
    unreserved = view.total_blocks
    for i in range(len(view.residents)):
        unreserved -= _most_blocks(params, view, view.residents[i])
    admitted = 0
    row = view.waiting_head[0]
    while row >= 0:
        unreserved -= _most_blocks(params, view, row)
        if unreserved < 0:
            break
        admitted += 1
        row = view.next_waiting[row]
    out_quota[0] = never_idle(view, admitted)
    return np.inf


@policy("no-evict")
class NoEvict(Policy):
    """Reserve every resident's blocks up to `max_output_tokens`; no request is evicted if no output is longer."""

    max_output_tokens: float

    refusals_stand = True

    def __post_init__(self) -> None:
        in_range = 1 <= self.max_output_tokens < MANY
        self.require(in_range, f"max_output_tokens = {self.max_output_tokens} must be at least 1 token, and finite")

    admit = staticmethod(_admit)

    @classmethod
    def from_plan(cls, plan: FluidPlan, **overrides: Any) -> Self:
        """The longest output of the plan's mix."""
        return cls(**({"max_output_tokens": max(1.0, float(plan.mix.max_output_tokens))} | overrides))
