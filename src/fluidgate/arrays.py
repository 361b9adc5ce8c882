"""Types of arrays, and the row that is none, as every room names them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

NONE = -1
"""No row: the end of a linked list."""
