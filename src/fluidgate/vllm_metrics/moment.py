"""`Moment`: what an engine was doing at one time."""

from __future__ import annotations

from dataclasses import dataclass

BUSY_QUEUE = 0.05
"""A queue is one from this many waiting per running request: fewer just arrived."""


@dataclass(frozen=True)
class Moment:
    """One engine at one time: requests that run and that wait, and the share of its KV blocks in use."""

    engine: str
    running: float
    waiting: float
    kv_use: float

    @property
    def queued(self) -> bool:
        """Whether requests wait, more than those that arrived during a step."""
        return self.waiting >= max(1.0, BUSY_QUEUE * self.running)
