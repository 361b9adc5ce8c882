"""`codel`: controlled delay (Nichols, Jacobson, ACM Queue 10, 2012; RFC 8289), on requests in the place of packets.

Once the request next in line has waited for more than `target_s` during a whole `interval_s`, it is shed, and another
one after `interval_s` ÷ √k, for the k-th, until the wait falls below the target. Admission is the engine's own.
"""

from __future__ import annotations

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.policies.protocol import MANY, Policy
from fluidgate.policies.registry import policy

_TARGET, _INTERVAL = range(2)
_ABOVE_FROM, _NEXT, _COUNT = range(3)
"""When the wait will have been above the target for an interval (0: it is not); when to shed next; how many were."""


def _shed(params, memory, view, out_rows):
    row = view.waiting_head[0]
    now_s, named = view.now_s, 0
    while row >= 0 and named < len(out_rows):
        if now_s - view.arrival_s[row] < params[_TARGET]:
            memory[_ABOVE_FROM] = memory[_COUNT] = 0.0
            return view.arrival_s[row] + params[_TARGET]
        if memory[_ABOVE_FROM] == 0.0:
            memory[_ABOVE_FROM] = memory[_NEXT] = now_s + params[_INTERVAL]
        if now_s < memory[_NEXT]:
            return memory[_NEXT]
        out_rows[named] = row
        named += 1
        memory[_COUNT] += 1.0
        memory[_NEXT] += params[_INTERVAL] / np.sqrt(memory[_COUNT])
        row = view.next_waiting[row]
    return np.inf


@policy("codel")
class Codel(Policy):
    """Shed the oldest waiting request ever more often while waits stay above `target_s`.

    Attributes:
        target_s: wait that is acceptable, seconds.
        interval_s: how long it may be exceeded, seconds.
    """

    target_s: float = 0.5
    interval_s: float = 10.0

    def __post_init__(self) -> None:
        for name, value in (("target_s", self.target_s), ("interval_s", self.interval_s)):
            self.require(0 < value < MANY, f"{name} = {value} must be above 0 seconds, and finite")

    shed = staticmethod(_shed)

    def new_memory(self) -> FloatArray:
        """Nothing was late yet."""
        return np.zeros(3)
