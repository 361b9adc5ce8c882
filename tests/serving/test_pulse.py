"""Rates of arrivals and of starts, from what was counted in each iteration."""

from __future__ import annotations

import pytest

from fluidgate.serving.pulse import WINDOW_S, Pulse

STEP_S, EVERY = 0.01, 20
"""Iterations, and after how many of them a seat is free."""


@pytest.mark.parametrize("behind", [0, 1, 5])
def test_a_short_queue_starts_as_fast_as_a_long_one(behind: int) -> None:
    """A seat is free every 0.2 s, and somebody waits for it all the time, with so many behind."""
    pulse = Pulse(0.0)
    for k in range(1, round(4 * WINDOW_S / STEP_S)):
        if k % EVERY == 0:  # the first of the queue enters, and another one comes
            pulse.entered()
        if k % EVERY == 1:
            pulse.arrived()
        pulse.beat(k * STEP_S, behind + (k % EVERY != 0))
    waits = 1.0 if behind else (EVERY - 1) / EVERY  # of the time
    assert pulse.starts_per_s == pytest.approx(1 / (EVERY * STEP_S) / waits, rel=0.02)
    assert pulse.arrivals_per_s == pytest.approx(1 / (EVERY * STEP_S), rel=0.05)


def test_who_finds_room_at_once_tells_no_rate() -> None:
    pulse = Pulse(0.0)
    for k in range(1, 1000):
        pulse.arrived()
        pulse.entered()
        pulse.beat(k * STEP_S, 0)
    assert pulse.starts_per_s == 0.0
    assert pulse.arrivals_per_s == pytest.approx(1 / STEP_S, rel=0.01)
