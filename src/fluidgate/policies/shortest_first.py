"""`shortest-first`: the shortest output first; memory is the engine's business.

The order of `mc-sf` (Jaillet et al., arXiv 2502.07115) without its look-ahead: what the order alone is worth.
"""

from __future__ import annotations

from fluidgate.policies.protocol import Policy
from fluidgate.policies.registry import policy


def rank_by_output(params, request):
    return float(request.output_tokens)


@policy("shortest-first")
class ShortestFirst(Policy):
    """Queue by output length; admission is the engine's own."""

    needs_output_length = True
    rank = staticmethod(rank_by_output)
