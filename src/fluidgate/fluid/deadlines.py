"""Deadlines: the share of requests that can be served before their clients give up (model.md §10).

The fluid limit of many-server queues with abandonment (Whitt, Operations Research 54, 2006), for clients that also
leave while they are served: a request that starts after a wait W has T - W seconds left of its patience T.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.errors import InputError
from fluidgate.fluid.cut_mix import BUDGET, MEMORY, REQUESTS, SEATS, TOKENS, WORK, CutMix, taken
from fluidgate.fluid.limits import Limits
from fluidgate.fluid.mix import RequestMix
from fluidgate.hardware.core import StepTime
from fluidgate.words import listed, number, percent
from fluidgate.workload.patience import Patience, parse_timeout

CLIENTS = 1024
"""How many stand for the laws of patience."""
HALVINGS, ROUNDS = 50, 60
SETTLED = 1e-9

_Law = Callable[[CutMix, FloatArray, FloatArray], tuple[FloatArray, FloatArray]]
"""What is taken, shape (6,), by requests that start, all whose clients still wait, and by those of them that complete;
from the iterations that are left to clients before their last and their first token, shape (Q,)."""

LEAST_GAIN = 0.01
"""Of the requests; where no admission completes so many more, deadlines do not matter."""


@dataclass(frozen=True)
class ServedShare:
    """What one way of admitting completes, in the fluid limit at a constant rate.

    Attributes:
        completed: share of the requests sent that complete before their clients give up.
        wasted: share of the tokens computed that is for requests whose clients give up.
        wait_s: the wait at which as many start as the machine serves; 0 below that load.
        iteration_time_s: seconds of an iteration there.
    """

    completed: float
    wasted: float
    wait_s: float
    iteration_time_s: float


@dataclass(frozen=True)
class Deadlines:
    """How many can be served in time, in order of arrival and at best (model.md §10).

    Attributes:
        timeout, ttft_timeout: how long clients wait for their last and their first token, as written; None: for ever.
        stock: first come, first served; nobody leaves while the first token is computed.
        stock_at_least: `completed` of the same where clients whose first token comes late are all started in vain.
        in_order: the same, but nothing is started that cannot end in time; takes known lengths.
        any_order: the share that no policy exceeds, with lengths and patience known and order free.
        settles_s: how long a constant overload takes at least to bring the wait to that of `stock`; 0 without one.
    """

    timeout: str | None
    ttft_timeout: str | None
    stock: ServedShare
    stock_at_least: float
    in_order: ServedShare
    any_order: float
    settles_s: float

    @property
    def timeouts_s(self) -> tuple[float, float]:
        """The timeout and the TTFT timeout that all clients share, seconds; 0: they differ, or wait for ever."""
        laws = (None if law is None else parse_timeout("timeout", law) for law in (self.timeout, self.ttft_timeout))
        last_s, first_s = (0.0 if law is None or law.name else law.numbers[0] for law in laws)
        return last_s, first_s

    @property
    def matter(self) -> bool:
        """Whether another admission could complete more."""
        waiting = self.any_order if self.stock.wait_s > 0.0 else 0.0
        return max(self.in_order.completed, waiting) - self.stock.completed >= LEAST_GAIN

    @property
    def row(self) -> str:
        """In words, for tables."""
        best = f"{percent(self.in_order.completed)} in order of arrival, {percent(self.any_order)} in any"
        return f"{self._stock} with stock admission; at best {best}"

    @property
    def sentence(self) -> str:
        """For the verdict."""
        laws = (self.timeout, "a timeout"), (self.ttft_timeout, "a TTFT timeout")
        given = listed([f"{what} of {law}{'' if ':' in law else ' s'}" for law, what in laws if law is not None])
        stock = f"{given} stock admission completes about {self._stock} of the requests"
        in_order, any_order = percent(self.in_order.completed), percent(self.any_order)
        if self.any_order == 0.0:
            return f"With {given} nobody is served in time, not even on a machine that does nothing else."
        if not self.matter:
            return f"Deadlines do not matter at this load: with {stock}, and keeping requests out gains nothing."
        return (
            f"With {stock} at this load; at best {in_order} complete in order of arrival, if nothing is started that "
            f"cannot end in time, and {any_order} in any order."
        ) + self._why

    @property
    def _stock(self) -> str:
        """From what is left where every late prompt is computed in vain, to what is where none is."""
        most = percent(self.stock.completed)
        several = self.stock.wait_s > 0.0 and self.stock.completed - self.stock_at_least >= LEAST_GAIN
        return f"{percent(self.stock_at_least)} to {most}" if several else most

    @property
    def _why(self) -> str:
        if self.stock.wait_s == 0.0:
            return ""
        why = f" Stock admission starts requests about {number(self.stock.wait_s)} s after they were sent"
        if self.stock.wasted >= LEAST_GAIN:
            why += f", and {percent(self.stock.wasted)} of its tokens are for clients that leave"
        if self.settles_s > 0.0:
            why += f"; an overload takes at least {number(self.settles_s)} s to get there"
        return f"{why}."


def deadlines(
    mix: RequestMix,
    step_time: StepTime,
    limits: Limits,
    patience: Patience,
    at_load: StepTime | None = None,
) -> Deadlines:
    """The fluid limit of `mix`, at its rate, for clients of this patience.

    Args:
        at_load: the step time below the boundary, where it differs there.

    Raises:
        InputError: a patience that never ends.
    """
    last_s, first_s = _clients(patience)
    at_boundary, rate = CutMix.of(mix, step_time, limits), mix.total_rate
    below = at_boundary if at_load is None or at_load == step_time else CutMix.of(mix, at_load, limits)

    def settled(law: _Law) -> ServedShare:
        free = _Queue(below, rate, last_s, first_s, law).settled()
        return free if free.wait_s == 0.0 else _Queue(at_boundary, rate, last_s, first_s, law).settled()

    stock = settled(_stock)
    load = rate * at_boundary.seconds(at_boundary.short[:, -1])
    return Deadlines(
        timeout=None if patience.timeout is None else str(patience.timeout),
        ttft_timeout=None if patience.ttft_timeout is None else str(patience.ttft_timeout),
        stock=stock,
        stock_at_least=settled(_stock_in_vain).completed,
        in_order=settled(_in_order),
        any_order=_any_order(mix, step_time, limits, last_s, first_s),
        settles_s=stock.wait_s / (load - 1.0) if load > 1.0 else 0.0,
    )


def in_time(patience: Patience, age_s: float, service_s: FloatArray) -> FloatArray:
    """The share of requests sent that complete if all start at this age, by the seconds of their service.

    Times the rates of types it is the rate that can be served in time, by type and age.
    """
    last, first = patience.timeout, patience.ttft_timeout
    everyone = np.ones(np.shape(service_s))
    waits = everyone if first is None else first.longer(age_s * everyone)
    return waits * (everyone if last is None else last.longer(age_s + service_s))


def _clients(patience: Patience) -> tuple[FloatArray, FloatArray]:
    """Equally likely clients: until the last and the first token, shape (Q,), seconds; the two are independent."""
    laws = patience.timeout, patience.ttft_timeout
    if laws == (None, None):
        raise InputError("clients that never give up have no deadlines: give a timeout or a TTFT timeout")
    each = int(CLIENTS ** (1 / max(1, sum(law is not None and law.name != "" for law in laws))))
    shares = (np.arange(each) + 0.5) / each
    last_s, first_s = (
        np.array([inf]) if law is None else law.quantiles(shares if law.name else shares[:1]) for law in laws
    )
    return np.repeat(last_s, len(first_s)), np.tile(first_s, len(last_s))


def _stock(mix: CutMix, last: FloatArray, first: FloatArray) -> tuple[FloatArray, FloatArray]:
    """All start whose clients still wait, and get their first token."""
    return _started(mix, last, np.where(first > 0.0, inf, 0.0))


def _stock_in_vain(mix: CutMix, last: FloatArray, first: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Who cannot get the first token in time takes one iteration."""
    return _started(mix, last, first)


