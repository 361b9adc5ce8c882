"""`lifo`: the latest arrival first. In overload some are served at once, and the others never.

Where clients give up, those who have just come have the most patience left (adaptive LIFO, Maurer, "Fail at Scale",
ACM Queue 13, 2015). Admission is the engine's own.
"""

from __future__ import annotations

from fluidgate.policies.protocol import Policy
from fluidgate.policies.registry import policy


def _rank(params, request):
    return -request.arrival_s


@policy("lifo")
class Lifo(Policy):
    """Queue in reverse order of arrival; admission is the engine's own."""

    rank = staticmethod(_rank)
