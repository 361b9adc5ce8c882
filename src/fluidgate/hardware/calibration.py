"""`Calibration`: how certain a fitted step time is, and over which range of steps."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, sqrt

import numpy as np

from fluidgate.errors import InputError

COEFFICIENTS = ("c0", "c_tok", "c_kv", "c_attn", "c_seq")
"""Of a step time, in the order of its fields."""
RANGE_SLACK = 1.2
"""A step may leave the measured range by a fifth before it counts as extrapolated."""


@dataclass(frozen=True)
class Calibration:
    """Uncertainty and range of a fitted `StepTime`; one value per coefficient, in the order of `COEFFICIENTS`.

    Attributes:
        steps: measured steps.
        plus_minus: half-width of each coefficient's 95% interval, seconds; None where the steps do not determine it.
        correlation: of the errors of the coefficients, shape (5, 5).
        misfit: what the affine form itself is off by, as a standard deviation relative to the step: the
            differences between regions of steps that their noise does not explain.
        tokens, kv_tokens: least and most of any step.
    """

    steps: int
    plus_minus: tuple[float | None, ...]
    correlation: tuple[tuple[float, ...], ...]
    misfit: float
    tokens: tuple[float, float]
    kv_tokens: tuple[float, float]

    def __post_init__(self) -> None:
        count = len(COEFFICIENTS)
        if len(self.plus_minus) != count:
            raise InputError(f"calibration: plus_minus has {len(self.plus_minus)} values, not {count}")
        for value in (self.misfit, *(v for v in self.plus_minus if v is not None)):
            if not (isfinite(value) and value >= 0):
                raise InputError(f"calibration: plus_minus and misfit must be finite and at least 0, not {value}")
        matrix = np.array(self.correlation, dtype=np.float64)
        if matrix.shape != (count, count) or not np.allclose(matrix, matrix.T) or np.linalg.eigvalsh(matrix)[0] < -1e-6:
            raise InputError(
                f"calibration: correlation must be a symmetric {count} × {count} matrix without negative eigenvalues"
            )
        for name in ("tokens", "kv_tokens"):
            low, high = getattr(self, name)
            if not 0 <= low <= high < float("inf"):
                raise InputError(f"calibration: {name} must be its least and its most, not {low} and {high}")

    def half_width_s(self, tokens: float, kv_tokens: float, attention_pairs: float, sequences: float) -> float | None:
        """Half of the 95% interval of such a step's fitted mean time, seconds, misfit apart.

        None where it rests on a coefficient that the steps do not determine.
        """
        terms = np.array([1.0, tokens, kv_tokens, attention_pairs, sequences])
        unknown = np.array([width is None for width in self.plus_minus])
        if np.any(unknown & (terms != 0)):
            return None
        widths = terms * np.array([width or 0.0 for width in self.plus_minus])
        return sqrt(max(float(widths @ np.array(self.correlation) @ widths), 0.0))

    def outside(self, tokens: tuple[float, float], kv_tokens: tuple[float, float]) -> str | None:
        """Which of these ranges exceed the measured ones by more than a fifth, in words; None if neither does."""
        parts = []
        for what, (low, high), measured in (("tokens", tokens, self.tokens), ("KV tokens", kv_tokens, self.kv_tokens)):
            if high > measured[1] * RANGE_SLACK:
                parts.append(f"up to {high:,.0f} {what} (measured: up to {measured[1]:,.0f})")
            elif low < measured[0] / RANGE_SLACK:
                parts.append(f"fewer {what} than {measured[0]:,.0f}, the least measured")
        return " and ".join(parts) or None
