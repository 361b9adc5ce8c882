"""`expected-completions`: admit while enough requests are expected to end before memory runs out.

If no request ended, n residents that grow by a token per iteration would fill the free blocks in tau iterations. A
resident of age g ends by then with probability 1 - S(g + tau) / S(g), S the survival function of output lengths. The
newcomer enters if the expected number of ends, its own included, is at least `gamma`, or all are sure to end. No output
length is needed. The rule asks whether memory turns over in time, not whether it overflows, and `gamma` matters much.

It is a rule of thumb: the conditional law of lengths of `past-future` (Gong et al., arXiv 2507.10150), with a count of
ends in the place of a predicted peak.
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

_GAMMA, _QUANTILES = 0, 2  # between them, the number of quantiles

ROUNDING = 1e-9


@kernel
def _longer(params, tokens):
    """How many of the quantiles are above `tokens`."""
    below = _QUANTILES
    above = len(params)
    while below < above:
        middle = (below + above) // 2
        if params[middle] > tokens:
            above = middle
        else:
            below = middle + 1
    return len(params) - below


@kernel
def _ends_within(params, generated, iterations):
    """Probability that a request ends within the next iterations; certain once it has outlived the law."""
    alive = _longer(params, generated)
    if alive == 0:
        return 1.0
    return 1.0 - _longer(params, generated + iterations) / alive


@kernel
def _turns_over(params, view, free_blocks, newcomers):
    """Whether enough of the residents and the first waiting ones end before the free blocks run out."""
    requests = len(view.residents) + newcomers
    iterations = free_blocks * view.block_size // requests
    enough = min(params[_GAMMA], requests) - ROUNDING
    ends = 0.0
    for i in range(len(view.residents)):
        if ends >= enough:  # most often after a few: the oldest come first
            return True
        ends += _ends_within(params, view.generated_tokens[view.residents[i]], iterations)
    row = view.waiting_head[0]
    for _ in range(newcomers):
        ends += _ends_within(params, view.generated_tokens[row], iterations)
        row = view.next_waiting[row]
    return ends >= enough


@kernel
def _missing_tokens(view, row):
    """Tokens to compute before a resident's next token."""
    return view.prompt_tokens[row] + view.generated_tokens[row] - view.computed_tokens[row]


def _admit(params, memory, view, out_quota):
    size = view.block_size
    free = view.free_blocks
    tokens = 0
    for i in range(len(view.residents)):
        row = view.residents[i]
        computed, missing = view.computed_tokens[row], _missing_tokens(view, row)
        tokens += missing
        if missing > 1:  # the rest of a prompt is as good as there
            free -= blocks_for(computed + missing, size) - blocks_for(computed, size)
    row = view.waiting_head[0]
    count = 0
    while row >= 0 and tokens < view.token_budget:
        prompt = view.prompt_tokens[row] + view.generated_tokens[row]
        free -= blocks_for(prompt, size)
        if not _turns_over(params, view, free, count + 1):
            break
        tokens += prompt
        count += 1
        row = view.next_waiting[row]
    out_quota[0] = never_idle(view, count)
    return np.inf


@policy("expected-completions")
class ExpectedCompletions(Policy):
    """Admit while memory is expected to turn over.

    Attributes:
        gamma: fewest completions expected before memory runs out.
        output_quantiles: lengths, each of an equal share of requests, not falling, tokens.
    """

    gamma: float
    output_quantiles: tuple[float, ...]

    def __post_init__(self) -> None:
        self.require(0 <= self.gamma < MANY, f"gamma = {self.gamma} must be at least 0 completions, and finite")
        self.require(len(self.output_quantiles) > 0, "needs at least one output quantile")
        pairs = zip((1.0, *self.output_quantiles), self.output_quantiles, strict=False)
        in_order = all(a <= b < MANY for a, b in pairs)
        what = f"output quantiles {self.output_quantiles} must not fall, be at least 1 token, and finite"
        self.require(in_order, what)

    admit = staticmethod(_admit)

    @classmethod
    def from_plan(cls, plan: FluidPlan, **overrides: Any) -> Self:
        """1.5 completions, and the plan's output lengths."""
        lengths = tuple(max(1.0, float(length)) for length in plan.mix.output_quantiles)
        return cls(**({"gamma": 1.5, "output_quantiles": lengths} | overrides))
