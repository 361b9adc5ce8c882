"""How far the KV of greedy admission fluctuates, and the load from which it reaches the capacity (model.md §6)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, sqrt

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.fluid.limits import Limits
from fluidgate.fluid.mix import RequestMix
from fluidgate.hardware.core import StepTime

_ANGLES = np.linspace(0.0, 0.5 * np.pi, 65)
_BURST, _AROUND = 2.0 * np.cos(_ANGLES), 2.0 * np.sin(_ANGLES)
_EXACT, _ROUGH = 60, 16
"""Halvings of a bisection."""


@dataclass(frozen=True)
class Fluctuation:
    """The mean and the variance of greedy admission's KV as functions of x, the admissions per iteration.

    Attributes:
        kv_iterations: a, the mean KV of a request summed over its iterations, tokens.
        squared_kv_iterations: a2, the same of its square.
        iterations: o, their mean number.
        footprint_iterations: r, iterations in which the mean footprint of a request would have passed were it
            rectangular: (Σ m)² ÷ Σ m², with m the mean KV that a request holds in its i-th iteration, 0 once it has
            ended.
        work_share: w/c0, work that a request brings ÷ the fixed time of an iteration.
        capacity: C, tokens.
    """

    kv_iterations: float
    squared_kv_iterations: float
    iterations: float
    footprint_iterations: float
    work_share: float
    capacity: float

    @classmethod
    def of(cls, mix: RequestMix, step_time: StepTime, limits: Limits) -> Fluctuation:
        """That of a mix; `step_time` must have a c0 above 0."""
        return cls(
            kv_iterations=mix.mean(mix.memory_token_iterations(limits.law)),
            squared_kv_iterations=mix.mean(mix.squared_memory_iterations(limits.law)),
            iterations=mix.mean(mix.iterations),
            footprint_iterations=_footprint_iterations(mix),
            work_share=mix.mean(mix.work_s(step_time)) / step_time.c0,
            capacity=limits.kv_tokens,
        )

    def mean(self, x: FloatArray | float) -> FloatArray | float:
        """M*, tokens."""
        return self.kv_iterations * x

    def variance(self, x: FloatArray | float) -> FloatArray | float:
        """V for Poisson arrivals, tokens²: a2·x + (w/c0)(a²/o)·x²."""
        return self.squared_kv_iterations * x + self.work_share * self.kv_iterations**2 / self.iterations * x**2

    def peak(self, x: float, rate_variance: float = 0.0) -> float:
        """What the KV reaches two standard deviations out, tokens; M* + 2·sqrt(V) for Poisson arrivals.

        A burst multiplies the rate by 1 + u·sqrt(`rate_variance`), and the KV then fluctuates by v·sqrt(V), u and v
        being standard normal: the result is the most over u² + v² = 4 with u, v >= 0. Arrivals more even than Poisson's
        take their part off V.
        """
        if rate_variance <= 0.0:
            evened = rate_variance * (self.kv_iterations * x * (1.0 + self.work_share * x)) ** 2
            return float(self.mean(x) + 2.0 * sqrt(max(self.variance(x) + evened, 0.0)))
        burst = x / (1.0 + self.work_share * x) * (1.0 + sqrt(rate_variance) * _BURST)
        if self.work_share * burst[0] >= 1.0:
            return inf
        held = burst / (1.0 - self.work_share * burst)
        return float((self.mean(held) + _AROUND * np.sqrt(self.variance(held))).max())

    def filled_at(self, rate_variance: float = 0.0) -> float:
        """x at which the peak reaches the capacity."""
        if rate_variance != 0.0:
            return self._filled(lambda _: rate_variance, self.capacity / self.kv_iterations, _EXACT)
        # that root of a quadratic which has M* = a·x < C
        variance_xx = self.work_share * self.kv_iterations**2 / self.iterations
        linear = 2.0 * self.capacity * self.kv_iterations + 4.0 * self.squared_kv_iterations
        quadratic = self.kv_iterations**2 - 4.0 * variance_xx
        return 2.0 * self.capacity**2 / (linear + sqrt(linear**2 - 4.0 * quadratic * self.capacity**2))

    def onset(self, x_boundary: float, rate_variance: float = 0.0) -> float | None:
        """x at the onset; None beyond the boundary.

        Where the token budget or the seats bind, bursts wait for them: they fill the cache only if the residents that
        these allow do, by the spread of their sizes, or if Poisson arrivals would.
        """
        spread = self.squared_kv_iterations - self.kv_iterations**2 / self.iterations
        saturated = self.mean(x_boundary) + 2.0 * sqrt(max(spread * x_boundary, 0.0))
        x = self.filled_at(0.0 if rate_variance > 0.0 and saturated < self.capacity else rate_variance)
        return None if x > x_boundary else x

    def window_arrivals(self, x: float) -> float:
        """Mean number of arrivals in the time that residents remember a burst, r·ΔT·(ΔT/c0) seconds."""
        return x * self.footprint_iterations * (1.0 + self.work_share * x)

    def onset_window(self, x_boundary: float, rate_variance: Callable[[float], float]) -> float:
        """The window that counts at the onset, in arrivals; that at the boundary if the cache never fills.

        Args:
            x_boundary: the largest x.
            rate_variance: by the arrivals in a window, which grow with x.
        """
        return self.window_arrivals(self._filled(lambda x: rate_variance(self.window_arrivals(x)), x_boundary, _ROUGH))

    def _filled(self, rate_variance: Callable[[float], float], largest: float, halvings: int) -> float:
        low, high = 0.0, largest
        for _ in range(halvings):
            x = 0.5 * (low + high)
            if self.peak(x, rate_variance(x)) < self.capacity:
                low = x
            else:
                high = x
        return high


def _footprint_iterations(mix: RequestMix) -> float:
    """(Σ m)² ÷ Σ m² over iterations i = 0, 1, …, where m(i) = E[(l + i)·1(o > i)] is linear between lengths."""
    law = mix.by_output
    ends = law.lengths + (mix.iterations[0] - mix.output_tokens[0])
    starts = np.concatenate(([0.0], ends[:-1]))
    alive, prompts = (np.cumsum(rate[::-1])[::-1] / mix.total_rate for rate in (law.rate, law.prompt_rate))
    count, total, squares = ends - starts, *(_power_sums(starts, ends))
    sums = prompts * count + alive * total
    squared = prompts**2 * count + 2.0 * prompts * alive * total + alive**2 * squares
    return float(sums.sum() ** 2 / squared.sum())


def _power_sums(starts: FloatArray, ends: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Σ i and Σ i² over starts <= i < ends, for each pair."""

    def below(n: FloatArray) -> tuple[FloatArray, FloatArray]:
        return n * (n - 1.0) / 2.0, (n - 1.0) * n * (2.0 * n - 1.0) / 6.0

    first, last = below(starts), below(ends)
    return last[0] - first[0], last[1] - first[1]
