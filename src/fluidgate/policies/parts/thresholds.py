"""What WAIT and Nested WAIT share: thresholds by group of requests, to the letter or as paces that never idle."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fluidgate.errors import ThresholdWarning
from fluidgate.kernel import kernel
from fluidgate.policies.protocol import MANY, Policy

if TYPE_CHECKING:
    from collections.abc import Iterable

# params of a `ThresholdPolicy` begin so
HOLD_S, STRICT, GROUPS, THRESHOLDS = range(4)


@dataclass(frozen=True)
class ThresholdPolicy(Policy):
    """Base of both.

    Attributes:
        hold_s: longest hold of an incomplete entry group (deployable mode), seconds.
        strict: the paper's algorithm to the letter; thresholds are then whole numbers.
        thresholds: of each group, requests.
    """

    hold_s: float
    strict: bool
    thresholds: tuple[float, ...]

    def check(self, edges: tuple[float, ...], edges_name: str, group: str) -> None:
        """Refuse parameters that cannot be; `edges` divide the groups, in tokens."""
        self.require(len(self.thresholds) == len(edges) + 1, f"needs one threshold per {group}")
        in_range = all(0 < n < MANY for n in self.thresholds)
        self.require(in_range, f"thresholds {self.thresholds} must be above 0 and finite")
        rising = all(a < b for a, b in zip((0.0, *edges), edges, strict=False))
        self.require(rising, f"{edges_name} {edges} must rise and be above 0 tokens")
        self.require(0 <= self.hold_s < np.inf, f"hold_s = {self.hold_s} must be at least 0 s, and finite")
        whole = all(n % 1 == 0 for n in self.thresholds)
        self.require(whole or not self.strict, f"strict mode needs whole thresholds, not {self.thresholds}")

    @property
    def may_idle(self) -> bool:
        """Only to the letter."""
        return self.strict

    @classmethod
    def planned(
        cls, hold_s: float, thresholds: Iterable[float], edges: dict[str, Iterable[float]], overrides: dict[str, Any]
    ) -> Self:
        """With a plan's values, but for those that the user gives."""
        values: dict[str, Any] = {"hold_s": hold_s, "strict": False, "thresholds": tuple(float(n) for n in thresholds)}
        values |= {name: tuple(float(edge) for edge in edge_list) for name, edge_list in edges.items()}
        return cls(**(values | overrides))


def warn_if_infeasible(why: str, name: str) -> None:
    """Warn that an algorithm to the letter runs with thresholds that break its conditions; `why` is empty if not.

    Warns:
        ThresholdWarning: the plan's sentence, and what that means for the run.
    """
    if why:
        message = f"{why} {name}:strict=true runs all the same, with thresholds that break the paper's conditions."
        warnings.warn(message, ThresholdWarning, stacklevel=3)


@kernel
def held_until(view, group, pace, hold_s):
    """The latest time at which an incomplete entry group is let in; -inf where it may enter now."""
    release_s = view.arrival_s[view.waiting_head[group]] + hold_s
    if view.waiting_count[group] < int(pace) and view.now_s < release_s:
        return release_s
    return -np.inf
