"""The theorems of arXiv 2504.11320 about growing horizons, judged by slopes, frequencies and memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import pi, sqrt

import numpy as np

from fluidgate.metrics import Interval, mean_interval
from fluidgate.studies.paper.scaling import Scaling
from fluidgate.studies.paper.scaling_cases import BOUNDARY_CASES, CASES, NESTED_CASES, VARYING_CASES, WAIT_CASES
from fluidgate.studies.paper.slopes import frequency_limits, log_slope
from fluidgate.studies.paper.verdicts import Claim, agreed

NEAR_SLOPE = 0.05
"""Slopes over horizons that end are off by this from those in the limit."""
WIDE = 0.4
"""An interval of a slope wider than this decides nothing."""
DELTAS = (0.5, 0.1, 0.01)

SLACK_CASES = tuple(name for name in WAIT_CASES if name.endswith("slack"))
CRITICAL_CASES = tuple(name for name in WAIT_CASES if name.endswith("critical"))
WITHIN_CASES = tuple(name for name, of in VARYING_CASES.items() if of.within)
AT_BOUNDARY = ("wait-one-critical", *BOUNDARY_CASES)


@dataclass(frozen=True)
class Overflow:
    """How often the memory of M_req would not have done.

    Attributes:
        requests, delta: of the guarantee.
        hits, seeds: runs that held more, of so many.
        base_tokens, required_tokens: M^π and M_req.
        quantile_tokens: exceeded by a share δ of the runs.
    """

    requests: int
    delta: float
    hits: int
    seeds: int
    base_tokens: float
    required_tokens: float
    quantile_tokens: float

    @property
    def limits(self) -> tuple[float, float]:
        """Of the frequency."""
        return frequency_limits(self.hits, self.seeds)

    @property
    def is_resolved(self) -> bool:
        """Whether there are seeds enough to tell a frequency of 0 from one of δ."""
        return frequency_limits(0, self.seeds)[1] <= self.delta

    @property
    def used(self) -> float:
        """The part of the buffer above M^π that a buffer without margin would have."""
        return (self.quantile_tokens - self.base_tokens) / (self.required_tokens - self.base_tokens)


def scaling_claims(scaling: Scaling) -> list[Claim]:
    """In the order of the paper."""
    return [*_wait(scaling), _boundary(scaling), *_nested(scaling), *_varying(scaling)]


def slope(scaling: Scaling, name: str, key: str) -> Interval:
    """Log-log slope of a measure against the horizon."""
    return log_slope({requests: numbers[key] for requests, numbers in scaling[name].items()})


def random_walk_wait(name: str, requests: int) -> float:
    """Mean wait of those who arrive within a horizon, full iterations, if the queue is a reflected Brownian motion.

    Its variance grows by 1 with every request, so at time t of λt = N requests its mean is √(2N/π), and a request
    waits for those before it at λΔT per iteration.
    """
    of = CASES[name]
    return 2 / 3 * sqrt(2 * requests / pi) / (of.capacity * of.iteration_s)


def overflows(scaling: Scaling, name: str) -> Iterator[Overflow]:
    """Of every horizon and δ."""
    of = CASES[name]
    for requests, numbers in scaling[name].items():
        peak = numbers["peak_tokens"]
        for delta in DELTAS:
            required = of.required_tokens(requests, delta)
            quantile = float(np.quantile(peak, 1 - delta, method="higher"))
            hits = int((peak > required).sum())
            yield Overflow(requests, delta, hits, len(peak), of.base_tokens, required, quantile)


def _wait(scaling: Scaling) -> Iterator[Claim]:
    table = "Theorem 1"
    yield _bound(scaling, "Theorem 1, with slack: throughput gap", "gap", -1.0, SLACK_CASES, table)
    yield _bound(scaling, "Theorem 1, with slack: mean latency", "latency", 0.0, SLACK_CASES, table)
    yield _bound(scaling, "Theorem 1, no slack: throughput gap", "gap", -0.5, CRITICAL_CASES, table)
    yield _bound(scaling, "Theorem 1, no slack: the gap of requests not begun", "queue", -0.5, CRITICAL_CASES, table)
    yield _bound(scaling, "Theorem 1, no slack: mean wait for the prefill", "wait", 0.5, CRITICAL_CASES, table)
    shares, restarts = [], 0.0
    for name in WAIT_CASES:
        for numbers in scaling[name].values():
            shares += (numbers["peak_tokens"] / CASES[name].base_tokens).tolist()
            restarts += float(numbers["restarts"].sum())
    yield agreed(
        "Theorem 1: with C = M^π tokens WAIT evicts nothing (most KV held ÷ M^π; restarts)",
        "1; 0",
        f"{min(shares):.3f} to {max(shares):.3f}; {restarts:g} in {len(shares)} runs",
        max(shares) == 1.0 and restarts == 0,
        table,
    )


def _boundary(scaling: Scaling) -> Claim:
    """Refuted by a policy whose gap vanishes while its wait grows more slowly, or whose wait is below the walk's."""
    texts, refuted = [], []
    for name in AT_BOUNDARY:
        gap, wait = slope(scaling, name, "gap"), slope(scaling, name, "wait")
        requests, last = list(scaling[name].items())[-1]
        below_walk = mean_interval(last["wait"]).high < random_walk_wait(name, requests)
        refuted.append(below_walk or (gap.low < 0.0 and wait.high < 0.5 - NEAR_SLOPE))
        texts.append(f"{CASES[name].policy} {slope_text(wait)}, its gap {slope_text(gap)}")
    return agreed(
        "Proposition 4: at C = M* no policy waits less than a reflected random walk; mean wait, log-log slope",
        "at least 0.5 where the gap vanishes",
        "; ".join(texts),
        not any(refuted),
        "Proposition 4",
    )


