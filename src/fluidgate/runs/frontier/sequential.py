"""The sequential test behind a stable rate, and the bisection that uses it; neither knows about engines.

At one rate, replications give independent values of the same mean, whose sign is that of the queue's drift: above 0
the queue grows, below 0 it drains. After 4, 8, 16, … of them, up to a cap, a Student t-test of each side is
made; the first that is significant decides, and where none is, the rate stays undecided.

Rates lie on a fixed geometric grid with the tolerance as step, in which the predicted boundary is the middle. Two
bisections share their tests: one for the largest rate shown stable, in which all that is not shown stable counts as
too high, and one for the smallest shown unstable, in which all that is not shown unstable counts as too low. Each
visits at most `depth` rates.

Error. Say the queue drifts up at the rates above f and down at those below. The first test that errs is on the
path from the middle of the grid on which every answer is right: once an answer leaves that path because it is
undecided, every later rate of that bisection lies on the side of f where its answer cannot be wrong. That path is given
by f before any run, has at most `depth` rates, and at each of them only one side of the test can be wrong. So with
Bonferroni's inequality over depth × looks one-sided tests, each at level α/(depth · looks), the interval contains f
with probability of at least 1 − α, whatever the dependence between rates: common random numbers are allowed, and so
is looking again after more replications. The only approximation is that the t-test takes the mean of 4 or more
replications to be normal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from fluidgate.errors import InputError

FIRST_LOOK = 4
"""Replications before the first test."""

SPAN = 2.0
"""The grid reaches at least from 1/SPAN to SPAN times the predicted boundary."""

REACH = 32.0
"""Where objectives must hold, it ends at the boundary, beyond which no latency is bounded for long, and begins at
1/REACH of it."""


class Looks(Protocol):
    """When a sequential test looks, and at which level."""

    @property
    def looks(self) -> tuple[int, ...]:
        """Replications after which a test is made, rising."""

    @property
    def level(self) -> float:
        """Of each one-sided test."""


@dataclass(frozen=True)
class Rule:
    """How rates are tested; a `Looks`.

    Attributes:
        tolerance: step of the grid of rates, relative; the width of the interval where every rate is decided.
        alpha: the probability that the interval misses is at most this.
        replications: most replications at a rate.
        up_to_boundary: whether the predicted boundary is the last rate of the grid, not the middle.
    """

    tolerance: float = 0.01
    alpha: float = 0.05
    replications: int = 16
    up_to_boundary: bool = False

    def __post_init__(self) -> None:
        if not 1e-4 <= self.tolerance <= 0.5:
            raise InputError(f"tolerance {self.tolerance} must be a share between 0.0001 and 0.5, such as 0.01")
        check_test(self.alpha, self.replications)

    @cached_property
    def looks(self) -> tuple[int, ...]:
        """Replications after which a test is made: 4, 8, 16, …, and the cap."""
        return looks_up_to(self.replications)

    @cached_property
    def depth(self) -> int:
        """Most rates that a bisection tests: its grid has 2^depth − 1."""
        ratio = REACH if self.up_to_boundary else SPAN**2
        return math.ceil(math.log2(math.log(ratio) / math.log1p(self.tolerance) + 1))

    @property
    def level(self) -> float:
        """Level of each one-sided test."""
        return self.alpha / (self.depth * len(self.looks))

    def load(self, index: int) -> float:
        """A rate of the grid, 0 ≤ index < 2^depth − 1, as a multiple of the predicted boundary.

        Half a step off it, where it is the middle: a machine that attains the boundary exactly has no drift there.
        """
        if self.up_to_boundary:
            return float((1.0 + self.tolerance) ** (index - (2**self.depth - 2)))
        middle = 2 ** (self.depth - 1) - 1
        return float((1.0 + self.tolerance) ** (index - middle + 0.5))


def check_test(alpha: float, replications: int, first_look: int = FIRST_LOOK) -> None:
    """Refuse a test that could not be made.

    Raises:
        InputError: an error level that is none, or fewer replications than the first look needs.
    """
    if not 0 < alpha < 0.5:
        raise InputError(f"alpha {alpha} must be a probability above 0 and below 0.5, such as 0.05")
    if replications < first_look:
        raise InputError(f"{replications} replications are too few to test with; allow at least {first_look}")


def looks_up_to(replications: int) -> tuple[int, ...]:
    """4, 8, 16, …, and the cap."""
    doubled = [FIRST_LOOK * 2**k for k in range(64) if FIRST_LOOK * 2**k < replications]
    return (*doubled, replications)


@dataclass(frozen=True)
class Decision:
    """What the values of one rate say.

    Attributes:
        stable: None if undecided.
        mean, low, high: of the values, of several quantities those of the one with the highest `low`; the bounds are
            those that the tests use.
        replications: how many values there are of each.
        place: which of the quantities that is.
    """

    stable: bool | None
    mean: float
    low: float
    high: float
    replications: int
    place: int = 0


def decide(values: ArrayLike, level: float) -> Decision:
    """Both one-sided t-tests of a mean of 0, at `level` each, of independent values of shape (n,), n ≥ 2.

    An infinite value makes the mean infinite, without a doubt.
    """
    array = np.asarray(values, np.float64)
    n, mean = len(array), float(array.mean())
    if mean == math.inf:
        return Decision(False, mean, mean, mean, n)
    margin = _one_sided_t(n - 1, level) * float(array.std(ddof=1)) / math.sqrt(n)
    low, high = mean - margin, mean + margin
    stable = True if high < 0 else False if low > 0 else None
    return Decision(stable, mean, low, high, n)


def decide_all(values: ArrayLike, level: float) -> Decision:
    """The tests of several quantities, of values of shape (n, quantities): stable needs all of them below 0.

    That one of k is above 0 is tested at `level`/k each, by Bonferroni's inequality; that all are below needs none.
    """
    array = np.asarray(values, np.float64)
    above = [decide(column, level / array.shape[1]) for column in array.T]
    below = [decide(column, level).stable is True for column in array.T]
    place = max(range(len(above)), key=lambda k: above[k].low)
    stable = False if above[place].low > 0 else True if all(below) else None
    return replace(above[place], stable=stable, place=place)


def until_decided(values: Iterator[Sequence[float]], rule: Looks) -> Decision:
    """Take values, of every quantity at once, until a test decides or the last look is over."""
    taken: list[Sequence[float]] = []
    for look in rule.looks:
        taken += [next(values) for _ in range(look - len(taken))]
        decision = decide_all(taken, rule.level)
        if decision.stable is not None:
            break
    return decision


def bisect(test: Callable[[int], bool | None], depth: int) -> tuple[int, int]:
    """The largest index shown stable and the smallest shown unstable, of 0 … 2^depth − 2.

    Args:
        test: True for stable, False for unstable, None if undecided; called once per index.

    Returns:
        −1 where none was shown stable, 2^depth − 1 where none was shown unstable.
    """
    answer = cache(test)
    last = 2**depth - 1
    low, high = -1, last
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if answer(middle) is True else (low, middle)
    stable = low
    low, high = -1, last
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if answer(middle) is False else (middle, high)
    return stable, high


@cache
def _one_sided_t(df: int, level: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(df, 1.0 - level))
