"""`past-future`: admit while the predicted peak of memory fits; lengths are drawn from the last completed requests.

Source: Gong et al., "Past-Future Scheduler for LLM Serving under SLA Guarantees", ASPLOS'25, arXiv 2507.10150, and
its home LightLLM (`lightllm/server/router/req_queue/`). The past: a request's length is drawn from those of the last
`window` completed ones, given that it is longer than what has been generated. The future: with requests in order of
what they have left, most first, memory peaks when one of them ends, at max over i of the sum over j <= i of (tokens
held by j + tokens left to i - 1); the KV of the last token is never computed.

Three choices are ours. Draws are a low-discrepancy sequence over residents and iterations instead of random numbers,
so that runs repeat to the bit. The window starts with the plan's law of lengths. A request holds half a block more
than its tokens, on average, for KV comes in whole blocks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.kernel import kernel
from fluidgate.policies.parts.lookahead import seats_of
from fluidgate.policies.parts.pacing import never_idle
from fluidgate.policies.protocol import FINISHED, MANY, Policy
from fluidgate.policies.registry import policy

if TYPE_CHECKING:
    from fluidgate.fluid import FluidPlan

MAX_ENTRIES = 1e6
"""Largest window and most seats: their tables stay within 16 MB each."""

PER_RESIDENT, PER_ITERATION = 0.6180339887498949, 0.41421356237309515
"""Steps of the sequence of draws, modulo 1: the golden ratio, the square root of 2."""

# memory: [place of the oldest length, lengths as they came, lengths sorted, then per request, most left first: tokens
# left, tokens held]
_RESERVE, _WINDOW, _SEATS = range(3)


@kernel
def _parts(params, memory):
    """Views of the memory: lengths as they came, sorted, and per request tokens left and tokens held."""
    window, seats = int(params[_WINDOW]), int(params[_SEATS])
    tables = 1 + 2 * window
    return (
        memory[1 : 1 + window],
        memory[1 + window : tables],
        memory[tables : tables + seats],
        memory[tables + seats : tables + 2 * seats],
    )


@kernel
def _first_above(lengths, tokens):
    """Place of the first of the sorted lengths above `tokens`."""
    low, high = 0, len(lengths)
    while low < high:
        middle = (low + high) // 2
        if lengths[middle] > tokens:
            high = middle
        else:
            low = middle + 1
    return low


@kernel
def _replace(lengths, old, new):
    """Put `new` in place of `old` among sorted lengths."""
    i = _first_above(lengths, old) - 1
    while i + 1 < len(lengths) and lengths[i + 1] < new:
        lengths[i] = lengths[i + 1]
        i += 1
    while i > 0 and lengths[i - 1] > new:
        lengths[i] = lengths[i - 1]
        i -= 1
    lengths[i] = new


@kernel
def _draw_left(lengths, generated, place, iteration):
    """Tokens left to a request: a length above `generated` from the window; one token if it outlasts all of them."""
    first = _first_above(lengths, generated)
    if first == len(lengths):
        return 1.0
    share = (place * PER_RESIDENT + iteration * PER_ITERATION) % 1.0
    return lengths[first + int(share * (len(lengths) - first))] - generated


@kernel
def _sink(left, held, i, gap):
    """Move request i, `gap` places at a time, behind all that have at least as much left."""
    own_left, own_held = left[i], held[i]
    while i >= gap and left[i - gap] < own_left:
        left[i], held[i] = left[i - gap], held[i - gap]
        i -= gap
    left[i], held[i] = own_left, own_held


@kernel
def _sort(left, held, count):
    """Most left first (Shell's sort)."""
    gap = 1
    while gap < count // 3:
        gap = 3 * gap + 1
    while gap >= 1:
        for i in range(gap, count):
            _sink(left, held, i, gap)
        gap //= 3


@kernel
def _peak_tokens(left, held, count):
    """The most tokens that the first `count` requests will ever hold together."""
    peak = 0.0
    total = 0.0
    for i in range(count):
        total += held[i]
        peak = max(peak, total + (i + 1) * (left[i] - 1.0))
    return peak


def _admit(params, memory, view, out_quota):
    _, lengths, left, held = _parts(params, memory)
    count = len(view.residents)
    rounding = 0.5 * (view.block_size - 1)
    limit = (1.0 - params[_RESERVE]) * view.total_blocks * view.block_size
    if count < len(left):
        for i in range(count):
            row = view.residents[i]
            left[i] = _draw_left(lengths, view.generated_tokens[row], i, view.iteration)
            held[i] = view.prompt_tokens[row] + view.generated_tokens[row] + rounding
        _sort(left, held, count)
    admitted = 0
    row = view.waiting_head[0]
    while row >= 0 and count < len(left):
        left[count] = _draw_left(lengths, view.generated_tokens[row], count, view.iteration)
        held[count] = view.prompt_tokens[row] + view.generated_tokens[row] + rounding
        _sink(left, held, count, 1)
        count += 1
        if _peak_tokens(left, held, count) > limit:
            break
        admitted += 1
        row = view.next_waiting[row]
    out_quota[0] = never_idle(view, admitted)
    return np.inf


def _observe(params, memory, event):
    if event.kind == FINISHED and event.generated_tokens > 0:
        came, lengths, _, _ = _parts(params, memory)
        oldest = int(memory[0])
        _replace(lengths, came[oldest], float(event.generated_tokens))
        came[oldest] = event.generated_tokens
        memory[0] = (oldest + 1) % len(came)


@policy("past-future")
class PastFuture(Policy):
    """Admit while the predicted peak leaves a share of memory in reserve.

    Attributes:
        reserve: share of the KV memory that the predicted peak leaves free.
        window: completed requests whose lengths are remembered.
        seats: most residents that are looked ahead for; no more are admitted.
        output_quantiles: lengths, each of an equal share of requests, that fill the window at first, tokens.
    """

    reserve: float
    window: float
    seats: float
    output_quantiles: tuple[float, ...]

    def __post_init__(self) -> None:
        self.require(0 <= self.reserve < 1, f"reserve = {self.reserve} must be at least 0 and below 1")
        for name in ("window", "seats"):
            value = getattr(self, name)
            self.require(1 <= value <= MAX_ENTRIES, f"{name} = {value} must be from 1 to {MAX_ENTRIES:,.0f}")
        self.require(len(self.output_quantiles) > 0, "needs at least one output quantile")
        in_range = all(1 <= length < MANY for length in self.output_quantiles)
        self.require(in_range, f"output quantiles {self.output_quantiles} must be at least 1 token, and finite")

    admit = staticmethod(_admit)
    observe = staticmethod(_observe)

    def new_memory(self) -> FloatArray:
        """The window, filled with the quantiles in turn, and room to sort residents."""
        came = np.resize(np.array(self.output_quantiles, dtype=np.float64), int(self.window))
        return np.concatenate(([0.0], came, np.sort(came), np.zeros(2 * int(self.seats))))

    @classmethod
    def from_plan(cls, plan: FluidPlan, **overrides: Any) -> Self:
        """The paper's window of 1000 and reserve of 5%, the engine's seats, and the plan's output lengths."""
        planned = {
            "reserve": 0.05,
            "window": 1000.0,
            "seats": float(seats_of(plan.limits)),
            "output_quantiles": tuple(max(1.0, float(length)) for length in plan.mix.output_quantiles),
        }
        return cls(**(planned | overrides))
