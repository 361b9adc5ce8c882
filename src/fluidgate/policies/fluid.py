"""`fluid`: admission by a forecast of memory. No output lengths, nothing to tune.

The head of the queue enters if the predicted distribution of KV over the residents' remaining lives, with it, stays
below capacity at every future time (model.md §7): mean + m standard deviations ≤ (1 - m/100) · capacity. Output lengths
are learned as they come (`length_law`), per class where the traffic is labelled. The margin m follows what it does, in
closed loop (`margin`); where no prior is known, so does what enters beyond the forecast at the start.

Where lengths are so regular that cohorts would stay in phase (coherence χ ≥ 0.8, model.md §8), admissions also
follow the fluid equilibrium's own pace, x* per iteration, class by class. Requests that all fit enter at once: far from
memory's end the policy is greedy, and it never holds an idle engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.fluid.stability import COHERENT
from fluidgate.kernel import kernel
from fluidgate.policies.parts.forecast import FORECAST_SIZE, add_request, clear_forecast, copy_forecast, peak
from fluidgate.policies.parts.length_law import (
    CELLS,
    LAW_SIZE,
    MEANS_WINDOW,
    MEMORY,
    OUTPUT,
    OUTPUT_SPREAD,
    PROMPT,
    SHARE,
    SURVIVAL,
    TIMES,
    WIDTH,
    count_completion,
    count_resident,
    cover,
    estimate,
    fade,
    horizon,
    new_law,
    start_count,
    tabulate,
)
from fluidgate.policies.parts.margin import (
    COMPLETED,
    HELD,
    MARGIN,
    MARGIN_SIZE,
    RESERVE,
    SPREAD,
    allowance,
    doubt,
    new_margin,
    note_arrival,
    note_completion,
    note_eviction,
    note_return,
)
from fluidgate.policies.protocol import ABORTED, ADMITTED, ARRIVED, FINISHED, MANY, PREEMPTED, Policy
from fluidgate.policies.registry import policy

if TYPE_CHECKING:
    from fluidgate.fluid import FluidPlan

# params: [evicted_share, laws, share of law 1.., laws, prompt of law 1.., ...]
_EVICTED_SHARE, LAWS, SHARES = range(3)

# memory: a header, the margin's loop, the grid of times, two forecasts, and per class its law and place in the queue
(
    _READY,
    _COMPLETIONS,  # since the laws were estimated
    _ESTIMATED,  # the iteration in which they were
    _UNTESTED,  # completions since the coherence was computed
    _COHERENCE,
    _PACE,  # x*, admissions per iteration
    _ITERATION,  # of the last decision
    _REFUSED,  # row that did not fit and cannot fit before a resident leaves
    _LOOP,
) = range(9)
_GRID = _LOOP + MARGIN_SIZE
_RESIDENTS = _GRID + TIMES
_TRIAL = _RESIDENTS + FORECAST_SIZE
_CLASSES = _TRIAL + FORECAST_SIZE
_CREDIT, _CURSOR, _ENTERING = LAW_SIZE, LAW_SIZE + 1, LAW_SIZE + 2
_CLASS_SIZE = LAW_SIZE + 3

ESTIMATE_COMPLETIONS, ESTIMATE_ITERATIONS = 16, 512
"""The laws are estimated again after this many completions or iterations."""

WINDOWS, MIN_WINDOW = 4.0, 200.0
"""Completions remembered: this many per resident, and at least this many."""

ALL_ENTER, ENOUGH, NO_ROOM = range(3)
"""How a walk along the queue ends: it is empty, the engine takes no more in this iteration, the forecast refuses."""

MAX_TRIED = 64
"""Requests that the forecast is tried on, beyond what one iteration takes, to see whether all fit."""

COHERENCE_COMPLETIONS, FREQUENCIES = 256, 64
"""The coherence from which admissions are paced, how often it is computed, and at how many frequencies."""

RESUME = 0.5
"""Share of the margin at which an evicted request of mean size comes back: its stream is silent. The share
grows with its size, up to the whole margin: a large request is expensive to evict again."""


@kernel
def _law(params, class_id):
    """Where the law of a class begins; labels that the plan did not know share the last one."""
    return _CLASSES + min(max(class_id, 0), int(params[LAWS]) - 1) * _CLASS_SIZE


@kernel
def _is_due(memory, view):
    """Whether to estimate the laws; at a start without a prior, whenever as much again has been seen."""
    completions, iterations = ESTIMATE_COMPLETIONS, ESTIMATE_ITERATIONS
    if doubt(memory, _LOOP) > 0.0:
        completions = min(completions, max(1.0, memory[_LOOP + COMPLETED] - memory[_COMPLETIONS]))
        iterations = min(iterations, max(1.0, memory[_ESTIMATED]))
    is_first = memory[_READY] == 0.0
    return is_first or memory[_COMPLETIONS] >= completions or view.iteration - memory[_ESTIMATED] >= iterations


@kernel
def _learn(params, memory, view):
    """Estimate the laws from completions and residents, and what follows from them."""
    laws = int(params[LAWS])
    window = max(MIN_WINDOW, WINDOWS * len(view.residents))
    for c in range(laws):
        start_count(memory, _law(params, c))
    for row in view.residents:
        cover(memory, _law(params, view.class_id[row]), view.generated_tokens[row] + 1)
    for row in view.residents:
        count_resident(memory, _law(params, view.class_id[row]), view.generated_tokens[row])
    longest, kv, output, prompt, share = 0.0, 0.0, 0.0, 0.0, 0.0
    for c in range(laws):
        law = _law(params, c)
        estimate(memory, law, 0.5 * (view.block_size - 1))
        longest = max(longest, horizon(memory, law, view.total_blocks * view.block_size))
        share += memory[law + SHARE]
        kv += memory[law + SHARE] * memory[law + MEMORY]
        output += memory[law + SHARE] * memory[law + OUTPUT]
        prompt += memory[law + SHARE] * memory[law + PROMPT]
    for k in range(TIMES):  # close together where most happens
        memory[_GRID + k] = np.floor(longest * ((k + 1) / TIMES) ** 2) + 1.0
    for c in range(laws):
        tabulate(memory, _law(params, c), _GRID)
        fade(memory, _law(params, c), (1.0 - 1.0 / window) ** memory[_COMPLETIONS])
    by_memory = view.total_blocks * view.block_size / kv
    memory[_PACE] = share * min(by_memory, view.token_budget / (prompt + output), view.max_num_seqs / output)
    if memory[_READY] == 0.0 or memory[_UNTESTED] >= COHERENCE_COMPLETIONS:
        memory[_COHERENCE] = _coherence(params, memory, output / share)
        memory[_UNTESTED] = 0.0
    memory[_READY], memory[_COMPLETIONS], memory[_ESTIMATED] = 1.0, 0.0, view.iteration


@kernel
def _coherence(params, memory, mean_output):
    """χ = max |E exp(iωO)| over ω in [0.7, 6]·2π/E[O] (model.md §8), for the law of all classes together."""
    most = 0.0
    for f in range(FREQUENCIES):
        omega = (0.7 + 5.3 * f / (FREQUENCIES - 1)) * 2.0 * np.pi / mean_output
        real, imaginary, total = 0.0, 0.0, 0.0
        for c in range(int(params[LAWS])):
            law = _law(params, c)
            for j in range(CELLS):
                ending = memory[law + SHARE] * (memory[law + SURVIVAL + j] - memory[law + SURVIVAL + j + 1])
                if ending > 1e-4:
                    angle = omega * (j + 1) * memory[law + WIDTH]
                    real += ending * np.cos(angle)
                    imaginary += ending * np.sin(angle)
                total += ending
        most = max(most, np.hypot(real, imaginary) / total)
    return most


@kernel
def _accrue_credits(params, memory, view):
    """Let every class enter at its share of the pace; a light mix may run ahead of it by its own spread."""
    for c in range(int(params[LAWS])):
        law = _law(params, c)
        pace = memory[_PACE] * memory[law + SHARE]
        variation = memory[law + OUTPUT_SPREAD] / memory[law + OUTPUT]
        most = 2.0 + variation * np.sqrt(memory[law + SHARE] * len(view.residents))
        accrued = memory[law + _CREDIT] + pace * (view.iteration - memory[_ITERATION])
        memory[law + _CREDIT] = min(accrued, max(most, 1.0 + pace))


@kernel
def _forecast_residents(params, memory, view):
    """Forecast the residents; returns the share of prompt tokens that need blocks of their own."""
    size = view.block_size
    blocks, prompts = 0, 0
    for row in view.residents:
        blocks += (view.computed_tokens[row] + size - 1) // size
        prompts += view.prompt_tokens[row]
    shared_tokens = (blocks - (view.total_blocks - view.free_blocks)) * size
    unshared = 1.0 - min(0.95, max(0.0, shared_tokens / max(1, prompts)))
    clear_forecast(memory, _RESIDENTS)
    for row in view.residents:
        _add(params, memory, view, _RESIDENTS, row, unshared)
    return unshared


@kernel
def _add(params, memory, view, at, row, unshared):
    age = view.generated_tokens[row]
    held = unshared * view.prompt_tokens[row] + age + 0.5 * (view.block_size - 1)
    add_request(memory, at, _GRID, _law(params, view.class_id[row]), held, age)


@kernel
def _fits(memory, at, margin, capacity):
    """Whether a forecast leaves a margin below capacity, and its standard deviation at its peak; KV tokens."""
    predicted, spread = peak(memory, at, margin)
    return predicted <= (1.0 - RESERVE * margin) * capacity, spread


@kernel
def _beyond_forecast(params, memory, view, unshared):
    """How many residents the forecast would not have let in. The first always enters."""
    clear_forecast(memory, _TRIAL)
    beyond = 0
    for i in range(len(view.residents)):
        _add(params, memory, view, _TRIAL, view.residents[i], unshared)
        fits, _ = _fits(memory, _TRIAL, memory[_LOOP + MARGIN], view.total_blocks * view.block_size)
        if i > 0 and not fits:
            beyond += 1
    return beyond


@kernel
def _next_in_order(params, memory, view, paced):
    """The earliest arrival among the classes that may enter; -1 if there is none."""
    best, best_queue = -1, -1
    for queue in range(len(view.waiting_head)):
        law = _law(params, queue)
        row = int(memory[law + _CURSOR])
        if row < 0:
            continue
        class_law = _law(params, view.class_id[row])
        if paced and memory[class_law + _CREDIT] - memory[class_law + _ENTERING] < 1.0:
            continue
        if best < 0 or view.arrival_s[row] < view.arrival_s[best]:
            best, best_queue = row, queue
    return best, best_queue


@kernel
def _start_walk(params, memory, view, out_quota):
    for queue in range(len(view.waiting_head)):
        memory[_law(params, queue) + _CURSOR] = view.waiting_head[queue]
        out_quota[queue] = 0
    for c in range(int(params[LAWS])):
        memory[_law(params, c) + _ENTERING] = 0.0
    copy_forecast(memory, _RESIDENTS, _TRIAL)


@kernel
def _margin_of(params, memory, view, row):
    """The margin at which a waiting request enters."""
    if view.generated_tokens[row] == 0:
        return memory[_LOOP + MARGIN]
    law = _law(params, view.class_id[row])
    mean_held = memory[law + MEMORY] / memory[law + OUTPUT]
    held = view.prompt_tokens[row] + view.generated_tokens[row]
    return memory[_LOOP + MARGIN] * min(1.0, RESUME * held / mean_held)


@kernel
def _walk(params, memory, view, out_quota, paced, unshared, allowed):
    """Let requests enter in order while the forecast allows it, and `allowed` ones beyond it; returns how it ended.

    Where the token budget ends the iteration the forecast goes on for `MAX_TRIED` requests, to see whether all fit.
    """
    _start_walk(params, memory, view, out_quota)
    residents = len(view.residents)
    capacity = view.total_blocks * view.block_size
    entering, tokens = 0, 0
    while (tokens < view.token_budget or entering < MAX_TRIED) and residents + entering < view.max_num_seqs:
        row, queue = _next_in_order(params, memory, view, paced)
        if row < 0:
            return ALL_ENTER
        if row == memory[_REFUSED] and residents > 0 and entering == 0:
            return NO_ROOM
        margin = _margin_of(params, memory, view, row)
        _add(params, memory, view, _TRIAL, row, unshared)
        fits, spread = _fits(memory, _TRIAL, margin, capacity)
        if residents + entering > 0 and not fits:
            if allowed <= 0.0:
                memory[_LOOP + SPREAD] = spread / capacity
                if entering == 0:
                    memory[_REFUSED] = row
                return NO_ROOM
            allowed -= 1.0
        memory[_law(params, queue) + _CURSOR] = view.next_waiting[row]
        memory[_law(params, view.class_id[row]) + _ENTERING] += 1.0
        out_quota[queue] += 1
        entering += 1
        tokens += view.prompt_tokens[row] + view.generated_tokens[row]
    return ALL_ENTER if _next_in_order(params, memory, view, False)[0] < 0 else ENOUGH


@kernel
def _decide(params, memory, view, out_quota):
    if _is_due(memory, view):
        _learn(params, memory, view)
        memory[_REFUSED] = -1.0
    paced = memory[_COHERENCE] >= COHERENT
    if paced:
        _accrue_credits(params, memory, view)
    memory[_ITERATION] = view.iteration
    if len(view.waiting_head) == 1 and view.waiting_head[0] == memory[_REFUSED] and len(view.residents) > 0:
        out_quota[0] = 0
        return
    unshared = _forecast_residents(params, memory, view)
    allowed = allowance(memory, _LOOP, params[_EVICTED_SHARE])
    if allowed > 0.0:
        allowed -= _beyond_forecast(params, memory, view, unshared)
    end = _walk(params, memory, view, out_quota, False, unshared, allowed)
    if end == NO_ROOM:
        memory[_LOOP + HELD] = 1.0
    if paced and end != ALL_ENTER:
        _walk(params, memory, view, out_quota, True, unshared, allowed)
        if len(view.residents) == 0 and not out_quota.any():
            out_quota[_next_in_order(params, memory, view, False)[1]] = 1


def _classify(params, request):
    return min(max(request.class_id, 0), int(params[LAWS]) - 1)


def _admit(params, memory, view, out_quota):
    _decide(params, memory, view, out_quota)
    return np.inf


def _observe(params, memory, event):
    law = _law(params, event.class_id)
    if event.kind == FINISHED or event.kind == PREEMPTED or event.kind == ABORTED:
        memory[_REFUSED] = -1.0
    if event.kind == FINISHED:
        count_completion(memory, law, event.prompt_tokens, event.generated_tokens)
        memory[_COMPLETIONS] += 1.0
        memory[_UNTESTED] += 1.0
        note_completion(memory, _LOOP, params[_EVICTED_SHARE], memory[_COHERENCE] >= COHERENT)
    elif event.kind == PREEMPTED:
        note_eviction(memory, _LOOP)
    elif event.kind == ADMITTED:
        memory[law + _CREDIT] = max(0.0, memory[law + _CREDIT] - 1.0)
        if event.generated_tokens > 0:
            held = event.prompt_tokens + event.generated_tokens
            note_return(memory, _LOOP, event.computed_tokens / held)
    elif event.kind == ARRIVED:
        note_arrival(memory, _LOOP)
        for c in range(int(params[LAWS])):
            other = _law(params, c)
            memory[other + SHARE] += ((1.0 if other == law else 0.0) - memory[other + SHARE]) / MEANS_WINDOW


@policy("fluid")
class Fluid(Policy):
    """Admit while the predicted memory stays below capacity.

    Attributes:
        evicted_share: the acceptable share of requests that are evicted while they run, from 0 to 1.
        shares: per class, its share of the requests (the prior).
        prompt_tokens: per class, its mean prompt (the prior).
        output_quantiles: per class, middles of equal shares of its output lengths, end to end (the prior); empty:
            no prior.
    """

    evicted_share: float = 0.1
    shares: tuple[float, ...] = (1.0,)
    prompt_tokens: tuple[float, ...] = (512.0,)
    output_quantiles: tuple[float, ...] = ()

    renamed = {"stalled_share": "evicted_share"}  # noqa: RUF012 (no field: a class variable of `Policy`)

    def __post_init__(self) -> None:
        classes = len(self.shares)
        self.require(0 <= self.evicted_share <= 1, f"evicted_share = {self.evicted_share} must be from 0 to 1")
        self.require(classes >= 1, "shares must name at least one class")
        self.require(len(self.prompt_tokens) == classes, "needs one prompt length per class")
        even = len(self.output_quantiles) % classes == 0
        self.require(even, "needs equally many output quantiles per class")
        self.require(all(0 < s < np.inf for s in self.shares), f"shares {self.shares} must be above 0 and finite")
        lengths = (*self.prompt_tokens, *self.output_quantiles)
        self.require(all(1 <= n < MANY for n in lengths), "lengths must be at least 1 token, and finite")

    classify = staticmethod(_classify)
    admit = staticmethod(_admit)
    observe = staticmethod(_observe)

    @property
    def num_classes(self) -> int:
        """One class per label of the plan's traffic."""
        return len(self.shares)

    def new_memory(self) -> FloatArray:
        """The laws that the prior gives, and the first margin."""
        header = np.zeros(_CLASSES)
        header[_REFUSED] = -1.0
        header[_LOOP:_GRID] = new_margin(has_prior=len(self.output_quantiles) > 0)
        quantiles = np.array(self.output_quantiles).reshape(len(self.shares), -1)
        laws = [new_law(*prior) for prior in zip(self.shares, self.prompt_tokens, quantiles, strict=True)]
        place = [1.0, -1.0, 0.0]  # credit, cursor, entering
        return np.concatenate([header, *(part for law in laws for part in (law, place))])

    @classmethod
    def from_plan(cls, plan: FluidPlan, **overrides: Any) -> Self:
        """The classes of the plan's traffic, as a prior."""
        classes = plan.mix.classes
        planned = {
            "shares": tuple(c.share for c in classes),
            "prompt_tokens": tuple(c.mean_prompt_tokens for c in classes),
            "output_quantiles": tuple(float(q) for c in classes for q in c.output_quantiles),
        }
        return cls(**(planned | overrides))
