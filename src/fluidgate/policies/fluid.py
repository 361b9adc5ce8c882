"""`fluid`: admission by a forecast of memory. No output lengths, nothing to tune.

The head of the queue enters if the predicted distribution of KV over the residents' remaining lives, with it, stays
below what may be used at every future time (model.md §7): mean + m standard deviations ≤ usable share · capacity.
Output lengths are learned as they come (`length_law`), per class where the traffic is labelled. The margin m follows
what it does, in closed loop (`margin`); where no prior is known, so does what enters beyond the forecast at the start.

Where lengths are so regular that cohorts would stay in phase (coherence χ ≥ 0.8, model.md §8), admissions also
follow the fluid equilibrium's own pace, x* per iteration, class by class. Requests that all fit enter at once: far from
memory's end the policy is greedy, and it never holds an idle engine.

Where clients wait only so long, those that cannot be served in time are shed: whoever has waited too long to be worth a
start, and while more wait than can be started in time, those whose completion would take most of the engine for what it
is worth: mostly long prompts, or short ones where the long ones have short answers (`parts.in_time`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.fluid.stability import COHERENT
from fluidgate.kernel import kernel
from fluidgate.policies.parts.fluid_laws import ESTIMATE_COMPLETIONS, laws_are_due, learn_laws
from fluidgate.policies.parts.fluid_memory import (
    CLASS_SIZE,
    CLASSES,
    CLOSED,
    COHERENCE,
    COMPLETIONS,
    CREDIT,
    DROP_RESIDENTS,
    EVICTED_SHARE,
    GRID,
    ITERATION,
    LAWS,
    LOOP,
    OF_RESIDENTS,
    PACE,
    READY,
    REFUSED,
    UNTESTED,
    in_time_at,
    law_at,
    stands,
)
from fluidgate.policies.parts.fluid_walk import ALL_ENTER, NO_ROOM, all_fit, beyond_forecast, next_in_order, walk
from fluidgate.policies.parts.in_time import (
    FOR_EVER_S,
    Wanted,
    classes_are_ordered,
    classes_differ,
    first_waiting,
    latest_starts_s,
    leaving_is_known,
    looks_at_all,
    needs_are_due,
    new_in_time,
    note_announced,
    note_entry,
    note_event,
    note_left_over,
    note_starts,
    note_time,
    set_need,
)
from fluidgate.policies.parts.length_law import (
    MEANS_WINDOW,
    OUTPUT,
    OUTPUT_SPREAD,
    SHARE,
    count_completion,
    count_departure,
    new_law,
)
from fluidgate.policies.parts.margin import (
    HELD,
    MOST_EVICTED,
    allowance,
    new_margin,
    note_arrival,
    note_completion,
    note_eviction,
    note_return,
)
from fluidgate.policies.parts.pacing import entering
from fluidgate.policies.parts.residents import forecast_residents, unshared_share
from fluidgate.policies.parts.shedding import name_hopeless, name_late, room_in_order
from fluidgate.policies.protocol import ABORTED, ADMITTED, ARRIVED, FINISHED, MANY, PREEMPTED, SHED, Policy
from fluidgate.policies.registry import policy

if TYPE_CHECKING:
    from fluidgate.fluid import FluidPlan


@kernel
def _accrue_credits(params, memory, view):
    """Let every class enter at its share of the pace; a light mix may run ahead of it by its own spread."""
    for c in range(int(params[LAWS])):
        law = law_at(params, c)
        pace = memory[PACE] * memory[law + SHARE]
        variation = memory[law + OUTPUT_SPREAD] / memory[law + OUTPUT]
        most = 2.0 + variation * np.sqrt(memory[law + SHARE] * len(view.residents))
        accrued = memory[law + CREDIT] + pace * (view.iteration - memory[ITERATION])
        memory[law + CREDIT] = min(accrued, max(most, 1.0 + pace))


@kernel
def _is_closed(params, memory, view, paced):
    """Whether nobody may enter, found without a forecast: no seat is free, or the first in order was refused."""
    if len(view.residents) >= view.max_num_seqs:
        return True
    if len(view.residents) == 0 or (paced and len(view.waiting_head) > 1):
        return False
    first = first_waiting(memory, in_time_at(params), int(params[LAWS]), view)
    return first < 0 or first == memory[REFUSED]


@kernel
def _decide(params, memory, view, out_quota):
    """Set the quota; returns whether memory, seats or the pace keep some of the waiting out."""
    if memory[READY] != 0.0 and stands(memory) and _is_closed(params, memory, view, False):
        out_quota[:] = 0
        return True
    if laws_are_due(memory, view, ESTIMATE_COMPLETIONS):
        learn_laws(params, memory, view)
        memory[REFUSED] = -1.0
    at = in_time_at(params)
    paced = memory[COHERENCE] >= COHERENT and not classes_differ(memory, at)
    if paced:
        _accrue_credits(params, memory, view)
    memory[ITERATION] = view.iteration
    if _is_closed(params, memory, view, paced):
        out_quota[:] = 0
        return True
    unshared = unshared_share(view)
    if not paced and not classes_are_ordered(memory, at) and all_fit(params, memory, view, unshared):
        return False  # and the engine takes them by arrival
    forecast_residents(memory, OF_RESIDENTS, GRID, view, unshared, CLASSES, int(params[LAWS]), CLASS_SIZE)
    allowed = allowance(memory, LOOP, params[EVICTED_SHARE])
    if allowed > 0.0:
        allowed -= beyond_forecast(params, memory, view, unshared)
    end = walk(params, memory, view, out_quota, False, unshared, allowed)
    if end == NO_ROOM:
        memory[LOOP + HELD] = 1.0
    if paced and end != ALL_ENTER:
        walk(params, memory, view, out_quota, True, unshared, allowed)
        if len(view.residents) == 0 and entering(out_quota) == 0:
            out_quota[next_in_order(params, memory, view, False)[1]] = 1
    return end == NO_ROOM or (paced and end != ALL_ENTER)


def _classify(params, request):
    return min(max(request.class_id, 0), int(params[LAWS]) - 1)


def _admit(params, memory, view, out_quota):
    memory[CLOSED] = _decide(params, memory, view, out_quota)
    return np.inf if stands(memory) else view.now_s


def _observe(params, memory, event):
    law = law_at(params, event.class_id)
    if event.kind == FINISHED or event.kind == PREEMPTED or event.kind == ABORTED or event.kind == SHED:
        memory[REFUSED] = -1.0
    note_event(memory, in_time_at(params), int(params[LAWS]), event)
    if event.kind == FINISHED:
        count_completion(memory, law, event.prompt_tokens, event.generated_tokens)
        memory[COMPLETIONS] += 1.0
        memory[UNTESTED] += 1.0
        note_completion(memory, LOOP, params[EVICTED_SHARE], memory[COHERENCE] >= COHERENT)
    elif (event.kind == ABORTED or event.kind == SHED) and event.generated_tokens > 0:
        count_departure(memory, law, event.generated_tokens)
    elif event.kind == PREEMPTED:
        note_eviction(memory, LOOP)
    elif event.kind == ADMITTED:
        note_entry(memory, in_time_at(params), event)
        memory[law + CREDIT] = max(0.0, memory[law + CREDIT] - 1.0)
        if event.generated_tokens > 0:
            held = event.prompt_tokens + event.generated_tokens
            note_return(memory, LOOP, event.computed_tokens / held)
    elif event.kind == ARRIVED:
        note_arrival(memory, LOOP)
        for c in range(int(params[LAWS])):
            other = law_at(params, c)
            memory[other + SHARE] += ((1.0 if other == law else 0.0) - memory[other + SHARE]) / MEANS_WINDOW


def _shed(params, memory, view, out_rows):
    at, laws = in_time_at(params), int(params[LAWS])
    pace_s = note_time(memory, at, view)
    note_starts(memory, at, view)
    if memory[READY] == 0.0 or pace_s == 0.0:
        note_left_over(memory, at, view.waiting_count.sum())
        return np.inf
    named = 0
    if needs_are_due(memory, at, view):
        for queue in range(len(view.waiting_head)):
            note_announced(memory, at, laws, view, view.waiting_head[queue])
        by_leaving = leaving_is_known(memory, at, laws, view)
        for c in range(laws):
            set_need(memory, at, laws, c, law_at(params, c), view, pace_s, by_leaving)
        if params[DROP_RESIDENTS] > 0.0:
            named = name_hopeless(memory, at, laws, CLASSES, CLASS_SIZE, view, pace_s, out_rows, named)
    looks, dropped = looks_at_all(memory, at, view), named
    free = 0 if memory[CLOSED] != 0.0 else room_in_order(memory, at, laws, view)
    named, wake_s = name_late(memory, at, laws, view, free, pace_s, out_rows, named, looks)
    note_left_over(memory, at, view.waiting_count.sum() - (named - dropped))
    return wake_s


_BY_CLASS = (("class_timeouts_s", 0.0, FOR_EVER_S), ("class_weights", 1e-6, 1e6), ("class_floors", 0.0, 1.0))
"""Fields of one number per class, the least and the largest that it may be."""


@policy("fluid")
class Fluid(Policy):
    """Admit while the predicted memory stays below capacity.

    Attributes:
        evicted_share: the acceptable evictions per request, from 0 to 4.
        shares: per class, its share of the requests (the prior).
        prompt_tokens: per class, its mean prompt (the prior).
        output_quantiles: per class, middles of equal shares of its output lengths, end to end (the prior); empty:
            no prior.
        timeout_s, ttft_timeout_s: how long clients wait for the last and the first token, seconds; 0: for ever, or as
            long as they say.
        class_timeouts_s: per class, how long its clients wait for the last token, in place of `timeout_s`; 0: for ever.
        class_weights: per class, what one of its completions is worth where not all can be served.
        class_floors: per class, the share of its requests to complete before they are given up for others.
        announced: whether clients say how long they wait.
        learned: whether it is learned from those who give up.
        drop_residents: whether residents that have no chance to end in time are dropped as well.
    """

    evicted_share: float = 0.1
    shares: tuple[float, ...] = (1.0,)
    prompt_tokens: tuple[float, ...] = (512.0,)
    output_quantiles: tuple[float, ...] = ()
    timeout_s: float = 0.0
    ttft_timeout_s: float = 0.0
    class_timeouts_s: tuple[float, ...] = ()
    class_weights: tuple[float, ...] = ()
    class_floors: tuple[float, ...] = ()
    announced: bool = False
    learned: bool = False
    drop_residents: bool = False

    refusals_stand = True
    renamed = {"stalled_share": "evicted_share"}  # noqa: RUF012 (no field: a class variable of `Policy`)

    def __post_init__(self) -> None:
        classes = len(self.shares)
        self.require(
            0 <= self.evicted_share <= MOST_EVICTED,
            f"evicted_share = {self.evicted_share} must be from 0 to {MOST_EVICTED:g}",
        )
        for name, seconds in (("timeout_s", self.timeout_s), ("ttft_timeout_s", self.ttft_timeout_s)):
            self.require(0 <= seconds < MANY, f"{name} = {seconds} must be at least 0 seconds, and finite")
        self.require(classes >= 1, "shares must name at least one class")
        self.require(len(self.prompt_tokens) == classes, "needs one prompt length per class")
        even = len(self.output_quantiles) % classes == 0
        self.require(even, "needs equally many output quantiles per class")
        self.require(all(0 < s < np.inf for s in self.shares), f"shares {self.shares} must be above 0 and finite")
        lengths = (*self.prompt_tokens, *self.output_quantiles)
        self.require(all(1 <= n < MANY for n in lengths), "lengths must be at least 1 token, and finite")
        self._check_classes()

    def _check_classes(self) -> None:
        classes = len(self.shares)
        for name, least, most in _BY_CLASS:
            given = getattr(self, name)
            self.require(len(given) in (0, classes), f"{name} needs one number per class, {classes} in all")
            within = all(least <= value <= most for value in given)
            self.require(within, f"{name} = {given} must be from {least:g} to {most:g}")
        needless = len(self.class_weights) + len(self.class_floors) > 0 and not self.sheds
        self.require(not needless, "class_weights and class_floors count only under deadlines; give timeout_s too")

    classify = staticmethod(_classify)
    admit = staticmethod(_admit)
    shed = staticmethod(_shed)
    observe = staticmethod(_observe)

    @property
    def sheds(self) -> bool:
        """Where clients wait only so long."""
        timeouts_s = (self.timeout_s, self.ttft_timeout_s, *self.class_timeouts_s)
        return self.announced or self.learned or any(seconds > 0.0 for seconds in timeouts_s)

    @property
    def needs_timeouts(self) -> bool:
        """Where clients say them."""
        return self.announced

    @property
    def num_classes(self) -> int:
        """One class per label of the plan's traffic."""
        return len(self.shares)

    def new_memory(self) -> FloatArray:
        """The laws that the prior gives, and the first margin."""
        header = np.zeros(CLASSES)
        header[REFUSED] = -1.0
        header[LOOP:GRID] = new_margin(has_prior=len(self.output_quantiles) > 0)
        classes = len(self.shares)
        quantiles = np.array(self.output_quantiles).reshape(classes, -1)
        laws = [new_law(*prior) for prior in zip(self.shares, self.prompt_tokens, quantiles, strict=True)]
        place = [1.0, -1.0, 0.0]  # credit, cursor, entering
        wanted = [
            Wanted(*values)
            for values in zip(
                self.class_timeouts_s or (self.timeout_s,) * classes,
                self.class_weights or (1.0,) * classes,
                self.class_floors or (0.0,) * classes,
                strict=True,
            )
        ]
        in_time = new_in_time(wanted, self.ttft_timeout_s, self.learned)
        return np.concatenate([header, *(part for law in laws for part in (law, place)), in_time])

    def latest_starts_s(self, memory: FloatArray) -> tuple[float, ...]:
        """Of requests whose prompts fill one iteration; infinity where the clients of a class wait for ever."""
        laws = len(self.shares)
        return latest_starts_s(memory, CLASSES + laws * CLASS_SIZE, laws) if self.sheds else ()

    @classmethod
    def from_plan(cls, plan: FluidPlan, **overrides: Any) -> Self:
        """The classes of the plan's traffic, as a prior, and the timeouts that its clients share."""
        classes = plan.mix.classes
        timeout_s, ttft_timeout_s = (0.0, 0.0) if plan.deadlines is None else plan.deadlines.timeouts_s
        planned = {
            "shares": tuple(c.share for c in classes),
            "prompt_tokens": tuple(c.mean_prompt_tokens for c in classes),
            "output_quantiles": tuple(float(q) for c in classes for q in c.output_quantiles),
            "timeout_s": timeout_s,
            "ttft_timeout_s": ttft_timeout_s,
        }
        return cls(**(planned | overrides))
