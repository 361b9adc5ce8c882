"""Arrival processes: when requests come. Frozen parameters, one `sample` method, exact simulation.

Doubly stochastic processes are sampled by inversion: unit-rate Poisson points mapped through the inverse of
the integrated rate (Lewis and Shedler 1979). Longer samples extend shorter ones drawn from the same state of
the generator.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.errors import InputError


class ArrivalProcess(Protocol):
    """What `generate` and `read_trace` ask of arrivals."""

    @property
    def rate(self) -> float:
        """Long-run mean rate, requests per second."""

    def sample(self, n: int, rng: np.random.Generator) -> FloatArray:
        """The first `n` arrival times after 0, shape (n,), seconds, non-decreasing."""


@dataclass(frozen=True)
class AllAtOnce:
    """Every request at time 0: the saturated queue."""

    @property
    def rate(self) -> float:
        """Infinite."""
        return float("inf")

    def sample(self, n: int, rng: np.random.Generator) -> FloatArray:
        """Zeros, shape (n,)."""
        return np.zeros(n)


@dataclass(frozen=True)
class Poisson:
    """Poisson arrivals.

    Attributes:
        rate: requests per second.
    """

    rate: float

    def __post_init__(self) -> None:
        _positive(self, "rate")

    def sample(self, n: int, rng: np.random.Generator) -> FloatArray:
        """The first `n` arrival times, shape (n,), seconds."""
        return np.cumsum(rng.standard_exponential(n)) / self.rate


@dataclass(frozen=True)
class Gamma:
    """Renewal arrivals with Gamma gaps; cv = 1 is Poisson, above 1 bursty (vLLM's `burstiness` is 1/cv²).

    Attributes:
        rate: requests per second.
        cv: coefficient of variation of the gaps.
    """

    rate: float
    cv: float

    def __post_init__(self) -> None:
        _positive(self, "rate", "cv")

    def sample(self, n: int, rng: np.random.Generator) -> FloatArray:
        """The first `n` arrival times, shape (n,), seconds."""
        return np.cumsum(rng.standard_gamma(self.cv**-2, n)) * (self.cv**2 / self.rate)


@dataclass(frozen=True)
class BenchArrivals:
    """Arrivals as `vllm bench serve` sends at a request rate: gaps of Gamma shape `burstiness`, n of them in n ÷ rate.

    The times are scaled so that the last of n requests comes at n ÷ rate (vllm/benchmarks/serve.py, get_request), hence
    longer samples do not extend shorter ones.

    Attributes:
        rate: requests per second.
        burstiness: shape of the gaps; 1 is Poisson, below 1 bursty, infinite evenly spaced.
    """

    rate: float
    burstiness: float = 1.0

    def __post_init__(self) -> None:
        _positive(self, "rate")
        if not self.burstiness > 0:
            raise InputError(f"burstiness = {self.burstiness} must be a number above 0; 1 is Poisson, below 1 bursty")

    def sample(self, n: int, rng: np.random.Generator) -> FloatArray:
        """The `n` arrival times, shape (n,), seconds."""
        even = np.isinf(self.burstiness)
        delays = np.cumsum(np.ones(n) if even else rng.standard_gamma(self.burstiness, n))
        if not delays[-1] > 0:  # a shape so small that every gap rounds to 0
            raise InputError(f"burstiness = {self.burstiness:g} leaves no gaps between {n} requests; give a larger one")
        return np.asarray(delays * (n / self.rate / delays[-1]))


@dataclass(frozen=True)
class MMPP2:
    """Markov-modulated Poisson arrivals with two states, started in the stationary law.

    Attributes:
        rate_low: requests per second in the low state; may be 0.
        rate_high: requests per second in the high state.
        mean_low_s: mean stay in the low state, seconds.
        mean_high_s: mean stay in the high state, seconds.
    """

    rate_low: float
    rate_high: float
    mean_low_s: float
    mean_high_s: float

    def __post_init__(self) -> None:
        _positive(self, "rate_high", "mean_low_s", "mean_high_s")
        if not 0 <= self.rate_low <= self.rate_high:
            raise InputError(f"MMPP2: rate_low = {self.rate_low} must be between 0 and rate_high = {self.rate_high}")

    @property
    def rate(self) -> float:
        """Stationary mean rate, requests per second."""
        work = self.rate_low * self.mean_low_s + self.rate_high * self.mean_high_s
        return work / (self.mean_low_s + self.mean_high_s)

    def sample(self, n: int, rng: np.random.Generator) -> FloatArray:
        """The first `n` arrival times, shape (n,), seconds."""
        points, path = rng.spawn(2)
        return _invert(n, points, self._pieces(path))

    def _pieces(self, rng: np.random.Generator, chunk: int = 1024) -> Iterator[tuple[FloatArray, FloatArray]]:
        high_first = rng.random() < self.mean_high_s / (self.mean_low_s + self.mean_high_s)
        order = [1, 0] if high_first else [0, 1]
        rates = np.tile(np.array([self.rate_low, self.rate_high])[order], chunk // 2)
        means = np.tile(np.array([self.mean_low_s, self.mean_high_s])[order], chunk // 2)
        while True:
            yield rng.standard_exponential(chunk) * means, rates


@dataclass(frozen=True)
class Cox:
    """Poisson arrivals at rate·exp(X1 + X2 − (s1² + s2²)/2); X1, X2 stationary Ornstein–Uhlenbeck processes.

    X1 and X2 are exact on a grid of a sixteenth of the shorter time constant, and held in between.

    Attributes:
        rate: mean rate, requests per second.
        s1: standard deviation of the first term.
        tau1_s: its correlation time, seconds.
        s2: standard deviation of the second term.
        tau2_s: its correlation time, seconds.
    """

    rate: float
    s1: float
    tau1_s: float
    s2: float
    tau2_s: float

    def __post_init__(self) -> None:
        _positive(self, "rate", "tau1_s", "tau2_s")
        for name in ("s1", "s2"):
            if not 0 <= getattr(self, name) < 10:
                raise InputError(f"Cox: {name} = {getattr(self, name)} must be at least 0 and below 10")

    def sample(self, n: int, rng: np.random.Generator) -> FloatArray:
        """The first `n` arrival times, shape (n,), seconds."""
        points, path = rng.spawn(2)
        return _invert(n, points, self._pieces(path))

    def _pieces(self, rng: np.random.Generator, chunk: int = 8192) -> Iterator[tuple[FloatArray, FloatArray]]:
        step_s = min(self.tau1_s, self.tau2_s) / 16
        widths = np.full(chunk, step_s)
        last = rng.standard_normal(2) * (self.s1, self.s2)
        while True:
            log_rate = np.full(chunk, -(self.s1**2 + self.s2**2) / 2)
            for i, (s, tau_s) in enumerate(((self.s1, self.tau1_s), (self.s2, self.tau2_s))):
                x = _ornstein_uhlenbeck(last[i], s, step_s / tau_s, rng.standard_normal(chunk))
                log_rate += x
                last[i] = x[-1]
            yield widths, self.rate * np.exp(log_rate)


def _ornstein_uhlenbeck(last: float, s: float, step: float, normals: FloatArray) -> FloatArray:
    """The next values x[k] = φ·x[k−1] + s·√(1 − φ²)·z[k] with φ = exp(−step), exact in law.

    The linear recurrence is summed by doubling, which stays accurate where dividing by φ^k would overflow.
    """
    x: FloatArray = normals * (s * np.sqrt(-np.expm1(-2 * step)))
    x[0] += np.exp(-step) * last
    shift = 1
    while shift < len(x) and shift * step < 40:
        x[shift:] += np.exp(-step * shift) * x[:-shift]
        shift *= 2
    return x


def _invert(n: int, points: np.random.Generator, pieces: Iterator[tuple[FloatArray, FloatArray]]) -> FloatArray:
    """Times at which the integral of a piecewise constant rate reaches unit Poisson points."""
    targets = np.cumsum(points.standard_exponential(n))
    times = np.empty(n)
    done, clock_s, mass = 0, 0.0, 0.0
    while done < n:
        widths, rates = next(pieces)
        ends_s = clock_s + np.concatenate(([0.0], np.cumsum(widths)))
        masses = mass + np.concatenate(([0.0], np.cumsum(widths * rates)))
        upto = int(np.searchsorted(targets, masses[-1]))
        times[done:upto] = np.interp(targets[done:upto], masses, ends_s)
        done, clock_s, mass = upto, float(ends_s[-1]), float(masses[-1])
    return times


def _positive(process: object, *names: str) -> None:
    for name in names:
        value = getattr(process, name)
        if not (np.isfinite(value) and value > 0):
            raise InputError(f"{type(process).__name__}: {name} = {value} must be a finite number above 0")
