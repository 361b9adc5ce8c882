"""A `StepGrid` of Vidur's measured operators.

What a step costs is put together as Vidur does by default (`ExecutionTime`, `SklearnExecutionTimePredictor`): layers
times the operators of one layer, those by tokens for a multiple of 8; embedding, output head and the CPU's work count
nothing. Prompts of one batch count as one of the root of their squared lengths. Where heads share keys and values,
attention of several requests takes a tenth more. Vidur learns trees between its points; here it is linear.
"""

from __future__ import annotations

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.calibration.points import StepPoints, StepRow, points_of
from fluidgate.calibration.vidur_profile import MS_PER_S, Points, VidurProfile
from fluidgate.errors import InputError
from fluidgate.hardware.knots import KNOTS_PER_OCTAVE, TOKEN_KNOTS_PER_OCTAVE, knots_to
from fluidgate.hardware.model_config import ModelShape
from fluidgate.hardware.step_grid import StepGrid

TOKEN_MULTIPLE = 8
SHARED_HEADS_OVERHEAD = 0.1
"""Vidur's `attention_{prefill,decode}_batching_overhead_fraction`, of models with fewer key-value than query heads."""
LAUNCH_MS, ALL_REDUCES = 0.02, 2
"""Vidur's `nccl_cpu_launch_overhead_ms`, of each all-reduce of a layer."""
LITTLE_BEYOND = 1.05
"""How far contexts and tokens are extrapolated: measurements end just short of the longest request."""


class VidurSteps:
    """Times of whole steps and their parts, ms."""

    def __init__(self, profile: VidurProfile, shape: ModelShape) -> None:
        self.profile, self.layers = profile, shape.layers
        self.overhead = SHARED_HEADS_OVERHEAD if shape.heads > shape.kv_heads else 0.0
        self.decodes, self.prompts = Surface(profile.decode), Surface(profile.prefill)

    def shared_ms(self, tokens: float) -> float:
        """What all tokens of a step go through."""
        rounded = TOKEN_MULTIPLE * np.ceil(tokens / TOKEN_MULTIPLE)
        parts = [_along(points, rounded) for points in self.profile.linear.values()]
        parts.append(_along(self.profile.kv_save, tokens))
        if self.profile.all_reduce is not None:
            parts.append(ALL_REDUCES * (_along(self.profile.all_reduce, rounded) + LAUNCH_MS))
        return self.layers * sum(parts)

    def decode_ms(self, decodes: float, context: float) -> float:
        """Attention of decodes."""
        return self.layers * self._of_several(decodes) * self.decodes.at(decodes, context)

    def prefill_ms(self, tokens: float, mean_context: float) -> float:
        """Attention of prompts, whose tokens attend to so many on average: one chunk, or else equal whole prompts."""
        alone = (tokens + 1.0) / 2.0
        if mean_context >= alone:
            return self.layers * self.prompts.at(tokens, mean_context - alone)
        prompts = tokens / (2.0 * mean_context - 1.0)
        return self.layers * self._of_several(prompts) * self.prompts.at(tokens / prompts**0.5, 0.0)

    def _of_several(self, requests: float) -> float:
        return 1.0 + self.overhead * min(max(requests - 1.0, 0.0), 1.0)

    def grid(self) -> StepGrid:
        """The tables, as far as the operators were measured.

        Raises:
            InputError: they hardly reach anywhere.
        """
        measured = self.profile
        longest = max(measured.decode.context.max(), (measured.prefill.at + measured.prefill.context).max())
        decodes, chunks = _within(measured.decode.at.max()), _within(measured.prefill.at.max())
        contexts = _within(LITTLE_BEYOND * longest)
        most_tokens = LITTLE_BEYOND * min(points.at[-1] for points in measured.linear.values() if len(points.at) > 1)
        tokens = _within(most_tokens, TOKEN_KNOTS_PER_OCTAVE)
        if min(map(len, (decodes, chunks, contexts, tokens))) < 2:
            raise InputError("Vidur's profile reaches no batch of two requests or tokens; give a whole one")
        attention_ms = np.array([[self.decode_ms(n, context) for context in contexts] for n in decodes])
        shared_ms = np.array([self.shared_ms(n) for n in decodes])
        prefill_ms = np.array([[self.prefill_ms(chunk, context) for context in contexts] for chunk in chunks])
        return StepGrid(
            decode_s=(shared_ms[:, None] + attention_ms) / MS_PER_S,
            decode_attention_s=attention_ms / MS_PER_S,
            shared_s=np.array([self.shared_ms(n) for n in tokens]) / MS_PER_S,
            prefill_attention_s=prefill_ms / MS_PER_S,
        )

    def measured_steps(self, grid: StepGrid) -> tuple[StepPoints, FloatArray]:
        """Steps of decodes alone and of one chunk alone, at the measured places that a grid reaches; and it at them."""
        rows: list[StepRow] = []
        steps = []
        for n, context, ms in zip(*self.profile.decode, strict=True):
            if context > 0 and n <= grid.max_decodes:
                seconds = (self.shared_ms(n) + self.layers * self._of_several(n) * ms) / MS_PER_S
                rows.append(("decode", n, n * context, 0.0, n, seconds))
                steps.append((n, n * context, 0.0, 0.0))
        for chunk, before, ms in zip(*self.profile.prefill, strict=True):
            if chunk <= grid.max_tokens:
                pairs = chunk * before + chunk * (chunk + 1.0) / 2.0
                seconds = (self.shared_ms(chunk) + self.layers * ms) / MS_PER_S
                rows.append(("chunk" if before else "prefill", chunk, before + chunk, pairs, 1.0, seconds))
                steps.append((0.0, 0.0, chunk, pairs))
        return points_of(rows), grid.tables_s(*np.array(steps).T)


