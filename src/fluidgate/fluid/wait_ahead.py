"""The wait of a request from the requests ahead of it: work ahead ÷ service rate, and its variance (model.md §10)."""

from __future__ import annotations

from dataclasses import dataclass
from math import erf, sqrt

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.errors import InputError
from fluidgate.fluid.limits import Limits
from fluidgate.fluid.mix import RequestMix
from fluidgate.fluid.stability import bound_seconds, largest_admissions
from fluidgate.hardware.core import StepTime

LONG, CELLS = 20.0, 500


@dataclass(frozen=True)
class WaitAhead:
    """The law of a wait.

    Attributes:
        mean_s: seconds.
        variance_s2: seconds squared.
    """

    mean_s: float
    variance_s2: float

    def within(self, seconds: float) -> float:
        """The probability of a wait of at most `seconds`, as of a normal law."""
        if self.variance_s2 == 0.0:
            return float(seconds >= self.mean_s)
        return 0.5 * (1.0 + erf((seconds - self.mean_s) / sqrt(2.0 * self.variance_s2)))


def wait_ahead(mix: RequestMix, step_time: StepTime, limits: Limits, requests: int) -> WaitAhead:
    """The wait of a request that finds `requests` waiting, none of whom gives up, on a machine that is full.

    With b the seconds that the boundary gives a request, n residents, c² = Var(b)/E[b]²: each of the requests ahead
    takes E[b], and the first departure what is left of one resident (n = 1) or E[b] (n large). Departures of n seats
    are a superposition of n renewal processes: Poisson for waits short beside a stay, of dispersion c² for long ones.
    The variance is exact for one seat and for exponential outputs, and in the limit of many seats.

    Raises:
        InputError: a negative number of requests.
    """
    if requests < 0:
        raise InputError(f"{requests} requests ahead must be at least 0")
    seconds = bound_seconds(mix, step_time, limits)
    mean, second, third = (mix.mean(seconds**power) for power in (1, 2, 3))
    residents = max(1.0, largest_admissions(mix, limits) * mix.mean(mix.iterations))
    spread = max(second / mean**2 - 1.0, 0.0)
    rest = second / (2.0 * mean)
    rest_variance = max(third / (3.0 * mean) - rest**2, 0.0)
    first = mean + (rest - mean) / residents
    first_variance = mean**2 + (rest_variance - mean**2) / residents
    dispersion = _dispersion(seconds / mean, mix.rate / mix.total_rate, requests / residents)
    dispersion += (spread - dispersion) / residents
    return WaitAhead(first + requests * mean, first_variance + requests * dispersion * mean**2)


def _dispersion(services: FloatArray, shares: FloatArray, time: float) -> float:
    """Variance ÷ mean of the renewals within `time` of a random moment; services of mean 1, shape (J,).

    1 + 2/t·∫(m(v) - v)dv with m the renewals from one on (Cox, Renewal Theory, 1962, §4.5), from the renewal equation
    on a grid. Beyond `LONG` services the variance grows by c² a service.
    """
    if time == 0.0:
        return 1.0
    end = min(time, LONG)
    step = end / CELLS
    ends = np.minimum(np.maximum(np.rint(services / step), 1.0), CELLS + 1.0).astype(np.int64)
    law = np.bincount(ends, shares, CELLS + 2)[: CELLS + 1]
    renewals = law.cumsum()
    for k in range(1, CELLS + 1):
        renewals[k] += law[1:k] @ renewals[k - 1 : 0 : -1]
    excess = np.diff(renewals, prepend=0.0)[1:] @ (CELLS - np.arange(1, CELLS + 1)) * step - end**2 / 2.0
    spread = float(shares @ services**2) - 1.0
    return spread + (1.0 + 2.0 * float(excess) / end - spread) * end / time
