"""What a recommendation looks at: metrics, the differences in them that are too small to decide, and those measured."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, isnan, nan, sqrt
from typing import Literal

from fluidgate.metrics import METRICS, Interval, mean_interval, paired_difference
from fluidgate.metrics.intervals import student_t
from fluidgate.report.amounts import is_share
from fluidgate.report.shown_metrics import judge
from fluidgate.report.words import measured
from fluidgate.runs import Cell, Comparison
from fluidgate.words import number

MOST_REPEATS = 100
"""No more are proposed."""


@dataclass(frozen=True)
class Criterion:
    """A metric, and the largest difference in it that is too small to decide.

    Attributes:
        words: the metric's name in a sentence.
        absolute: in the metric's unit.
        relative: a share of the best value, added to `absolute`.
    """

    metric: str
    words: str
    absolute: float = 0.0
    relative: float = 0.0

    def margin(self, best: float) -> float:
        """The largest difference from `best` that counts as none."""
        return self.absolute + self.relative * abs(best)

    @property
    def sign(self) -> float:
        """1 where lower is better, else −1."""
        return 1.0 if METRICS[self.metric].better == "lower" else -1.0


THROUGHPUT = Criterion("output_throughput", "output throughput", relative=0.01)
SERVED = Criterion("effective_throughput", "output throughput of completed requests", relative=0.01)
GOODPUT = Criterion("request_goodput", "goodput", relative=0.01)
SILENCE = Criterion("p99_longest_silence_s", "p99 longest silence", absolute=0.1)
LATENCY = Criterion("mean_e2el_ms", "mean E2E latency", relative=0.01)
FIRST_TOKEN = Criterion("mean_ttft_ms", "mean TTFT", absolute=100.0, relative=0.05)
TIE_BREAKERS = (Criterion("preemptions", "evictions"), Criterion("recompute_tax", "recompute tax"))
"""What decides between policies that nothing else tells apart."""


def criteria(comparison: Comparison) -> tuple[Criterion, ...]:
    """What the rule looks at, in order; goodput replaces throughput where an SLO was given.

    What clients who give up were sent does not count.
    """
    delivered = SERVED if comparison.gives_up else THROUGHPUT
    return (delivered if comparison.slo is None else GOODPUT, SILENCE, LATENCY, FIRST_TOKEN)


def deciding(comparison: Comparison) -> tuple[Criterion, ...]:
    """The six numbers that decide: what the rule looks at, and what breaks its ties."""
    return (*criteria(comparison), *TIE_BREAKERS)


def mean_of(cell: Cell, metric: str) -> float:
    """The mean over the repeats."""
    return mean_interval([getattr(s, metric) for s in cell.summaries]).mean


@dataclass(frozen=True)
class Difference:
    """By how much one policy is worse than another by a criterion, over paired repeats; negative: better.

    Attributes:
        mean, low, high: the difference and its 95% interval; with one repeat all three are the difference.
        margin: the largest that counts as none.
        repeats: how many there are.
    """

    criterion: Criterion
    mean: float
    low: float
    high: float
    margin: float
    repeats: int

    @classmethod
    def of(cls, cell: Cell, than: Cell, criterion: Criterion) -> Difference:
        """Of `cell` from `than`; none where neither has the quantity."""
        metric = criterion.metric
        values, best = ([getattr(s, metric) for s in c.summaries] for c in (cell, than))
        margin = criterion.margin(mean_of(than, metric))
        if isnan(mean_of(cell, metric)) and isnan(mean_of(than, metric)):
            return cls(criterion, 0.0, 0.0, 0.0, 0.0, len(values))
        found = paired_difference(values, best)
        ends = [found.mean if isnan(end) else end for end in (found.low, found.high)]
        low, high = sorted(criterion.sign * end for end in ends)
        return cls(criterion, criterion.sign * found.mean, low, high, margin, len(values))

    @property
    def interval(self) -> Interval:
        """The difference in the metric's own direction, as `paired_difference` gives it; no ends with one repeat."""
        low, high = sorted(self.criterion.sign * end for end in (self.low, self.high))
        mean = self.criterion.sign * self.mean
        return Interval(mean, nan, nan, 1) if self.repeats == 1 else Interval(mean, low, high, self.repeats)

    @property
    def within(self) -> bool:
        """Whether the whole interval lies within the margin."""
        return self.low >= -self.margin and self.high <= self.margin

    @property
    def shown(self) -> Literal["better", "worse"] | None:
        """What the interval shows, if it excludes zero."""
        return judge(self.criterion.metric, self.interval)

    @property
    def repeats_to_decide(self) -> int | None:
        """How many repeats of this scatter would put the interval inside the margin or beyond it.

        The least n with t·s/√n at most the way from the mean to the next margin. None: the scatter is unknown; more
        than `MOST_REPEATS`: that many.
        """
        if self.repeats == 1 or not isfinite(self.high - self.low):
            return None
        deviation = 0.5 * (self.high - self.low) * sqrt(self.repeats) / student_t(self.repeats - 1)
        gap = abs(abs(self.mean) - self.margin)
        for n in range(self.repeats + 1, MOST_REPEATS + 1):
            if student_t(n - 1) * deviation / sqrt(n) <= gap:
                return n
        return MOST_REPEATS + 1

    def __str__(self) -> str:
        higher = (self.mean > 0) == (self.criterion.sign > 0)
        least, most = sorted((abs(self.low), abs(self.high)))
        amounts = [_amount(self.criterion.metric, value) for value in (abs(self.mean), least, most)]
        return f"{self.criterion.words} {amounts[0]} {'higher' if higher else 'lower'} [{amounts[1]}, {amounts[2]}]"


def _amount(metric: str, value: float) -> str:
    unit = METRICS[metric].unit
    if is_share(metric):
        return f"{number(100.0 * value)} points"
    return measured(metric, value) if unit in ("s", "ms") else f"{number(value)} {unit}".strip()


def in_numbers(comparison: Comparison, cell: Cell) -> str:
    """A sentence of a policy's numbers by what the rule looks at."""
    numbers = [f"{c.words} {measured(c.metric, mean_of(cell, c.metric))}" for c in criteria(comparison)]
    return f"{cell.policy}: {', '.join(numbers)}."
