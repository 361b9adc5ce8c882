"""How bursty arrivals are, over the window in which bursts reach the KV cache."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, sqrt

from fluidgate.fluid.limits import Limits
from fluidgate.fluid.mix import RequestMix
from fluidgate.fluid.onset import Fluctuation
from fluidgate.fluid.stability import largest_admissions
from fluidgate.hardware.core import StepTime
from fluidgate.words import number
from fluidgate.workload import MIN_WINDOWS, Workload, dispersion

POISSON = 1.0
"""The index of dispersion of Poisson arrivals."""

LEAST_REQUESTS = 100
"""The index of dispersion of fewer is not measured."""

STANDARD_ERRORS = 2.58
"""An index within so many of 1 is taken to be 1: Poisson arrivals stay inside in 99 of 100 measurements."""


@dataclass(frozen=True)
class Burstiness:
    """The index of dispersion of arrivals: variance ÷ mean of their number in a window (model.md §6).

    Attributes:
        index: 1 for Poisson arrivals, more for bursty ones, less for even ones.
        window_s: the window it was measured over, seconds at the rate of the mix; None where it was not measured, and
            `index` is 1.
        window_arrivals: the mean number of arrivals in it.
        whole: whether the workload has `MIN_WINDOWS` windows as long as the residents' memory of a burst; else
            `window_s` is the longest of which there are so many, and longer bursts do not show.
    """

    index: float = POISSON
    window_s: float | None = None
    window_arrivals: float = 1.0
    whole: bool = True

    @property
    def rate_variance(self) -> float:
        """Variance of the rate over such windows beyond that of Poisson arrivals, ÷ the rate's square."""
        return (self.index - POISSON) / self.window_arrivals

    @property
    def row(self) -> str:
        """As a table shows it."""
        if self.window_s is None:
            return "taken as Poisson"
        cut = "" if self.whole else ", the longest that can be measured"
        index = "as Poisson" if self.index == POISSON else f"{number(self.index)} times the variance of Poisson"
        return f"{index}, over {number(self.window_s)} s{cut}"

    @property
    def compared(self) -> str:
        """The arrivals beside Poisson's, as a part of a sentence; empty where they are as even."""
        if self.index == POISSON:
            return ""
        if self.index > POISSON:
            return f"{number(self.index)} times as bursty as Poisson's"
        return f"more even than Poisson's (index of dispersion {number(self.index)})"


def burstiness(
    workload: Workload | RequestMix, mix: RequestMix, step_time: StepTime, limits: Limits, shared_by: int = 1
) -> Burstiness:
    """Measured on a workload at the onset load; 1, as of Poisson arrivals, for a mix, or where replies decide.

    Args:
        workload: what the mix was made from, or the mix.
        mix: the lengths, at the rate of one engine; the rate scales windows and nothing else.
        shared_by: engines among which the workload's requests are shared at random, which evens bursts out.

    Raises:
        InputError: a request is larger than the KV memory.
    """
    limits.refuse_oversized(mix)
    if isinstance(workload, RequestMix) or workload.is_closed or step_time.c0 == 0.0:
        return Burstiness()
    if len(workload) < LEAST_REQUESTS or not isfinite(workload.rate):
        return Burstiness()

    longest = len(workload) / (MIN_WINDOWS + 0.5)

    def measured(window_arrivals: float) -> Burstiness:
        whole = shared_by * window_arrivals <= longest
        arrivals = min(max(shared_by * window_arrivals, 1.0), longest)
        index = dispersion(workload.arrival_s, arrivals / workload.rate)
        error = sqrt(2.0 / (len(workload) / arrivals - 1.0))
        if index is None or abs(index - POISSON) <= STANDARD_ERRORS * error:
            index = POISSON
        each = arrivals / shared_by
        return Burstiness(POISSON + (index - POISSON) / shared_by, each / mix.total_rate, each, whole)

    fluctuation = Fluctuation.of(mix, step_time, limits)
    return measured(
        fluctuation.onset_window(largest_admissions(mix, limits), lambda arrivals: measured(arrivals).rate_variance)
    )
