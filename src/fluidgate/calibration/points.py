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
    duration_s: FloatArray


def points_of(rows: Sequence[tuple[str, float, float, float, float]]) -> StepPoints:
    """Steps from rows of kind, tokens, KV tokens, pairs and seconds."""
    kinds = np.array([row[0] for row in rows], dtype=np.str_)
    values = np.array([row[1:] for row in rows], dtype=np.float64).reshape(-1, 4)
    return StepPoints(kinds, values[:, 0], values[:, 1], values[:, 2], values[:, 3])
