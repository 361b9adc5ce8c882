"""What the theorems of arXiv 2504.11320 are shown on: lengths, thresholds, arrivals, and the memory that they ask for.

An iteration takes d0 + d1·KV, memory is counted by the token, and stage s of a request holds l + s tokens, s from 0
to o - 1: the paper's l' is o - 1 here. The paper speeds arrivals and iterations up ζ times over [0, T] and counts time
in units that shrink alike, which is this machine over [0, ζT]; so the horizon alone grows here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.errors import unknown
from fluidgate.fluid import Guarantee, decay_rate
from fluidgate.policies import Fluid, Greedy, NestedWait, Policy, RateLimited, Wait
from fluidgate.studies.paper.settings import LINEAR, machine
from fluidgate.workload import MMPP2, ArrivalProcess, Cox, Poisson

PROMPT = 512
PERIODS = 8
"""Mean stays of a rate in a horizon, and correlation times of a random one: both grow with it, as T is fixed in ζT."""


@dataclass(frozen=True)
class Steady:
    """Poisson arrivals at this share of the capacity: the rate at which a full iteration takes all that come in it."""

    load: float


@dataclass(frozen=True)
class Switching:
    """A rate that switches at random between two shares of the capacity (MMPP), as long in each."""

    low: float
    high: float

    @property
    def load(self) -> float:
        """The mean share."""
        return (self.low + self.high) / 2


@dataclass(frozen=True)
class LogNormal:
    """A rate that wanders: its logarithm is an Ornstein–Uhlenbeck process of this spread (Cox)."""

    load: float
    spread: float


@dataclass(frozen=True)
class Stream:
    """Requests of one rate: outputs, tokens, and the share of each."""

    rate: Steady | Switching | LogNormal
    outputs: tuple[int, ...]
    shares: tuple[float, ...]

    def arrivals(self, capacity: float, horizon_s: float) -> ArrivalProcess:
        """For a capacity in requests per second."""
        rate, period_s = self.rate, horizon_s / PERIODS
        if isinstance(rate, Switching):
            return MMPP2(rate.low * capacity, rate.high * capacity, period_s, period_s)
        if isinstance(rate, LogNormal):
            return Cox(rate.load * capacity, rate.spread, period_s, 0.0, period_s)
        return Poisson(rate.load * capacity)


@dataclass(frozen=True)
class Case:
    """Requests under thresholds.

    Attributes:
        title: for people.
        streams: what arrives.
        thresholds: n_k of each output length (WAIT), or of each segment (Nested WAIT).
        cuts: where segments 2, 3, … of Nested WAIT begin, tokens; None: WAIT.
        survival: p_k of segments 2, 3, …, with rates that vary their supremum.
        policy: another one, on the same machine.
        repeats: seeds for each seed of the study.
        within: whether the theorem's conditions hold.
    """

    title: str
    streams: tuple[Stream, ...]
    thresholds: tuple[int, ...]
    cuts: tuple[int, ...] | None = None
    survival: tuple[float, ...] = ()
    policy: str = "wait"
    repeats: int = 10
    within: bool = True

    @property
    def outputs(self) -> tuple[int, ...]:
        """All output lengths, in rising order."""
        return tuple(sorted({length for stream in self.streams for length in stream.outputs}))

    @property
    def load(self) -> float:
        """Mean rate ÷ capacity."""
        return sum(stream.rate.load for stream in self.streams)

    @property
    def base_tokens(self) -> int:
        """M^π: every stage of every type or segment at its threshold."""
        if self.cuts is None:
            spans = [range(length) for length in self.outputs]
        else:
            edges = (0, *self.cuts, self.outputs[-1])
            spans = [range(*pair) for pair in pairwise(edges)]
        return sum(n * sum(PROMPT + s for s in span) for n, span in zip(self.thresholds, spans, strict=True))

    @property
    def iteration_s(self) -> float:
        """ΔT of an iteration at all thresholds, seconds."""
        step = machine(LINEAR).step_time
        return step.c0 + step.c_kv * self.base_tokens

    @property
    def capacity(self) -> float:
        """Requests that enter in a full iteration ÷ its time, requests per second; of all types under WAIT."""
        return (sum(self.thresholds) if self.cuts is None else self.thresholds[0]) / self.iteration_s

    def horizon_s(self, requests: int) -> float:
        """The time in which so many requests are expected, seconds."""
        return requests / (self.load * self.capacity)

    def boundary_tokens(self) -> FloatArray:
        """What a request holds that waits before segment 2, 3, …"""
        return PROMPT + np.array(self.cuts or ()) - 1.0

    def required_tokens(self, requests: int, delta: float) -> float:
        """M_req: no overflow within the horizon but for a probability δ; for WAIT M^π."""
        if not self.cuts:
            return float(self.base_tokens)
        waiting, surge = self._queues(requests, delta)
        return self.base_tokens + float(self.boundary_tokens() @ (waiting + surge))

    def surge_tokens(self, requests: int, delta: float) -> float:
        """The part of M_req that grows with the horizon: its logarithms."""
        return float(self.boundary_tokens() @ self._queues(requests, delta)[1])

    def decay(self) -> FloatArray:
        """θ of each boundary."""
        n = np.array(self.thresholds, dtype=np.float64)
        return decay_rate(np.array(self.survival), n[1:] / n[:-1])

    def _queues(self, requests: int, delta: float) -> tuple[FloatArray, FloatArray]:
        odds = Guarantee(self.horizon_s(requests), delta).log_odds(len(self.outputs), machine(LINEAR).step_time)
        return np.array(self.thresholds[1:], dtype=np.float64), odds / self.decay()

    def make_policy(self) -> Policy:
        """WAIT or Nested WAIT to the letter, unless it is another."""
        n = tuple(float(threshold) for threshold in self.thresholds)
        strict: dict[str, Any] = {"hold_s": 0.0, "strict": True, "thresholds": n}
        if self.cuts is not None:
            return NestedWait(**strict | {"cuts": tuple(float(cut) for cut in self.cuts)})
        if self.policy == "wait":
            return Wait(**strict | {"output_edges": tuple(float(edge) for edge in self.outputs[:-1])})
        if self.policy == "rate-limited":
            pace: dict[str, Any] = {"per_iteration": n[0]}
            return RateLimited(**pace)
        if self.policy == "fluid":
            prior: dict[str, Any] = {"prompt_tokens": (float(PROMPT),), "output_quantiles": (float(self.outputs[0]),)}
            return Fluid(**prior)
        return Greedy()


def _steady(load: float, outputs: Sequence[int], shares: Sequence[float]) -> tuple[Stream, ...]:
    return (Stream(Steady(load), tuple(outputs), tuple(shares)),)


SLACK, CRITICAL = 0.9, 1.0
ONE, TWO = ((20,), (1.0,)), ((20, 50), (2 / 3, 1 / 3))

WAIT_CASES = {
    "wait-one-slack": Case("one length, load 0.9", _steady(SLACK, *ONE), (2,)),
    "wait-two-slack": Case("two lengths, load 0.9", _steady(SLACK, *TWO), (2, 1)),
    "wait-one-critical": Case("one length, load 1", _steady(CRITICAL, *ONE), (2,)),
    "wait-two-critical": Case("two lengths, load 1", _steady(CRITICAL, *TWO), (2, 1)),
}
"""Theorem 1; a load of 1 is equality in its conditions."""

OTHERS = ("rate-limited", "fluid", "greedy")
BOUNDARY_CASES = {
    f"boundary-{name}": Case(f"{name}, load 1", _steady(CRITICAL, *ONE), (2,), policy=name) for name in OTHERS
}
"""Proposition 4, beside WAIT at the critical load: M^π is M* there, and all the memory that there is."""

_HALVES = ((20, 50), (0.5, 0.5))
_OVERFLOW, _FEWER = 120, 40
"""For each seed: with three of them, no overflow at all would put the frequency below 1%, or below 5%."""
NESTED_CASES = {
    "nested-two": Case("two lengths", _steady(SLACK, *_HALVES), (5, 3), (20,), (0.5,), repeats=_OVERFLOW),
    "nested-three": Case(
        "three lengths",
        _steady(SLACK, (10, 20, 40), (0.5, 0.25, 0.25)),
        (5, 3, 2),
        (10, 20),
        (0.5, 0.5),
        repeats=_FEWER,
    ),
    "nested-four": Case(
        "four lengths, two segments",
        _steady(SLACK, (10, 20, 35, 50), (0.25,) * 4),
        (5, 3),
        (20,),
        (0.5,),
        repeats=_FEWER,
    ),
}
"""Theorem 2, and Theorem 4 where lengths share a segment."""


def _varying(title: str, *rates: Switching | LogNormal, survival: float = 0.5, within: bool = True) -> Case:
    """One rate for all requests, or one for each output length."""
    outputs, shares = _HALVES
    if len(rates) == 1:
        streams: tuple[Stream, ...] = (Stream(rates[0], outputs, shares),)
    else:
        streams = tuple(Stream(rate, (length,), (1.0,)) for rate, length in zip(rates, outputs, strict=True))
    return Case(title, streams, (5, 3), (20,), (survival,), repeats=20, within=within)


VARYING_CASES = {
    "mmpp-within": _varying("MMPP 0.3 / 0.9", Switching(0.3, 0.9)),
    "cox-within": _varying("Cox 0.6, spread 0.1", LogNormal(0.6, 0.1)),
    "mix-within": _varying("MMPP per length, 0.3 / 0.6 and 0.1 / 0.3", Switching(0.3, 0.6), Switching(0.1, 0.3)),
    "mmpp-beyond": _varying("MMPP 0.3 / 1.3", Switching(0.3, 1.3), within=False),
    "cox-beyond": _varying("Cox 0.8, spread 0.3", LogNormal(0.8, 0.3), within=False),
    "mix-beyond": _varying(
        "MMPP per length, 0.2 / 0.4 and 0.1 / 0.5", Switching(0.2, 0.4), Switching(0.1, 0.5), within=False
    ),
}
"""Theorem 3: rates that stay below the capacity, and rates whose mean alone does.

The long requests' largest share is 0.3/(0.3 + 0.3) = 0.5 in mix-within, and 0.5/(0.2 + 0.5) = 0.71 in mix-beyond, where
its mean is 0.5 and n_2/n_1 = 0.6.
"""

CASES = WAIT_CASES | BOUNDARY_CASES | NESTED_CASES | VARYING_CASES


def case(name: str) -> Case:
    """The case of a name.

    Raises:
        InputError: an unknown one.
    """
    if name not in CASES:
        raise unknown("case", name, CASES)
    return CASES[name]
