"""What requests take of a machine that leave after a number of iterations, or are served only if they end within it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.fluid.limits import Limits
from fluidgate.fluid.mix import RequestMix
from fluidgate.fluid.stability import limit_shares
from fluidgate.hardware.core import StepTime

CUTS = 300
WORK, MEMORY, BUDGET, SEATS, TOKENS, REQUESTS = range(6)
"""Rows of what requests take: work, seconds; the shares of an iteration's memory, token budget and seats that they
take, summed over iterations; tokens computed; requests."""


@dataclass(frozen=True, eq=False)
class CutMix:
    """A mix by the iterations that its requests are given, tabulated.

    Attributes:
        c0: fixed seconds of an iteration.
        cuts: rising numbers of iterations, shape (G,).
        cut: what a request of the mix takes on average if it leaves after so many, shape (6, G).
        lengths: rising iterations of whole requests, shape (D,).
        short: what requests of at most that length take, whole, per request of the mix, shape (6, D + 1); 0 first.
    """

    c0: float
    cuts: FloatArray
    cut: FloatArray
    lengths: FloatArray
    short: FloatArray

    @classmethod
    def of(cls, mix: RequestMix, step_time: StepTime, limits: Limits) -> CutMix:
        """That of a mix on a machine."""
        longest = int(mix.iterations.max())
        cuts = np.unique(np.round(np.geomspace(1.0, longest, CUTS)))
        later = 0 if mix.prefill_emits_token else 1
        columns = []
        for k in cuts.astype(np.int64).tolist():
            left = replace(mix, output_tokens=np.minimum(mix.output_tokens, k - later))
            columns.append([mix.mean(row) for row in taken(left, step_time, limits)])
        order = np.argsort(mix.iterations, kind="stable")
        weight = mix.rate[order] / mix.total_rate
        short = np.cumsum(taken(mix, step_time, limits)[:, order] * weight, axis=1)
        lengths, last = np.unique(mix.iterations[order][::-1], return_index=True)
        whole = short[:, len(order) - 1 - last]
        return cls(step_time.c0, cuts, np.array(columns).T, lengths, np.hstack([np.zeros((6, 1)), whole]))

    def leaving(self, iterations: FloatArray) -> FloatArray:
        """What requests take that leave after so many iterations, one at least; shape (6, Q)."""
        return np.array([np.interp(iterations, self.cuts, row) for row in self.cut])

    def ending(self, iterations: FloatArray) -> FloatArray:
        """What those requests take, whole, which end within so many iterations; shape (6, Q)."""
        at = np.searchsorted(self.lengths, iterations * (1.0 + 1e-12), side="right")
        return np.asarray(self.short[:, at])

    def seconds(self, takes: FloatArray) -> float:
        """Seconds of a full machine that this takes: its work, and its part of the fixed cost (model.md §2)."""
        return float(takes[WORK] + self.c0 * takes[MEMORY : SEATS + 1].max())

    def iteration_s(self, takes: FloatArray, rate: float) -> float:
        """Seconds of an iteration where `rate` requests a second take this each, as far as the limits allow."""
        work_s, share = float(takes[WORK]), float(takes[MEMORY : SEATS + 1].max())
        if share <= 0.0:
            return self.c0
        free = 1.0 - rate * work_s
        admitted = min(1.0 / share, rate * self.c0 / free) if free > 0.0 else 1.0 / share
        return self.c0 + work_s * admitted


def taken(mix: RequestMix, step_time: StepTime, limits: Limits) -> FloatArray:
    """What a request of each type takes, shape (6, J)."""
    return np.array([mix.work_s(step_time), *limit_shares(mix, limits), mix.tokens, np.ones(len(mix.rate))])
