"""Residents by stage (output tokens so far) in the fluid equilibrium, in a few ranges of equal weight."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fluidgate.arrays import FloatArray, IntArray
from fluidgate.fluid.plan import FluidPlan


def stage_edges(plan: FluidPlan, ranges: int = 5) -> list[int]:
    """Edges of stage ranges, each of which holds about an equal share of the residents in equilibrium.

    Returns:
        At most `ranges` + 1 rising numbers of tokens, from 0 to the longest output; fewer where outputs are very short.
    """
    longest = plan.mix.max_output_tokens
    knots = np.unique((0, *plan.mix.output_quantiles))
    shares = np.linspace(0.0, 1.0, ranges + 1)[1:-1]
    inner = np.rint(np.interp(shares, _share_below(plan, knots), knots)).astype(int)
    return [0, *sorted({int(edge) for edge in inner} - {0, longest}), longest]


def residents_by_stage(plan: FluidPlan, edges: Sequence[int]) -> list[float]:
    """Residents per stage range in equilibrium, at the boundary if the load is above it; shape (len(edges) - 1,)."""
    equilibrium = plan.equilibrium
    residents = plan.stability.residents if equilibrium is None else equilibrium.residents
    return [float(count) for count in residents * np.diff(_share_below(plan, np.asarray(edges)))]


def _share_below(plan: FluidPlan, stages: IntArray) -> FloatArray:
    """The share of residents below each stage: at stage s are as many as P(output > s), so below it E[min(o, s)]."""
    lengths = np.asarray(plan.mix.output_quantiles, dtype=np.float64)
    return np.asarray(np.minimum(stages[:, None], lengths).mean(axis=1) / lengths.mean())