def _nested(scaling: Scaling) -> Iterator[Claim]:
    table = "Theorem 2"
    yield _bound(scaling, "Theorems 2 and 4: throughput gap", "gap", -1.0, NESTED_CASES, table)
    yield _bound(scaling, "Theorems 2 and 4: mean latency", "latency", 0.0, NESTED_CASES, table)
    yield _overflow(scaling, "Theorems 2 and 4", NESTED_CASES, "Memory of Nested WAIT")


def _varying(scaling: Scaling) -> Iterator[Claim]:
    table, name = "Theorem 3", "Theorem 3, rates that stay below the capacity"
    yield _bound(scaling, f"{name}: throughput gap", "gap", -1.0, WITHIN_CASES, table)
    yield _bound(scaling, f"{name}: mean latency", "latency", 0.0, WITHIN_CASES, table)
    yield _overflow(scaling, name, WITHIN_CASES, "Memory of Nested WAIT")


def _bound(scaling: Scaling, what: str, key: str, exponent: float, names: Iterable[str], table: str) -> Claim:
    """An upper bound on a growth; one that falls faster, or grows more slowly, keeps it."""
    slopes = {name: slope(scaling, name, key) for name in names}
    unfinished = sum(float(of["unfinished"].sum()) for name in slopes for of in scaling[name].values())
    kept = all(value.low <= exponent + NEAR_SLOPE for value in slopes.values()) and unfinished == 0
    sharp = all(value.high - value.low <= WIDE for value in slopes.values())
    return Claim(
        f"{what} against ζT, log-log slope",
        f"at most {exponent:g}",
        "; ".join(f"{CASES[name].title} {slope_text(value)}" for name, value in slopes.items()),
        ("reproduced" if sharp else "partly") if kept else "not",
        "none" if kept and sharp else "open",
        table,
    )


def _overflow(scaling: Scaling, what: str, names: Iterable[str], table: str) -> Claim:
    found = {name: list(overflows(scaling, name)) for name in names}
    every = [one for of in found.values() for one in of]
    last = [(name, one) for name, of in found.items() for one in of[-len(DELTAS) :] if one.is_resolved]
    texts = [f"{CASES[name].title} {one.hits}/{one.seeds} at δ = {one.delta:g}" for name, one in last]
    return agreed(
        f"{what}: more than M_req is held in at most a share δ of the runs",
        "at most δ = " + ", ".join(f"{delta:g}" for delta in DELTAS),
        f"{sum(one.hits for one in every)} of all; over the longest horizon " + "; ".join(texts),
        all(one.limits[1] <= one.delta if one.is_resolved else one.limits[0] <= one.delta for one in every),
        table,
    )


def slope_text(value: Interval) -> str:
    """With its interval."""
    return f"{value.mean:.2f} [{value.low:.2f}, {value.high:.2f}]".replace("-", "−").replace("−0.00", "0.00")
