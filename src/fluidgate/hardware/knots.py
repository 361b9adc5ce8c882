"""The axes of a `StepGrid`: knots at (1 + j/k)·2**e, k to an octave."""

from __future__ import annotations

import numpy as np

from fluidgate.arrays import FloatArray

KNOTS_PER_OCTAVE = 4
TOKEN_KNOTS_PER_OCTAVE = 16
"""Of the axis of `shared_s`: matrix products have steps and bends in their tokens that attention has not."""


def knots(count: int, per_octave: int = KNOTS_PER_OCTAVE) -> FloatArray:
    """The first knots of an axis, shape (count,)."""
    octave, step = np.divmod(np.arange(count), per_octave)
    rising: FloatArray = 2.0**octave * (1.0 + step / per_octave)
    return rising


def knots_to(largest: float, per_octave: int = KNOTS_PER_OCTAVE) -> FloatArray:
    """The knots of an axis from 1 to the first at or above `largest`: 1, 1.25, 1.5, 1.75, 2, 2.5 …"""
    rising = knots(per_octave * (int(np.ceil(np.log2(max(largest, 2.0)))) + 1), per_octave)
    return rising[: int(np.searchsorted(rising, largest)) + 1]
