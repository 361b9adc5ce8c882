"""Lines and marks that coincide: which they are, and what they are called together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fluidgate.report.words import short

TOLERANCE, MOST, SELDOM = 0.02, 0.1, 0.05
"""Lines are drawn as one that are closer than `TOLERANCE` of both axes, but for a share `SELDOM` of their points, and
nowhere farther apart than `MOST`."""

ALIKE_NOTE = (
    f"Policies are drawn as one where their lines are within {TOLERANCE:.0%} of the axes for {1 - SELDOM:.0%} of their "
    f"points and within {MOST:.0%} everywhere."
)

Points = NDArray[np.float64]
"""Shape (n, 2): places as shares of the axes, along and up; NaN where there is no value."""


def groups(lines: Sequence[Points]) -> list[list[int]]:
    """The places of the lines that coincide with the first of their group, in order; all have the same n."""
    found: list[list[int]] = []
    for place, points in enumerate(lines):
        home = next((group for group in found if coincide(lines[group[0]], points)), None)
        if home is None:
            found.append([place])
        else:
            home.append(place)
    return found


def coincide(first: Points, second: Points) -> bool:
    """Whether the points of either have points of the other nearby, also in order, by the three bounds."""
    if np.isfinite(first).any() != np.isfinite(second).any():
        return False
    window = round(TOLERANCE * len(first))
    return _near(first, second, window) and _near(second, first, window)


def _near(points: Points, others: Points, window: int) -> bool:
    padded = np.pad(others, ((window, window), (0, 0)), constant_values=np.nan)
    beside = np.lib.stride_tricks.sliding_window_view(padded, 2 * window + 1, axis=0)  # (n, 2, 2·window + 1)
    apart = np.abs(beside - points[:, :, None]).max(axis=1)
    nearest = np.where(np.isnan(apart), np.inf, apart).min(axis=1)
    known = nearest[np.isfinite(points).all(axis=1)]
    return bool((known <= MOST).all() and (known > TOLERANCE).sum() <= SELDOM * len(known))


def together(names: Sequence[str], longest: int = 60) -> str:
    """What they are called: a name, `a, b (2 alike)`, or `a, b, … (7 alike)` where there are more or no room."""
    if len(names) == 1:
        return short(names[0], longest)
    for shown in (names[:2], names[:1]):
        more = ", …" if len(shown) < len(names) else ""
        written = f"{', '.join(shown)}{more} ({len(names)} alike)"
        if len(written) <= longest:
            return written
    ending = f", … ({len(names)} alike)"
    return short(names[0], max(2, longest - len(ending))) + ending
