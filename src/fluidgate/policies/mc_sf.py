"""`mc-sf`: Memory-Constrained Shortest First (Jaillet, Jiang, Mellou, Molinaro, Podimata, Zhou, arXiv 2502.07115).

Residents run on; the waiting are taken in order of output length, shortest first, as long as memory suffices just
before every future completion; the first that does not fit ends the round. The paper counts memory by the token and
takes predicted lengths; here it comes in whole blocks and the lengths are true.
"""

from __future__ import annotations

from fluidgate.policies.known_lengths import KnownLengths
from fluidgate.policies.registry import policy
from fluidgate.policies.shortest_first import rank_by_output


@policy("mc-sf")
class McSf(KnownLengths):
    """Admit the requests that fit to their end, the shortest first."""

    rank = staticmethod(rank_by_output)