class Surface:
    """An operator over two sizes: linear in the context at each measured `at`, and linear between those."""

    def __init__(self, points: Points) -> None:
        self.rows = np.unique(points.at)
        self.contexts = [points.context[points.at == row] for row in self.rows]
        self.ms = [points.ms[points.at == row] for row in self.rows]
        self.slopes = self._slopes()

    def _slopes(self) -> FloatArray:
        """Beyond the last context, ms per token; where there was one only, in proportion to the nearest other row."""
        several = [i for i, contexts in enumerate(self.contexts) if len(contexts) > 1]
        slopes = np.zeros(len(self.rows))
        for i in several:
            rise = self.ms[i][-1] - self.ms[i][0]
            slopes[i] = max(rise / (self.contexts[i][-1] - self.contexts[i][0]), 0.0)
        for i in set(range(len(self.rows))) - set(several):
            if several:
                nearest = min(several, key=lambda other: abs(self.rows[other] - self.rows[i]))
                slopes[i] = slopes[nearest] * self.rows[i] / self.rows[nearest]
        return slopes

    def at(self, row: float, context: float) -> float:
        """The time there; of the smallest size below it."""
        above = min(max(int(np.searchsorted(self.rows, row)), 1), len(self.rows) - 1)
        low, high = self.rows[above - 1], self.rows[above]
        share = max((row - low) / (high - low), 0.0)
        below_ms, above_ms = self._on_row(above - 1, context), self._on_row(above, context)
        return float(max(below_ms + share * (above_ms - below_ms), 0.0))

    def _on_row(self, i: int, context: float) -> float:
        beyond = max(context - self.contexts[i][-1], 0.0)
        return float(np.interp(context, self.contexts[i], self.ms[i]) + self.slopes[i] * beyond)


def _along(points: Points, at: float) -> float:
    """The time there; of the smallest size below it, and in proportion beyond the largest."""
    return float(np.interp(at, points.at, points.ms)) * max(at / float(points.at[-1]), 1.0)


def _within(largest: float, per_octave: int = KNOTS_PER_OCTAVE) -> FloatArray:
    """The knots of an axis up to `largest`."""
    rising = knots_to(largest, per_octave)
    return rising[rising <= largest]
