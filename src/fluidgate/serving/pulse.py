"""`Pulse`: how many requests come, and how many start while others wait, per second of the recent past."""

from __future__ import annotations

from math import exp

WINDOW_S = 30.0
"""Over which rates are taken, exponentially weighted."""

FEWEST_STARTS = 8.0
"""Starts that must have been counted before a rate is told."""


class Pulse:
    """Counts, and the seconds in which they were made; both fade."""

    def __init__(self, now_s: float) -> None:
        self._at_s = now_s
        self._arrived = self._started = 0.0
        self._seconds = self._held_s = 0.0
        self._new = self._entered = 0
        self._left_over = 0

    def arrived(self) -> None:
        """A request has come."""
        self._new += 1

    def entered(self) -> None:
        """A waiting request has become resident."""
        self._entered += 1

    def beat(self, now_s: float, waiting: int) -> None:
        """Book what has come and started since the last beat; so many wait now."""
        passed_s = max(0.0, now_s - self._at_s)
        kept = exp(-passed_s / WINDOW_S)
        self._arrived, self._seconds = kept * self._arrived + self._new, kept * self._seconds + passed_s
        if self._left_over > 0:  # who came since has found room at once
            started = min(self._entered, self._left_over)
            self._started, self._held_s = kept * self._started + started, kept * self._held_s + passed_s
        self._at_s, self._new, self._entered, self._left_over = now_s, 0, 0, waiting

    @property
    def arrivals_per_s(self) -> float:
        """Requests that come."""
        return self._arrived / self._seconds if self._seconds > 0.0 else 0.0

    @property
    def starts_per_s(self) -> float:
        """Requests that start while others wait; 0: not known yet."""
        return self._started / self._held_s if self._started >= FEWEST_STARTS and self._held_s > 0.0 else 0.0
