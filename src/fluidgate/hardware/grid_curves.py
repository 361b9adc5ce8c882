"""`GridCurves`: a `StepGrid` from a few numbers, for profiles whose step time is not a sum of four terms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.hardware.knots import TOKEN_KNOTS_PER_OCTAVE, knots_to
from fluidgate.hardware.step_grid import StepGrid

MAX_DECODES, MAX_CONTEXT, MAX_TOKENS = 4096, 16384, 8192
"""How far the tables reach. Beyond the last number of a curve it goes on as between its last two."""


@dataclass(frozen=True, eq=False)
class GridCurves:
    """Seconds of a step's parts, as curves.

    A chunk of c tokens after k others takes prefill[0] + prefill[1]·min(1, c/ramp[0]) + prefill[2]·c² + prefill[3]·c·k
    + prefill[4]·min(1, k/ramp[1]); prompts that start together count as one of the root of their squared lengths.

    Attributes:
        shared: tokens, and what all of a step go through, shape (T, 2): linear in between.
        decodes: their number, their attention without context, and what each token of each one's context adds, shape
            (N, 3): linear in between.
        prefill: see above, shape (5,).
        prefill_ramp: tokens, shape (2,).
    """

    shared: FloatArray
    decodes: FloatArray
    prefill: FloatArray
    prefill_ramp: FloatArray

    def grid(self) -> StepGrid:
        """The tables."""
        decodes, contexts = knots_to(MAX_DECODES), knots_to(MAX_CONTEXT)
        chunks, tokens = knots_to(MAX_TOKENS), knots_to(MAX_TOKENS + MAX_DECODES, TOKEN_KNOTS_PER_OCTAVE)
        alone_s, context_s = (_continued(decodes, self.decodes[:, 0], self.decodes[:, i]) for i in (1, 2))
        attention_s = alone_s[:, None] + context_s[:, None] * contexts
        return StepGrid(
            decode_s=self._shared_s(decodes)[:, None] + attention_s,
            decode_attention_s=attention_s,
            shared_s=self._shared_s(tokens),
            prefill_attention_s=self._prefill_s(chunks[:, None], contexts),
        )

    def _shared_s(self, tokens: FloatArray) -> FloatArray:
        return _continued(tokens, self.shared[:, 0], self.shared[:, 1])

    def _prefill_s(self, tokens: FloatArray, mean_context: FloatArray) -> FloatArray:
        """Of so many tokens that attend to so many on average: of one chunk, or else of equal whole prompts."""
        alone = (tokens + 1.0) / 2.0
        before = np.maximum(mean_context - alone, 0.0)
        prompts = np.maximum(tokens / (2.0 * mean_context - 1.0), 1.0)
        chunk = tokens / np.sqrt(prompts)
        fixed_s, ramp_s, square_s, product_s, context_s = self.prefill
        ramp = np.minimum(chunk / self.prefill_ramp[0], 1.0), np.minimum(before / self.prefill_ramp[1], 1.0)
        own_s = fixed_s + ramp_s * ramp[0] + square_s * chunk**2
        seconds: FloatArray = own_s + product_s * chunk * before + context_s * ramp[1]
        return seconds


def _continued(at: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
    """Linear between points, and beyond the last one as between the last two."""
    slope = (y[-1] - y[-2]) / (x[-1] - x[-2])
    values: FloatArray = np.interp(at, x, y) + slope * np.maximum(at - x[-1], 0.0)
    return values
