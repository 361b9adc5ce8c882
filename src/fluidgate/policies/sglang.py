"""`sglang`: reserve a share of what residents may still generate, learned from evictions (SGLang's `new_token_ratio`).

Source: SGLang 0.5, `managers/schedule_policy.py` (`PrefillAdder`), `managers/schedule_batch.py` (`retract_decode`),
`managers/scheduler_components/new_token_ratio_tracker.py` and the defaults of `environ.py`. The next request enters
if its prompt and its whole maximum output are less than the free tokens, of which residents have reserved `ratio` of
their own remaining output. The ratio falls from step to step; an eviction sets it to the share of their maximum
output that residents have used, and a few steps more; an idle engine resets it.

An eviction by the engine stands in for SGLang's retraction; the ratio that follows is computed at the next decision,
from those then resident. Requests are charged in whole blocks, where SGLang adds a page to each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.kernel import kernel
from fluidgate.policies.parts.blocks import blocks_for
from fluidgate.policies.parts.pacing import never_idle
from fluidgate.policies.protocol import ABORTED, ARRIVED, FINISHED, MANY, PREEMPTED, Policy
from fluidgate.policies.registry import policy

if TYPE_CHECKING:
    from fluidgate.fluid import FluidPlan

INIT_RATIO = 0.7
MIN_FACTOR = 0.14
DECAY_STEPS = 600
RETRACT_STEPS = 20
CLIP_TOKENS = 4096
"""Longest remaining output that is reserved for a request."""

_MAX_OUTPUT, _CONSERVATIVENESS = range(2)
_RATIO, _ITERATION, _EVICTED, _PRESENT, _IDLE_SINCE = range(5)

_UNKNOWN = -1.0


@kernel
def _first_ratio(params):
    return min(INIT_RATIO * params[_CONSERVATIVENESS], 1.0)


@kernel
def _ratio_after_eviction(params, view):
    """The part of their maximum output that residents have used, and what the next steps will."""
    count = len(view.residents)
    generated = 0
    for i in range(count):
        generated += view.generated_tokens[view.residents[i]]
    return min((generated + RETRACT_STEPS * count) / (params[_MAX_OUTPUT] * count + 1.0), 1.0)


@kernel
def _update_ratio(params, memory, view):
    first = _first_ratio(params)
    least = first * MIN_FACTOR
    if memory[_EVICTED] > 0.0:
        memory[_RATIO] = max(_ratio_after_eviction(params, view), least)
    elif memory[_ITERATION] != _UNKNOWN:
        steps = view.iteration - memory[_ITERATION]
        memory[_RATIO] = max(memory[_RATIO] - steps * (first - least) / DECAY_STEPS, least)
    memory[_EVICTED] = 0.0
    memory[_ITERATION] = view.iteration


@kernel
def _future_tokens(params, view, row):
    """Tokens that a request may still generate, as far as they are reserved."""
    return min(max(params[_MAX_OUTPUT] - view.generated_tokens[row], 0.0), CLIP_TOKENS)


def _admit(params, memory, view, out_quota):
    _update_ratio(params, memory, view)
    size = view.block_size
    free = float(view.free_blocks * size)
    for i in range(len(view.residents)):
        row = view.residents[i]
        free -= view.prompt_tokens[row] + view.generated_tokens[row] - view.computed_tokens[row]
        free -= _future_tokens(params, view, row) * memory[_RATIO]
    admitted = 0
    row = view.waiting_head[0]
    while row >= 0:
        tokens = view.prompt_tokens[row] + view.generated_tokens[row] + _future_tokens(params, view, row)
        charge = blocks_for(tokens, size) * size
        if charge >= free:
            break
        free -= charge
        admitted += 1
        row = view.next_waiting[row]
    out_quota[0] = never_idle(view, admitted)
    return np.inf


def _observe(params, memory, event):
    if event.kind == ARRIVED:
        if memory[_PRESENT] == 0.0 and event.arrival_s > memory[_IDLE_SINCE]:
            memory[_RATIO] = _first_ratio(params)
            memory[_ITERATION] = _UNKNOWN
        memory[_PRESENT] += 1.0
    elif event.kind == FINISHED or event.kind == ABORTED:
        memory[_PRESENT] -= 1.0
        memory[_IDLE_SINCE] = event.now_s
    elif event.kind == PREEMPTED:
        memory[_EVICTED] = 1.0


@policy("sglang")
class SGLang(Policy):
    """Admit what fits along with a share of the residents' remaining output.

    Attributes:
        max_output_tokens: the maximum output asked for (`max_new_tokens`), the same for all requests.
        conservativeness: factor on the first and the least ratio (`--schedule-conservativeness`).
    """

    max_output_tokens: float
    conservativeness: float = 1.0

    def __post_init__(self) -> None:
        most, factor = self.max_output_tokens, self.conservativeness
        self.require(1 <= most < MANY, f"max_output_tokens = {most} must be at least 1 token, and finite")
        self.require(0 <= factor < np.inf, f"conservativeness = {factor} must be at least 0, and finite")

    admit = staticmethod(_admit)
    observe = staticmethod(_observe)

    def new_memory(self) -> FloatArray:
        """The ratio, its iteration, whether someone was evicted since, requests present, and when the last one left."""
        first = min(INIT_RATIO * self.conservativeness, 1.0)
        return np.array([first, _UNKNOWN, 0.0, 0.0, -np.inf])

    @classmethod
    def from_plan(cls, plan: FluidPlan, **overrides: Any) -> Self:
        """The longest output of the plan's mix."""
        return cls(**({"max_output_tokens": max(1.0, float(plan.mix.max_output_tokens))} | overrides))
