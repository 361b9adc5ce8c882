"""Small random questions for `size`, and an exhaustive search that answers them without any of its short cuts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fluidgate.engine import EngineConfig
from fluidgate.hardware import Hardware, StepTime
from fluidgate.metrics import Objective, parse_objectives
from fluidgate.runs.size import Choices, Flags, Machine
from fluidgate.runs.size.bounds import law_of, why_overloaded
from fluidgate.runs.size.demand import Demand
from fluidgate.runs.size.search import Found, MachineSearch, MachineSearches
from fluidgate.runs.size.trials import Certainty, Replications, Trial
from fluidgate.workload import Independent, LognormalMixture, Poisson, Synthetic

REQUESTS = 1600
MOST = 4
CHOICES = Choices(policies=("greedy", "watermark"), seats=(6,), budgets=(256,))
CONFIG = EngineConfig(max_num_seqs=None)

Fleet = tuple[Machine, int, Flags]


@dataclass(frozen=True)
class Case:
    """A question."""

    source: Synthetic
    machines: tuple[Machine, ...]
    objectives: tuple[Objective, ...]
    rate: float

    @property
    def asked(self) -> dict[str, Any]:
        """Arguments of `size` besides those that are fields."""
        return {"rate": self.rate, "max_gpus": MOST, "choices": CHOICES, "requests": REQUESTS, "replications": 8}


def random_case(seed: int) -> Case:
    """Two machines of random speed and memory, at a rate that takes one to four replicas."""
    rng = np.random.default_rng(seed)
    prompts = LognormalMixture((1.0,), (float(rng.uniform(4, 6)),), (0.6,), 1500)
    outputs = LognormalMixture((1.0,), (float(rng.uniform(2.5, 4)),), (0.7,), 300)
    source = Synthetic("a small case", Poisson(1.0), Independent(prompts, outputs))
    machines = tuple(_machine(name, rng) for name in ("slow", "fast"))
    demand = Demand(source, 1.0, parse_objectives(["p90:ttft:1000"], None), requests=REQUESTS)
    boundary = max(law_of(demand, machine.hardware, CONFIG).boundary_rate for machine in machines if machine.hardware)
    ttft_ms, tpot_ms = rng.uniform(200, 2000), rng.uniform(15, 60)
    objectives = parse_objectives([f"p90:ttft:{ttft_ms:.0f}", f"p90:tpot:{tpot_ms:.0f}"], None)
    return Case(source, machines, objectives, float(rng.uniform(0.5, 2.5) * boundary))


def _machine(name: str, rng: np.random.Generator) -> Machine:
    step_time = StepTime(
        c0=float(rng.uniform(0.004, 0.015)), c_tok=float(rng.uniform(2e-5, 1e-4)), c_kv=float(rng.uniform(1e-7, 1e-6))
    )
    hardware = Hardware(name, step_time, int(rng.integers(300, 1500)))
    return Machine(name, 1, hardware, price=float(rng.uniform(1, 3)))


def searched(case: Case) -> list[Found]:
    """What `size` finds on each machine before any proof."""
    demand = Demand(case.source, case.rate, case.objectives, requests=REQUESTS)
    searches = MachineSearches(demand, CONFIG, CHOICES, Certainty(0.05, 8))
    return [searches.search(MachineSearch(machine, 1, MOST)) for machine in case.machines]


def cheapest_of(case: Case, found: list[Found]) -> Fleet | None:
    """The cheapest fleet that a search found; None: nothing holds."""
    holding = [
        (machine, part.answer.replicas, part.answer.flags)
        for machine, part in zip(case.machines, found, strict=True)
        if part.answer is not None
    ]
    return min(holding, key=_cost, default=None)


def exhaustive(case: Case) -> Fleet | None:
    """The cheapest fleet of all: every setting at every count, with all its long runs; overload apart, no bound."""
    demand = Demand(case.source, case.rate, case.objectives, requests=REQUESTS)
    holding = []
    for machine in case.machines:
        assert machine.hardware is not None
        found = _fewest(machine.hardware, demand)
        if found is not None:
            holding.append((machine, *found))
    return min(holding, key=_cost, default=None)


def _cost(fleet: Fleet) -> float:
    return fleet[1] * fleet[0].unit_cost


def _fewest(hardware: Hardware, demand: Demand) -> tuple[int, Flags] | None:
    for replicas in range(1, MOST + 1):
        for flags in CHOICES.flags(hardware, CONFIG, replicas):
            law = law_of(demand, hardware, flags.engine(CONFIG))
            if why_overloaded(law, hardware, demand, replicas):
                continue  # holds for a while at most: no finite run can tell
            trial = Trial(hardware, flags, replicas, first_seed=demand.seed, replications=8)
            if Replications(trial, demand, CONFIG, 0.05).outcome().holds:
                return replicas, flags
    return None
