"""The stability verdict: does the number of requests in the system keep growing while requests arrive?

It looks at the second half of the arrival window and asks what share of the arriving requests stays behind: the
growth of the number in system N ÷ the arrivals. A server at load ρ > 1 leaves 1 − 1/ρ behind, a stable one nothing
in the long run. Two intervals of that share are made, because N wanders in two ways:

- *Increments* of N over 20 equal spans, as independent values (Student t). True of a server that is never idle,
  where N is a random walk, hence right where a false alarm threatens; too wide for a stable one.
- *Levels*: the slope of a line through the means of N in the spans, with the number of values reduced for the
  residuals' lag-one correlation r to 20 (1 − r)/(1 + r) (Santer et al., J. Geophys. Res. 105, 2000, eq. 6). True
  of a system that settles around a level; too narrow for a random walk.

Unstable: the 95% interval of the increments lies above what filling up from empty can explain, which is at most the
part of the requests' stays that reaches past half the window. Stable: otherwise, if either interval stays below 5%.
Anything else is too short to tell.

Where clients or the policy give up, N is bounded at any load, and what tells whether a server keeps up is whether it
serves those who come. So a request that was aborted or shed counts as one that stayed behind; and as a few are lost at
any load, it takes a loss of 5% to be unstable.

Error, measured on 7920 simulated queues that start empty (one server with constant service, and 100 servers with
lognormal service; 300, 1000, 3000 and 10,000 requests): ρ ≤ 0.95 was called unstable in 0.2% of the runs and ρ = 1
in 2.5%; ρ = 1.1 was called stable in 3% (7% at worst, in short runs) and ρ = 1.3 in 0.2%. What more requests buy is
an answer: at ρ = 0.95 and ρ = 1.1, six in ten runs of 1000 requests were too short to tell, and 1% of those of 10,000.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.engine import RunRecords
from fluidgate.metrics.in_system import number_in_system
from fluidgate.metrics.intervals import student_t
from fluidgate.words import listed

SPANS = 20
MIN_ARRIVALS = 5 * SPANS
STABLE_BELOW = 0.05
"""Share of arrivals left behind that a stable run must be shown to stay below."""


@dataclass(frozen=True)
class StabilityVerdict:
    """Whether a run kept up with its arrivals.

    Attributes:
        stable: None if undecided.
        reason: why, in words.
        growth, growth_low, growth_high: growth of the number in system ÷ arrivals, over the second half of the
            arrival window, with the bounds the verdict rests on; NaN where it was not estimated.
    """

    stable: bool | None
    reason: str
    growth: float = math.nan
    growth_low: float = math.nan
    growth_high: float = math.nan


def stability_verdict(records: RunRecords) -> StabilityVerdict:
    """Judge from arrivals and completions alone; the module says how, and how often it errs."""
    concurrency, arrival_s = records.workload.concurrency, records.arrival_s
    if concurrency is not None:
        return StabilityVerdict(None, f"not applicable: at most {concurrency:,} requests are in flight")
    first_s, last_s = float(np.nanmin(arrival_s)), float(np.nanmax(arrival_s))
    if first_s == last_s:
        return StabilityVerdict(None, "not applicable: all requests arrived at once")
    edges_s = np.linspace((first_s + last_s) / 2, last_s, SPANS + 1)
    arrivals = int(((arrival_s >= edges_s[0]) & (arrival_s < last_s)).sum())
    if arrivals < MIN_ARRIVALS:
        return StabilityVerdict(
            None,
            f"too short to tell: {arrivals} requests arrive in the second half of the arrival window, "
            f"and a verdict needs {MIN_ARRIVALS}",
        )
    growth, margin = _growth_by_increments(records, edges_s)
    slope_growth, slope_margin = _growth_by_levels(records, edges_s)
    high = min(growth + margin, slope_growth + slope_margin)
    loss = (growth / arrivals, (growth - margin) / arrivals, high / arrivals)
    return _judge(*loss, _filling_share(records), _ways_out(records))


def _ways_out(records: RunRecords) -> list[str]:
    """How requests may leave without being served, as verbs."""
    ways = {"give up": records.workload.gives_up, "are shed": records.shed.any()}
    return [verb for verb, is_open in ways.items() if is_open]


def _judge(growth: float, low: float, high: float, filling: float, ways_out: list[str]) -> StabilityVerdict:
    stay = listed(["stay behind", *ways_out], "or")
    if low > max(filling, STABLE_BELOW if ways_out else 0.0):
        reason = (
            f"unstable: {growth:.1%} of the requests that arrive {stay} (95% sure of {low:.1%}), "
            f"of which filling up from empty explains at most {filling:.1%}"
        )
        return StabilityVerdict(False, reason, growth, low, high)
    if high < STABLE_BELOW:
        reason = f"stable: {max(high, 0):.1%} of the requests that arrive {stay} at most (95% sure)"
        return StabilityVerdict(True, reason, growth, low, high)
    if filling >= low > 0:
        reason = (
            f"too short to tell: {growth:.1%} of the requests that arrive {stay} (95% sure of {low:.1%}), but "
            f"they stay so long that filling up from empty explains up to {filling:.1%}. Run more requests"
        )
        return StabilityVerdict(None, reason, growth, low, high)
    reason = (
        f"too short to tell: between {low:.1%} and {high:.1%} of the requests that arrive {stay}; "
        f"stable means less than {STABLE_BELOW:.0%}. Run more requests"
    )
    return StabilityVerdict(None, reason, growth, low, high)


def _growth_by_increments(records: RunRecords, edges_s: FloatArray) -> tuple[float, float]:
    """Growth of N from the first edge to the last, requests, and the margin of its interval."""
    times, counts = number_in_system(records, only_served_leave=True)
    before = np.searchsorted(times, edges_s, side="left")  # the last edge is an arrival, which is not counted yet
    steps = np.diff(np.concatenate(([0], counts))[before])
    return float(steps.sum()), student_t(SPANS - 1) * float(steps.std(ddof=1)) * math.sqrt(SPANS)


def _growth_by_levels(records: RunRecords, edges_s: FloatArray) -> tuple[float, float]:
    """The same from a line through the mean N of every span."""
    times, counts = number_in_system(records, only_served_leave=True)
    area = np.concatenate(([0.0], np.cumsum(counts[:-1] * np.diff(times))))
    levels = np.diff(np.interp(edges_s, times, area)) / np.diff(edges_s)
    x = np.arange(SPANS) - (SPANS - 1) / 2
    slope = float(x @ levels / (x @ x))
    residuals = levels - levels.mean() - slope * x
    squares = float(residuals @ residuals)
    correlation = max(0.0, float(residuals[1:] @ residuals[:-1]) / squares) if squares > 0 else 0.0
    values = max(3.0, SPANS * (1 - correlation) / (1 + correlation))
    slope_error = math.sqrt(squares / (values - 2) / float(x @ x))
    return SPANS * slope, SPANS * student_t(values - 2) * slope_error


def _filling_share(records: RunRecords) -> float:
    """Most that filling up from empty adds to N in the second half of the window, as a share of its arrivals.

    With stays S and a window W, N rises there by λ ∫ P(S > u) du over u from W/2 to W.
    """
    scheduled = ~np.isnan(records.first_scheduled_s)
    if not scheduled.any():
        return 0.0
    half_s = float(np.nanmax(records.arrival_s) - np.nanmin(records.arrival_s)) / 2
    left_s = np.where(records.finished, records.last_token_s, np.where(records.dropped, records.left_s, math.inf))
    stay_s = (left_s - records.first_scheduled_s)[scheduled]
    return float(np.clip(stay_s - half_s, 0, half_s).mean() / half_s)
