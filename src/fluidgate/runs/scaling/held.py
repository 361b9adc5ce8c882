"""What a replica is to be given: the share of its stability boundary at which a promise holds."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fluidgate.engine import EngineConfig
from fluidgate.errors import InputError
from fluidgate.hardware import Hardware
from fluidgate.runs.size.bounds import law_of
from fluidgate.runs.size.candidates import Flags
from fluidgate.runs.size.demand import Demand
from fluidgate.runs.size.trials import Certainty, Outcome, Replications, Trial
from fluidgate.words import number

LOADS = tuple(load / 100 for load in range(95, 25, -5))
"""Tried from above."""


@dataclass(frozen=True)
class HeldLoad:
    """A load at which the promise holds.

    Attributes:
        load: share of the boundary.
        boundary_rate: of a replica, requests per second.
        residents: requests in a replica then, on average, waiting ones included.
        outcome: of the runs that decided.
    """

    load: float
    boundary_rate: float
    residents: float
    outcome: Outcome

    @property
    def replica_rate(self) -> float:
        """What a replica is to be given, requests per second."""
        return self.load * self.boundary_rate


def held_load(
    demand: Demand,
    hardware: Hardware,
    replicas: int,
    flags: Flags | None = None,
    config: EngineConfig | None = None,
    certainty: Certainty | None = None,
) -> HeldLoad:
    """The largest of `LOADS` at which so many replicas keep the promise, tried from above.

    Args:
        demand: lengths, arrivals and promise; its rate plays no part.

    Raises:
        InputError: the promise holds at none of them.
    """
    flags, config, certainty = flags or Flags(), config or EngineConfig(), certainty or Certainty(0.05, 16)
    boundary_rate = law_of(demand, hardware, flags.engine(config)).boundary_rate
    trial = Trial(hardware, flags, replicas, first_seed=demand.seed, replications=certainty.replications)
    for load in LOADS:
        at = replace(demand, rate=load * boundary_rate * replicas)
        outcome = Replications(trial, at, config, certainty.alpha).outcome()
        if outcome.holds:
            residents = load * boundary_rate * outcome.figures["mean_e2el_ms"] / 1e3  # Little's law
            return HeldLoad(load, boundary_rate, residents, outcome)
    raise InputError(
        f"{replicas} replicas do not keep {outcome.objective} at {LOADS[-1]:.0%} of their boundary of "
        f"{number(boundary_rate * replicas)} req/s; loosen it, or take a faster machine"
    )
