"""`Demand`: the traffic to serve, and what is promised about it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from fluidgate.bounds import MAX_REQUESTS
from fluidgate.errors import InputError
from fluidgate.metrics import Objective, Slo
from fluidgate.metrics.objectives import GOODPUT
from fluidgate.runs.frontier import identity
from fluidgate.words import listed
from fluidgate.workload import Synthetic, Workload, generate, resample

DEFAULT_REQUESTS = 20_000
"""Of a run: latencies of a bursty hour show only in runs of many minutes."""

BEYOND = 8
"""A run must hold so many requests beyond a percentile."""

SHORT = 8
"""A short run, which drops the hopeless, has one of so many of a long one's requests."""


@dataclass(frozen=True, eq=False)
class Demand:
    """What is to be served.

    Attributes:
        source: a synthetic workload, from which every run draws again, or a recorded one, which is block-bootstrapped.
        rate: requests per second, growth included.
        objectives: what is promised; at least one.
        slo: what a good request is, where a goodput is promised.
        requests: of a long run, at most; a recorded workload has no more than its own.
        seed: of the first run of the search.
    """

    source: Synthetic | Workload
    rate: float
    objectives: tuple[Objective, ...]
    slo: Slo | None = None
    requests: int = DEFAULT_REQUESTS
    seed: int = 0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.rate) and self.rate > 0):
            raise InputError(f"{self.source.name}: a rate of {self.rate:g} req/s cannot be sized for; give --rate")
        if _waits_for_replies(self.source):
            raise InputError(
                f"{self.source.name}: its clients wait for replies before they send again, so that no rate can be "
                "promised; give requests that arrive by themselves"
            )
        if not 1 <= self.requests <= MAX_REQUESTS:
            raise InputError(f"{self.requests} requests per run: give between 1 and {MAX_REQUESTS:,}")
        _refuse_unkept(self.objectives)
        least = max(100 * SHORT, *(_enough(objective) for objective in self.objectives))
        if self.taken < least:
            raise InputError(
                f"{self.source.name}: {self.taken:,} requests per run are too few for "
                f"{listed([str(objective) for objective in self.objectives])}; at least {least:,} are needed"
            )

    @property
    def taken(self) -> int:
        """Requests of a long run."""
        return min(self.requests, len(self.source)) if isinstance(self.source, Workload) else self.requests

    def draw(self, seed: int, *, short: bool = False) -> Workload:
        """The requests of a run, at the rate."""
        n = self.taken // SHORT if short else self.taken
        if isinstance(self.source, Workload):
            drawn = resample(self.source, seed)
            drawn = drawn.take(slice(0, n)) if n < len(drawn) else drawn
            return drawn.scaled(self.rate / self.source.rate)
        return generate(self.source, n=n, rate=self.rate, seed=seed)

    def identity(self) -> dict[str, Any]:
        """What the numbers depend on, for a results file."""
        return {
            "workload": identity(self.source),
            "rate": self.rate,
            "objectives": [str(objective) for objective in self.objectives],
            "slo": self.slo and asdict(self.slo),
            "requests": self.requests,
            "seed": self.seed,
        }


def _waits_for_replies(source: Synthetic | Workload) -> bool:
    return source.is_closed if isinstance(source, Workload) else bool(source.concurrency or source.conversation)


def _enough(objective: Objective) -> int:
    """Requests of which a few are beyond the percentile."""
    if objective.percentile is None:
        return 1
    return math.ceil(BEYOND / (1.0 - objective.percentile / 100.0) - 1e-6)


def _refuse_unkept(objectives: Sequence[Objective]) -> None:
    """Refuse an objective that another implies, since one of the two is not what was meant, and one without a miss."""
    if not objectives:
        raise InputError("size needs something to keep: give --slo, such as --slo p99:ttft:2000 p95:tpot:60")
    for objective in objectives:
        if objective.quantity == GOODPUT and objective.bound == 1.0:
            raise InputError(
                f"{objective}: that no request ever misses cannot be shown by runs; promise less, as 0.999"
            )
    for one, two in combinations(objectives, 2):
        if one.quantity != two.quantity or one.percentile is None or two.percentile is None:
            continue
        lower, higher = sorted((one, two), key=lambda objective: objective.percentile or 0.0)
        if lower.bound >= higher.bound:
            raise InputError(
                f"{lower} says nothing beside {higher}, which is tighter; leave it out, or lower its bound"
            )
