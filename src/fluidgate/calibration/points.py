"""`StepPoints`: measured steps in the terms of `StepTime`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fluidgate.arrays import FloatArray


class StepPoints(NamedTuple):
    """Measured steps in the terms of `StepTime`; every array has shape (n,)."""

    kind: NDArray[np.str_]
    tokens: FloatArray
    kv_tokens: FloatArray
    attention_pairs: FloatArray
    sequences: FloatArray
    duration_s: FloatArray


StepRow = tuple[str, float, float, float, float, float]
"""Kind, tokens, KV tokens, pairs, sequences and seconds of a step."""


def points_of(rows: Sequence[StepRow]) -> StepPoints:
    """Steps from rows."""
    kinds = np.array([row[0] for row in rows], dtype=np.str_)
    values = np.array([row[1:] for row in rows], dtype=np.float64).reshape(-1, 5)
    return StepPoints(kinds, *values.T)
