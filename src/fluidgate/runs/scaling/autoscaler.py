"""`Autoscaler`: from a rule's answers to whole replicas, as Kubernetes' Horizontal Pod Autoscaler does it."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from fluidgate.bounds import MAX_REPLICAS, MAX_SECONDS, check_number, check_whole
from fluidgate.engine import Seen
from fluidgate.runs.scaling.rules import ScalingRule


@dataclass(frozen=True)
class Limits:
    """The autoscaler's settings; what is not given is as Kubernetes has it.

    Attributes:
        least, most: replicas.
        tolerance: a ratio within it of 1 changes nothing.
        stabilise_s: a fleet shrinks to the most that was asked for within this time, seconds.
    """

    least: int = 1
    most: int = 16
    tolerance: float = 0.1
    stabilise_s: float = 300.0

    def __post_init__(self) -> None:
        check_whole("most", self.most, 1, MAX_REPLICAS)
        check_whole("least", self.least, 1, self.most)
        check_number("tolerance", self.tolerance, 0.0, 1.0, "of the ratio")
        check_number("stabilise_s", self.stabilise_s, 0.0, MAX_SECONDS, "seconds")


class Autoscaler:
    """A rule under the autoscaler's limits; call it with every look of one run."""

    def __init__(self, rule: ScalingRule, limits: Limits) -> None:
        self.rule, self.limits = rule, limits
        self._seen: list[Seen] = []
        self._asked: deque[tuple[float, int]] = deque()

    def __call__(self, seen: Seen) -> int:
        self._seen.append(seen)
        limits, asked = self.limits, self.rule.asked(self._seen)
        same = abs(asked.ratio - 1.0) <= limits.tolerance
        whole = seen.asked if same else math.ceil(asked.replicas * (1 - 1e-12))
        whole = min(max(whole, limits.least), limits.most)
        self._asked.append((seen.time_s, whole))
        while self._asked[0][0] < seen.time_s - limits.stabilise_s:
            self._asked.popleft()
        return max(whole, min(seen.asked, max(count for _, count in self._asked)))