def _started(mix: CutMix, last: FloatArray, first: FloatArray) -> tuple[FloatArray, FloatArray]:
    given = np.where(first >= 1.0, np.maximum(last, 0.0), 0.0)
    begun = mix.leaving(np.maximum(given, 1.0)) * (np.minimum(last, first) > 0.0)
    return begun.mean(axis=1), mix.ending(given).mean(axis=1)


def _in_order(mix: CutMix, last: FloatArray, first: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Only what will end in time is started."""
    whole = mix.ending(np.where(first >= 1.0, np.maximum(last, 0.0), 0.0)).mean(axis=1)
    return whole, whole


@dataclass(frozen=True)
class _Start:
    """What is started after a wait, and what of that completes, per request sent."""

    wait_s: float
    begun: FloatArray
    ended: FloatArray


@dataclass(frozen=True, eq=False)
class _Queue:
    """A queue in order of arrival, whose requests all start after the same wait."""

    mix: CutMix
    rate: float
    last_s: FloatArray
    first_s: FloatArray
    law: _Law

    def settled(self) -> ServedShare:
        """The equilibrium: the time of an iteration, and the wait from which on no more starts than is served."""
        step_s = self.mix.iteration_s(self.mix.short[:, -1], inf)
        for _ in range(ROUNDS):
            start = self._balanced(step_s)
            next_s = self.mix.iteration_s(start.begun, self.rate)
            if abs(next_s - step_s) <= SETTLED * step_s:
                break
            step_s = 0.5 * (step_s + next_s)
        tokens = float(start.begun[TOKENS])
        wasted = max(0.0, 1.0 - float(start.ended[TOKENS]) / tokens) if tokens > 0.0 else 0.0
        return ServedShare(float(start.ended[REQUESTS]), wasted, start.wait_s, step_s)

    def _balanced(self, step_s: float) -> _Start:
        """Where what starts jumps with the wait, as at a patience that all share, part starts before and part after."""
        early, late = self._after(0.0, step_s), self._after(float(self.last_s.clip(max=self.first_s).max()), step_s)
        if self._demand(early) <= 1.0:
            return early
        for _ in range(HALVINGS):
            middle = self._after(0.5 * (early.wait_s + late.wait_s), step_s)
            early, late = (early, middle) if self._demand(middle) <= 1.0 else (middle, late)
        more, less = self._demand(early), self._demand(late)
        part = (1.0 - less) / (more - less)
        begun, ended = (part * a + (1.0 - part) * b for a, b in ((early.begun, late.begun), (early.ended, late.ended)))
        return _Start(late.wait_s, begun, ended)

    def _after(self, wait_s: float, step_s: float) -> _Start:
        left = (self.last_s - wait_s) / step_s, (self.first_s - wait_s) / step_s
        return _Start(wait_s, *self.law(self.mix, *left))

    def _demand(self, start: _Start) -> float:
        """Seconds of the machine that start in a second."""
        return self.rate * self.mix.seconds(start.begun)


def _any_order(mix: RequestMix, step_time: StepTime, limits: Limits, last_s: FloatArray, first_s: FloatArray) -> float:
    """The fractional knapsack of requests that would end in time if served alone: those that take least, first.

    Each limit alone bounds what every policy completes, by the proof of the stability boundary; so does the least.
    """
    each = taken(mix, step_time, limits)
    alone_s = mix.iterations * step_time.c0 + each[WORK]
    patient = np.sort(last_s[first_s >= step_time.c0])
    fits = (len(patient) - np.searchsorted(patient, alone_s * (1.0 - 1e-12), side="left")) / len(last_s)
    arriving = fits * mix.rate / mix.total_rate
    shares = []
    for limit in (MEMORY, BUDGET, SEATS):
        seconds = each[WORK] + step_time.c0 * each[limit]
        order = np.argsort(seconds, kind="stable")
        spent = np.cumsum(mix.total_rate * arriving[order] * seconds[order])
        served = np.cumsum(arriving[order])
        shares.append(float(np.interp(1.0, np.concatenate([[0.0], spent]), np.concatenate([[0.0], served]))))
    return min(shares)
