"""Confidence intervals over repeats: Student t, and paired differences on common seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike

from fluidgate.errors import InputError
from fluidgate.metrics.summary import METRICS, Summary


@dataclass(frozen=True)
class Interval:
    """A mean with its two-sided confidence interval over `n` values; low and high are NaN when n = 1."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class PairedDifference(Interval):
    """An interval of value − baseline; `relative` is that of `(value − baseline) ÷ |baseline|` by pair."""

    relative: Interval


@cache
def student_t(df: float, level: float = 0.95) -> float:
    """The two-sided Student t quantile: |t| stays below it with probability `level`."""
    from scipy.special import stdtrit

    return float(stdtrit(df, 0.5 + level / 2))


def mean_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Mean and Student t interval of independent values, shape (n,).

    A NaN among them makes all of it NaN: a repeat without the quantity is not dropped from the average.

    Raises:
        InputError: no values, or a level outside (0, 1).
    """
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or len(array) == 0:
        raise InputError(f"an interval needs a list of values, at least one; this has shape {array.shape}")
    if not 0 < level < 1:
        raise InputError(f"confidence level {level} must be above 0 and below 1, such as 0.95")
    n, mean = len(array), float(array.mean())
    if n == 1 or not math.isfinite(mean):
        return Interval(mean, math.nan, math.nan, n)
    half = student_t(n - 1, level) * float(array.std(ddof=1)) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def paired_difference(values: ArrayLike, baseline: ArrayLike, level: float = 0.95) -> PairedDifference:
    """Interval of value − baseline over pairs that shared a seed, each of shape (n,).

    The relative interval is NaN where a baseline value is 0.

    Raises:
        InputError: no pairs, or unequal numbers of values.
    """
    array, base = np.asarray(values, np.float64), np.asarray(baseline, np.float64)
    if array.shape != base.shape:
        raise InputError(f"{array.size} values cannot be paired with {base.size} baseline values; run the same seeds")
    difference = array - base
    relative = np.divide(difference, np.abs(base), out=np.full(base.shape, np.nan), where=base != 0)
    absolute = mean_interval(difference, level)
    return PairedDifference(
        absolute.mean, absolute.low, absolute.high, absolute.n, relative=mean_interval(relative, level)
    )


def aggregate(summaries: Sequence[Summary]) -> dict[str, Interval]:
    """Mean and 95% interval of every metric over repeats, by the keys of `METRICS`.

    Raises:
        InputError: no summaries.
    """
    if not summaries:
        raise InputError("nothing to aggregate; give at least one summary")
    return {key: mean_interval([getattr(summary, key) for summary in summaries]) for key in METRICS}
