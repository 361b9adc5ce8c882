"""`Sizing`: the fleets that keep the promise, ranked by cost, and the proof of the cheapest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from fluidgate.engine import EngineConfig
from fluidgate.fluid import FluidPlan
from fluidgate.jsonfile import plain
from fluidgate.metrics import Objective
from fluidgate.runs.size.candidates import Choices, Flags, Machine
from fluidgate.runs.size.search import Count, Found
from fluidgate.runs.size.trials import Certainty, Outcome
from fluidgate.version import version

Cause = Literal["KV memory", "seats", "the token budget", "prompt time", "step time"]


def fleet_label(machine: Machine, replicas: int) -> str:
    """So many replicas of a machine, in words."""
    return f"{replicas} × {machine.label if machine.tp == 1 else f'({machine.label})'}"


@dataclass(frozen=True)
class Option:
    """A fleet that keeps the promise in the search: the fewest replicas of a machine, and how they are set.

    Attributes:
        outcome: of the runs that decided.
        load: rate ÷ the boundary of all replicas together.
        growth: the largest factor on the rate, of those tried, up to which all objectives hold on average; NaN where it
            was not tried.
        growth_step: factor between those tried.
    """

    machine: Machine
    replicas: int
    flags: Flags
    outcome: Outcome
    load: float
    growth: float = float("nan")
    growth_step: float = float("nan")

    @property
    def gpus(self) -> int:
        """In all."""
        return self.replicas * self.machine.tp

    @property
    def cost(self) -> float:
        """Money per hour, or GPUs where there are no prices."""
        return self.replicas * self.machine.unit_cost

    @property
    def label(self) -> str:
        """For tables."""
        return fleet_label(self.machine, self.replicas)

    @property
    def cost_per_million(self) -> float:
        """Money per million output tokens; NaN without a price."""
        if self.machine.price is None:
            return float("nan")
        return self.cost / (3600.0 * self.outcome.figures["output_throughput"]) * 1e6


@dataclass(frozen=True)
class Cheaper:
    """A cheaper fleet, and why it is not enough.

    Attributes:
        why: the bound that rules it out; empty where runs did.
        outcome: on the seeds of the proof; None where a bound rules it out.
    """

    machine: Machine
    replicas: int
    flags: Flags
    why: str
    outcome: Outcome | None


@dataclass(frozen=True)
class Break:
    """Where an objective gives way as the rate grows.

    Attributes:
        growth: the smallest factor tried at which it is exceeded on average; infinite: at none.
    """

    objective: str
    growth: float


@dataclass(frozen=True)
class Proof:
    """What was tested of the answer on seeds that the search never saw.

    Attributes:
        outcome: of the answer.
        cheaper: the next cheaper fleet, and all others that are cheaper and that the search left undecided; the dearest
            first.
        growth: the factor on the rate up to which all objectives hold on average, at every one that was tried.
        tried: the largest that was tried; 1: none.
        breaks: of each objective, in order.
        cause: what has to grow so that the first objective to break holds again.
        slowdown: the largest share, of those tried, by which all steps may be longer.
    """

    outcome: Outcome
    cheaper: tuple[Cheaper, ...]
    growth: float
    tried: float
    breaks: tuple[Break, ...]
    cause: Cause | None
    slowdown: float


@dataclass(frozen=True)
class Nearest:
    """Where nothing holds: the fleet that comes nearest, at the most replicas allowed."""

    machine: Machine
    count: Count


@dataclass(frozen=True)
class Sizing:
    """The answer of `size`.

    Attributes:
        workload: its name.
        rate: that was sized for, requests per second.
        objectives: what was promised.
        options: that hold, the cheapest first.
        proof: of the first of them; None: nothing holds.
        plan: of one of its replicas, at its share of the rate.
        nearest: what comes nearest where nothing holds, or None if no machine takes the model and the load.
        machines, found: what was searched, and what was found there, in order.
        short_s, long_s: seconds of traffic in a short run and in a long one.
        requests: of a long run.
        max_gpus: that a fleet may have.
        seed: of the first run.
        certainty: how sure each decision is.
        runs: simulations in all.
    """

    workload: str
    rate: float
    objectives: tuple[Objective, ...]
    config: EngineConfig
    choices: Choices
    options: tuple[Option, ...]
    proof: Proof | None
    plan: FluidPlan | None
    nearest: Nearest | None
    machines: tuple[Machine, ...]
    found: tuple[Found, ...]
    short_s: float
    long_s: float
    requests: int
    max_gpus: int
    seed: int
    certainty: Certainty
    runs: int

    @property
    def answer(self) -> Option | None:
        """The cheapest that is proved."""
        return self.options[0] if self.options else None

    @property
    def priced(self) -> bool:
        """Whether costs are money."""
        return self.machines[0].price is not None

    def to_dict(self, command: str | None = None) -> dict[str, Any]:
        """JSON-ready values; null where a number is not finite.

        Args:
            command: what was typed to make it.
        """
        made: Mapping[str, Any] = plain(replace(self, plan=None), finite=True)
        return {"fluidgate": version(), "command": command, **made, "plan": self.plan and self.plan.to_dict()}
