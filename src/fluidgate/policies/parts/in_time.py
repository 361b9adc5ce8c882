"""Who can still be served in time, lengths unknown: what a request needs, what it takes, and how fast the queue moves.

A request that starts with k iterations left before its client leaves ends in time with probability P(output ≤ k). Until
it ends, or its client leaves, it holds memory and a seat, and takes of the engine's time; these shares, summed over its
iterations, are what it takes. Its worth is its chance ÷ what it takes: a full engine has only so much to give, and so
the worth of those that it starts decides how many complete. A request is worth starting as long as it has nearly the
worth that it had when it came: what it needs is the least such k. Where lengths are alike, that is the length. Where
many are short and some very long it is little: what is started late, and still ends in time, is short.

The state is a stretch of the policy's memory that begins at index `at`: what is learned of the engine, and behind it
`CLASS_SIZE` numbers for each class.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.kernel import kernel
from fluidgate.policies.parts.costliest import COSTLIEST_SIZE
from fluidgate.policies.parts.learned_start import PREFILL, learned_latest_s
from fluidgate.policies.parts.length_law import PROMPT, horizon, survival
from fluidgate.policies.parts.pace import PACE_SIZE, SLOWEST, WAS_BUSY, new_pace, note_pace
from fluidgate.policies.parts.patience_law import (
    PATIENCE_SIZE,
    learn_patience,
    note_patience,
)
from fluidgate.policies.parts.prompt_groups import GROUPS_SIZE, note_gone, of_prompt
from fluidgate.policies.parts.residents import law_of
from fluidgate.policies.parts.token_time import (
    TOKEN_TIME_SIZE,
    iterations_per_token,
    note_entering_tokens,
    note_iterations,
)
from fluidgate.policies.parts.worth import KEPT_WORTH, POINTS, one_step_more, taken, worth_it_from
from fluidgate.policies.protocol import ABORTED, FINISHED, SHED

(
    _LEARNS,  # whether patience is learned from those who give up
    _TTFT_TIMEOUT,  # how long clients wait for the first token, seconds; 0: for ever
    _STARTED,  # requests that entered while others were left waiting,
    _HELD_S,  # and how long that was, seconds; both fade
    _ENTERED,  # since the last call
    _LEFT_OVER,  # who waited after the last call
    _ASKED_S,  # when that was
    _ASKED_ITERATION,
    _LEARNED,  # the iteration in which needs were computed; 0: never
    _LOOKED,  # the iteration in which all who wait were looked at
    _HELD,  # the share of the latest iterations in which some went on waiting
    _DIFFERS,  # whether classes differ in what is wanted of them
    _ORDERED,  # whether they differ in how long their clients wait
    _TOKEN_TIME,
) = range(PACE_SIZE, PACE_SIZE + 14)
COSTLIEST = _TOKEN_TIME + TOKEN_TIME_SIZE
_HEADER = COSTLIEST + COSTLIEST_SIZE
_TIMEOUT, _ANNOUNCED, _NEED, _LATEST, _CHANCE, _OUTPUT, _MOMENT, _CURSOR, _WEIGHT, _FLOOR, _SERVED, _GROUPS = range(12)
CLASS_SIZE = _GROUPS + GROUPS_SIZE
"""By class: how long its clients wait for the last token, seconds, 0: for ever; the same on average of those who say
it, 0: nobody does; iterations that a request needs to be worth starting; where patience is learned, the age by which
it must start; of one that is started at once, its chance to end in time, the iterations it takes, and the tokens that
it has generated, summed over them; the first of its queue that was not looked at; what a completion is worth, the share
of its requests that is to complete before others are, and the share of the latest that did; and how long requests ran
by the length of their prompts."""

LEAST_CHANCE = 1e-3
"""What a request has at least when its cost is computed, so that the cost of one without a chance is finite."""

HOPELESS = 0.01
"""A resident with a smaller chance to end in time has none."""

LEARN_ITERATIONS = 64
START_WINDOW = 512.0
"""Iterations between two computations of needs, and over which starts are counted, exponentially weighted."""

LOOKED_AT = 1024.0
"""Waiting requests that are looked at in an iteration, on average, to see who would be late."""

FEWEST_STARTS = 8.0
"""Starts that must have been counted before a wait is predicted from them."""

SERVED_WINDOW = 128.0
"""Requests of a class over which the share that completes is taken, exponentially weighted."""

FAIRNESS = 0.25
"""A class of which twice as large a share completes may take 2^0.25 less for a completion, or is given up first."""

FOR_EVER_S = 1e9
"""How long one waits that waits for ever, where those that do not go first."""

ANNOUNCED_WEIGHT = 0.1
"""Of the latest timeout in the mean of those that are announced."""


class Wanted(NamedTuple):
    """Of a class: how long its clients wait for the last token, seconds, 0: for ever; what a completion is worth; and
    the share of its requests to complete before they are given up for others."""

    timeout_s: float
    weight: float = 1.0
    floor: float = 0.0


def new_in_time(classes: Sequence[Wanted], ttft_timeout_s: float, learns: bool) -> FloatArray:
    """Nothing has been seen yet."""
    header = np.zeros(_HEADER)
    header[_LEARNS] = learns
    header[:PACE_SIZE] = new_pace(0.0)
    header[_TTFT_TIMEOUT] = ttft_timeout_s
    header[_DIFFERS] = len(set(classes)) > 1
    header[_ORDERED] = len({wanted.timeout_s for wanted in classes}) > 1
    places = np.zeros((len(classes), CLASS_SIZE))
    places[:, [_TIMEOUT, _WEIGHT, _FLOOR]] = classes
    places[:, _LATEST], places[:, _SERVED] = inf, 1.0
    return np.concatenate([header, places.ravel(), np.zeros(PATIENCE_SIZE)])


def latest_starts_s(memory: FloatArray, at: int, laws: int) -> tuple[float, ...]:
    """By class, the age at which a request must start at the latest, seconds; infinity: no matter when, or unknown."""
    iteration_s = float(memory[at + SLOWEST])
    if iteration_s == 0.0:
        return (inf,) * laws
    first_s = memory[at + _TTFT_TIMEOUT] - PREFILL * iteration_s if memory[at + _TTFT_TIMEOUT] > 0.0 else inf
    places = [at + _HEADER + c * CLASS_SIZE for c in range(laws)]
    last_s = [
        memory[k + _TIMEOUT] - (memory[k + _NEED] + PREFILL) * iteration_s if memory[k + _TIMEOUT] > 0.0 else inf
        for k in places
    ]
    learned_s = [memory[k + _LATEST] for k in places]
    return tuple(max(iteration_s, float(min(first_s, *each_s))) for each_s in zip(last_s, learned_s, strict=True))


@kernel
def _place(at, laws, class_id):
    """Where the numbers of a class begin; labels that the plan did not know share the last one."""
    return law_of(class_id, at + _HEADER, laws, CLASS_SIZE)


@kernel
def _patience(at, laws):
    """Where the laws of patience begin."""
    return at + _HEADER + laws * CLASS_SIZE


@kernel
def note_event(memory, at, laws, event):
    """Learn from an event how long clients wait, where that is asked for."""
    if memory[at + _LEARNS] > 0.0:
        note_patience(memory, _patience(at, laws), event)
    if event.kind == FINISHED or event.kind == ABORTED or event.kind == SHED:
        place = _place(at, laws, event.class_id)
        memory[place + _SERVED] += ((event.kind == FINISHED) - memory[place + _SERVED]) / SERVED_WINDOW
        if event.generated_tokens > 0:
            note_gone(memory, place + _GROUPS, event.prompt_tokens, event.generated_tokens)


@kernel
def note_entry(memory, at, event):
    """Count a request that has entered, and the tokens that are to be computed for it."""
    memory[at + _ENTERED] += 1.0
    tokens = event.prompt_tokens + event.generated_tokens - event.computed_tokens
    note_entering_tokens(memory, at + _TOKEN_TIME, tokens)


@kernel
def note_time(memory, at, view):
    """Learn how long iterations take; returns the seconds of one, 0 where they are not known."""
    iterations = view.iteration - memory[at + _ASKED_ITERATION]
    pace_s = note_pace(memory, at, view)
    if iterations > 0.0:
        seconds = view.now_s - memory[at + _ASKED_S] if memory[at + WAS_BUSY] else 0.0
        note_iterations(memory, at + _TOKEN_TIME, iterations, seconds, view.token_budget)
    return pace_s


@kernel
def note_starts(memory, at, view):
    """Count those that entered since the last call while others waited, and how often some were left waiting."""
    kept = np.exp(-(view.iteration - memory[at + _ASKED_ITERATION]) / START_WINDOW)
    held = memory[at + _ENTERED] < memory[at + _LEFT_OVER]
    memory[at + _HELD] = kept * memory[at + _HELD] + (1.0 - kept) * held
    if held:
        memory[at + _STARTED] = kept * memory[at + _STARTED] + memory[at + _ENTERED]
        memory[at + _HELD_S] = kept * memory[at + _HELD_S] + view.now_s - memory[at + _ASKED_S]
    memory[at + _ENTERED] = 0.0
    memory[at + _ASKED_S], memory[at + _ASKED_ITERATION] = view.now_s, view.iteration


@kernel
def is_short_of_time(memory, at):
    """Whether requests have been waiting most of the time of late, if only for the prompts before theirs."""
    return memory[at + _HELD] > 0.5


@kernel
def note_left_over(memory, at, waiting):
    """Say how many go on waiting, or enter next."""
    memory[at + _LEFT_OVER] = waiting


@kernel
def start_s(memory, at):
    """Seconds between two starts while requests wait; 0: not known yet."""
    return memory[at + _HELD_S] / memory[at + _STARTED] if memory[at + _STARTED] >= FEWEST_STARTS else 0.0


@kernel
def needs_are_due(memory, at, view):
    """Whether to compute needs again; if so, they count as computed now."""
    due = memory[at + _LEARNED] == 0.0 or view.iteration - memory[at + _LEARNED] >= LEARN_ITERATIONS
    if due:
        memory[at + _LEARNED] = max(1.0, view.iteration)
    return due


@kernel
def looks_at_all(memory, at, view):
    """Whether to look at all who wait, not only at the first: seldom where they are many, all day at the same cost."""
    if view.iteration - memory[at + _LOOKED] >= view.waiting_count.sum() / LOOKED_AT:
        memory[at + _LOOKED] = view.iteration
    return memory[at + _LOOKED] == view.iteration


@kernel
def leaving_is_known(memory, at, laws, view):
    """Estimate how long clients wait, where that is learned; returns whether enough have left to tell."""
    return memory[at + _LEARNS] > 0.0 and learn_patience(memory, _patience(at, laws), view)


@kernel
def set_need(memory, at, laws, c, law, view, pace_s, by_leaving):
    """Compute what a request of class c, of this law of lengths, needs and takes, and its chance.

    `by_leaving`: those who left tell how long clients wait.
    """
    place = _place(at, laws, c)
    timeout_s = memory[place + _TIMEOUT] if memory[place + _TIMEOUT] > 0.0 else memory[place + _ANNOUNCED]
    longest = horizon(memory, law, view.total_blocks * view.block_size)
    most = max(1.0, timeout_s / pace_s) if timeout_s > 0.0 else longest
    step, chance, output, moment = most / POINTS, 0.0, 0.0, 0.0
    for i in range(1, POINTS + 1):
        chance, output, moment = one_step_more(memory, law, step, i, output, moment)
    memory[place + _CHANCE], memory[place + _OUTPUT], memory[place + _MOMENT] = chance, output, moment
    if timeout_s > 0.0:
        token = iterations_per_token(memory, at + _TOKEN_TIME, view.token_budget)
        enough = KEPT_WORTH * chance / taken(view, token, memory[law + PROMPT], output, moment)
        memory[place + _NEED] = worth_it_from(memory, law, view, token, step, enough)
    if by_leaving:
        latest_s, chance = learned_latest_s(memory, _patience(at, laws), law, longest, pace_s)
        memory[place + _LATEST], memory[place + _CHANCE] = latest_s, min(chance, memory[place + _CHANCE])


@kernel
def classes_differ(memory, at):
    """Whether classes differ in what is wanted of them: then none has a pace of its own."""
    return memory[at + _DIFFERS] > 0.0


@kernel
def classes_are_ordered(memory, at):
    """Whether the clients of some classes leave sooner than those of others: their requests go first."""
    return memory[at + _ORDERED] > 0.0


@kernel
def due_s(memory, at, laws, view, row):
    """What requests of different classes are ordered by: when the client leaves, as far as its class says (s)."""
    if not classes_are_ordered(memory, at):
        return view.arrival_s[row]
    patience_s = memory[_place(at, laws, view.class_id[row]) + _TIMEOUT]
    return view.arrival_s[row] + (patience_s if patience_s > 0.0 else FOR_EVER_S)


@kernel
def first_waiting(memory, at, laws, view):
    """The first in order of all that wait; -1: nobody waits. `next_waiting` then gives the others in order."""
    for queue in range(len(view.waiting_head)):
        memory[_place(at, laws, queue) + _CURSOR] = view.waiting_head[queue]
    return _first_at_cursors(memory, at, laws, view)


@kernel
def next_waiting(memory, at, laws, view, row):
    """The next in order after `row`, which was the last one that was given; -1: there is none."""
    for queue in range(len(view.waiting_head)):
        if memory[_place(at, laws, queue) + _CURSOR] == row:
            memory[_place(at, laws, queue) + _CURSOR] = view.next_waiting[row]
    return _first_at_cursors(memory, at, laws, view)


@kernel
def _first_at_cursors(memory, at, laws, view):
    first = -1
    for queue in range(len(view.waiting_head)):
        row = int(memory[_place(at, laws, queue) + _CURSOR])
        if row >= 0 and (first < 0 or due_s(memory, at, laws, view, row) < due_s(memory, at, laws, view, first)):
            first = row
    return first


@kernel
def note_announced(memory, at, laws, view, row):
    """Learn how long clients of a class wait from one that has said it, for those that say it too."""
    if row >= 0 and len(view.timeout_s) > 0 and view.timeout_s[row] < np.inf:
        place = _place(at, laws, view.class_id[row])
        weight = 1.0 if memory[place + _ANNOUNCED] == 0.0 else ANNOUNCED_WEIGHT
        memory[place + _ANNOUNCED] += weight * (view.timeout_s[row] - memory[place + _ANNOUNCED])


@kernel
def timeout_s(memory, at, laws, view, row):
    """How long the client of a request waits for the last token, seconds: as it says, or what is known of its class."""
    if len(view.timeout_s) > 0 and view.timeout_s[row] < np.inf:
        return view.timeout_s[row]
    known_s = memory[_place(at, laws, view.class_id[row]) + _TIMEOUT]
    return known_s if known_s > 0.0 else np.inf


@kernel
def _ttft_timeout_s(memory, at, view, row):
    if len(view.ttft_timeout_s) > 0 and view.ttft_timeout_s[row] < np.inf:
        return view.ttft_timeout_s[row]
    return memory[at + _TTFT_TIMEOUT] if memory[at + _TTFT_TIMEOUT] > 0.0 else np.inf


@kernel
def latest_age_s(memory, at, laws, view, row, pace_s, finds_room):
    """The age at which a waiting request must start at the latest, at least an iteration, seconds.

    To be worth what it takes, or, where it finds room that nobody else waits for, to have a chance at all. Infinity: no
    matter when.
    """
    prefill = PREFILL - 1.0 + np.ceil((view.prompt_tokens[row] + view.generated_tokens[row]) / view.token_budget)
    place = _place(at, laws, view.class_id[row])
    need = 0.0 if finds_room else memory[place + _NEED]
    latest_s = timeout_s(memory, at, laws, view, row) - (need + prefill) * pace_s
    if not finds_room:
        latest_s = min(latest_s, memory[place + _LATEST] - (prefill - PREFILL) * pace_s)
    if view.generated_tokens[row] == 0:
        latest_s = min(latest_s, _ttft_timeout_s(memory, at, view, row) - prefill * pace_s)
    return max(latest_s, pace_s)


@kernel
def cost(memory, at, laws, view, row):
    """What a completion of a request like this one takes of the engine, iterations, over what it is worth."""
    place, prompt = _place(at, laws, view.class_id[row]), view.prompt_tokens[row]
    output, moment = of_prompt(memory, place + _GROUPS, prompt, memory[place + _OUTPUT], memory[place + _MOMENT])
    token = iterations_per_token(memory, at + _TOKEN_TIME, view.token_budget)
    worth = memory[place + _WEIGHT] * max(LEAST_CHANCE, memory[place + _CHANCE])
    if laws > 1:
        worth /= max(LEAST_CHANCE, memory[place + _SERVED]) ** FAIRNESS
    return taken(view, token, prompt, output, moment) / worth


@kernel
def is_given_up_for_others(memory, at, laws, view, row):
    """Whether a request may go so that others start in time: it was never served, and its class has its share."""
    place = _place(at, laws, view.class_id[row])
    return view.generated_tokens[row] == 0 and memory[place + _SERVED] >= memory[place + _FLOOR]


@kernel
def is_hopeless(memory, at, laws, law, view, row, pace_s):
    """Whether a resident has no chance to end before its client leaves."""
    left_s = view.arrival_s[row] + timeout_s(memory, at, laws, view, row) - view.now_s
    age = view.generated_tokens[row]
    if left_s == np.inf:
        return False
    ends = age + max(0.0, left_s / pace_s)
    return survival(memory, law, ends) > (1.0 - HOPELESS) * survival(memory, law, age)
