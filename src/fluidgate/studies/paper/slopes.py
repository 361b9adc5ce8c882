"""Slopes against a growing horizon, and frequencies, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.metrics import Interval
from fluidgate.metrics.intervals import student_t


def log_slope(values: Mapping[int, FloatArray]) -> Interval:
    """Slope of ln(mean) against ln(x), by least squares, with its 95% interval.

    The interval is the jackknife's: one seed left out at a time, at all x.

    Args:
        values: by x, one value a seed.
    """
    x = np.log(np.array(list(values), dtype=np.float64))
    by_seed = np.column_stack(list(values.values()))
    n = len(by_seed)
    slope = _slopes(x, np.log(by_seed.mean(axis=0))[None])[0]
    left_out = _slopes(x, np.log((by_seed.sum(axis=0) - by_seed) / (n - 1)))
    half = student_t(n - 1) * np.sqrt((n - 1) * float(left_out.var()))
    return Interval(float(slope), float(slope - half), float(slope + half), n)


def growth(values: Mapping[int, FloatArray]) -> float:
    """Slope of the mean against ln(x)."""
    x = np.log(np.array(list(values), dtype=np.float64))
    means: FloatArray = np.array([part.mean() for part in values.values()])
    return float(_slopes(x, means[None])[0])


def frequency_limits(hits: int, n: int) -> tuple[float, float]:
    """Between which a frequency lies of which `hits` of `n` were seen; each limit holds with probability 95%."""
    from scipy.special import betaincinv

    low = 0.0 if hits == 0 else float(betaincinv(hits, n - hits + 1, 0.05))
    return low, 1.0 if hits == n else float(betaincinv(hits + 1, n - hits, 0.95))


def _slopes(x: FloatArray, y: FloatArray) -> FloatArray:
    centred = x - x.mean()
    slopes: FloatArray = y @ centred / float(centred @ centred)
    return slopes
