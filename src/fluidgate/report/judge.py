"""When a difference from the baseline counts: its interval excludes zero and its metric has a better direction."""

from __future__ import annotations

from typing import Literal

from fluidgate.metrics import METRICS, Interval

Judgement = Literal["better", "worse"]


def judge(metric: str, difference: Interval) -> Judgement | None:
    """`better` or `worse` than the baseline, or None where that cannot be said."""
    direction = METRICS[metric].better
    above, below = difference.low > 0, difference.high < 0
    if direction is None or not (above or below):
        return None
    return "better" if above == (direction == "higher") else "worse"
