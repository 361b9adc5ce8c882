"""`known-lengths`: first come, first served, admitted only if memory suffices until all have ended.

The oracle of admission: with output lengths known it never evicts in mode vllm, nor holds anybody for a danger that is
not there. It is no bound on throughput: requests of one length stay in step, and pacing does better (arXiv 2606.15555).
The check is that of Jaillet et al., arXiv 2502.07115, eq. 5, in order of arrival and in whole blocks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from fluidgate.policies.lookahead import admissible, new_table, seats_of
from fluidgate.policies.protocol import Policy
from fluidgate.policies.registry import policy

if TYPE_CHECKING:
    from fluidgate.fluid import FluidPlan

MOST_SEATS = 1e6
"""A table of this many seats takes 48 MB."""


def _admit(params, memory, view, out_quota):
    out_quota[0] = admissible(memory, view, 0.0)
    return np.inf


@policy("known-lengths")
class KnownLengths(Policy):
    """Admit whoever fits to the end.

    Attributes:
        seats: most residents that are kept track of; no more are admitted.
    """

    seats: float = 1024.0

    needs_output_length = True

    def __post_init__(self) -> None:
        self.require(1 <= self.seats <= MOST_SEATS, f"seats = {self.seats} must be from 1 to {MOST_SEATS:,.0f}")

    admit = staticmethod(_admit)

    def new_memory(self) -> NDArray[np.float64]:
        """The table of the residents' ends."""
        return new_table(self.seats)

    @classmethod
    def from_plan(cls, plan: FluidPlan, **overrides: Any) -> Self:
        """The engine's own seats, or one per block."""
        return cls(**({"seats": float(seats_of(plan.limits))} | overrides))
