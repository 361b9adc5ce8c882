"""`a-min`: optimistic look-ahead on the least possible output (Chen, Ye, Zhou, arXiv 2508.14544, algorithm A_min).

A predictor names an interval that the output length lies in. A request counts with the interval's lower end, raised to
what it has generated; the waiting enter in order of their lower ends, as many as fit to the end if all ended there.

Two things differ from the paper. The engine evicts, last admitted first, where A_min evicts the least lower bound. And
the queue keeps the predicted order: an evicted request, whose bound has risen, stands before its equals. Lengths are
read to find their interval, nothing else: the predictor is never wrong. One interval for all is the paper's basic case,
and makes the order that of arrival.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fluidgate.policies.parts.lookahead import LookAhead, admissible, least_output, seats_of
from fluidgate.policies.protocol import MANY
from fluidgate.policies.registry import policy

if TYPE_CHECKING:
    from fluidgate.fluid import FluidPlan

_LOWER_ENDS = 2  # behind the seats and the number of intervals


def _rank(params, request):
    return least_output(request.output_tokens, params[_LOWER_ENDS:])


def _admit(params, memory, view, out_quota):
    out_quota[0] = admissible(memory, view, params[_LOWER_ENDS:])
    return np.inf


@policy("a-min")
class AMin(LookAhead):
    """Admit as if every output ended at the lower end of its interval.

    Attributes:
        lower_ends: rising first lengths of the intervals; the last interval is open, tokens.
    """

    lower_ends: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(len(self.lower_ends) > 0, "needs the lower end of at least one interval")
        rising = all(a < b < MANY for a, b in zip((0.0, *self.lower_ends), self.lower_ends, strict=False))
        self.require(rising, f"lower ends {self.lower_ends} must rise, be above 0 tokens and finite")

    rank = staticmethod(_rank)
    admit = staticmethod(_admit)

    @classmethod
    def from_plan(cls, plan: FluidPlan, **overrides: Any) -> Self:
        """The intervals between the plan's classes of output length, and the engine's seats."""
        planned: dict[str, Any] = {
            "seats": float(seats_of(plan.limits)),
            "lower_ends": (1.0, *(float(edge) + 1.0 for edge in plan.wait.output_edges)),
        }
        return cls(**(planned | overrides))
