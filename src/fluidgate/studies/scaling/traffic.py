"""Traffic whose rate rises and falls: the arrivals and lengths of a preset, thinned to a shape."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.workload import Cox, Synthetic, Workload, generate
from fluidgate.workload._random import random_streams


@dataclass(frozen=True)
class Shape:
    """A rate that is linear between points.

    Attributes:
        minutes, rates: the points; rates in units of what one replica is given.
        startup_s: of the replicas that serve it, seconds.
    """

    minutes: tuple[float, ...]
    rates: tuple[float, ...]
    startup_s: float = 180.0

    def at(self, time_s: FloatArray | float) -> FloatArray:
        """The rate, in those units."""
        return np.asarray(np.interp(time_s, 60.0 * np.array(self.minutes), self.rates))

    @property
    def duration_s(self) -> float:
        """To the last point."""
        return 60.0 * self.minutes[-1]


SHAPES = {
    "ramp": Shape((0, 20, 50, 70, 100, 120), (1, 1, 5, 5, 1, 1)),
    "slow-start": Shape((0, 20, 50, 70, 100, 120), (1, 1, 5, 5, 1, 1), startup_s=600.0),
    "steep": Shape((0, 20, 30, 60, 70, 90), (1, 1, 5, 5, 1, 1)),
    "burst": Shape((0, 30, 30, 45, 45, 90), (2, 2, 5, 5, 2, 2)),
    "steady": Shape((0, 90), (3, 3)),
}
"""Up to five times the rate in half an hour, also where a GPU has to be rented first, or in ten minutes; a jump to two
and a half times; and no change."""


def shaped(source: Synthetic, shape: Shape, unit_rate: float, seed: int) -> Workload:
    """Requests at a shape's rate.

    Arrivals are drawn at the peak, with the source's own fluctuations at their own pace, and each is kept with the
    probability rate ÷ peak. Thinned so, a Cox process stays one: its intensity is multiplied by that share.
    """
    peak = unit_rate * max(shape.rates)
    drawn = generate(at_rate(source, peak), duration_s=shape.duration_s, seed=seed)
    draw = np.random.default_rng(random_streams(seed, 6)[5]).random(len(drawn))
    rows = np.flatnonzero(draw * max(shape.rates) < shape.at(drawn.arrival_s))
    return replace(drawn.reordered(rows, drawn.arrival_s[rows]), name=source.name)


def at_rate(source: Synthetic, rate: float) -> Synthetic:
    """More of the same traffic: its rate fluctuates by the same share, at the same pace."""
    assert isinstance(source.arrivals, Cox)
    return replace(source, arrivals=replace(source.arrivals, rate=rate))
