"""Plan quality: the predicted boundary against the simulated frontier, over pairs of workload and machine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite

from fluidgate.engine import EngineConfig
from fluidgate.hardware import (
    Hardware,
    ServerDefaults,
    Serving,
    estimate_hardware,
    find_gpu,
    find_model,
    find_profile,
)
from fluidgate.runs import Runner
from fluidgate.runs.frontier.axes import Setting
from fluidgate.runs.frontier.search import Search, Searches
from fluidgate.runs.frontier.sequential import Rule
from fluidgate.runs.frontier.study import SEARCH_SHAPE, StableRate, stable_rate
from fluidgate.workload import PRESETS

QUALITY_POLICIES = ("fluid", "greedy", "concurrency-cap", "rate-limited")
"""What a machine sustains is the most that one of these does; none of them knows output lengths."""

GOAL = 0.05


@dataclass(frozen=True)
class Pair:
    """A workload on a machine; `memory` multiplies the KV blocks."""

    workload: str
    model: str
    gpu: str
    tp: int = 1
    memory: float = 1.0

    def hardware(self) -> Hardware:
        """The machine without a server's limits, so that requests of any length are taken; its profile as fitted."""
        profile = find_profile(self.model, self.gpu, None if self.tp == 1 else f"tp{self.tp}")
        whole = self._estimate() if profile is None else profile.hardware
        if self.memory == 1.0:
            return whole
        blocks = round(self.memory * (whole.num_gpu_blocks - 1)) + 1
        return replace(whole, name=f"{whole.name}, {self.memory:g} × memory", num_gpu_blocks=blocks)

    def _estimate(self) -> Hardware:
        shape, gpu = find_model(self.model), find_gpu(self.gpu)
        served = estimate_hardware(shape, gpu, Serving(tp=self.tp, gpu_memory_utilization=0.9))
        return replace(served, server=ServerDefaults())


PAIRS = (
    Pair("azure-conv-2023", "llama-2-7b", "a100-80gb"),
    Pair("azure-conv-2023", "llama-2-7b", "a100-80gb", memory=0.25),
    Pair("azure-conv-2023", "llama-3.1-8b", "a10g"),
    Pair("azure-conv-2023", "llama-3.1-8b", "l40s"),
    Pair("azure-conv-2023", "llama-3.1-8b", "h100-80gb"),
    Pair("azure-conv-2023", "qwen3-32b", "h100-80gb", tp=2),
    Pair("azure-conv-2023", "llama-3.1-70b", "a100-80gb", tp=4),
    Pair("azure-code-2023", "llama-2-7b", "a100-80gb"),
    Pair("azure-code-2023", "llama-3.1-8b", "l40s"),
    Pair("azure-code-2023", "llama-3.1-8b", "h100-80gb"),
    Pair("sharegpt", "llama-2-7b", "a100-80gb"),
    Pair("sharegpt", "llama-2-7b", "a100-80gb", memory=0.25),
    Pair("sharegpt", "llama-3.1-8b", "rtx-4090"),
    Pair("sharegpt", "llama-3.1-8b", "l40s"),
    Pair("sharegpt", "qwen3-32b", "h100-80gb", tp=2),
    Pair("lmsys", "llama-2-7b", "a100-80gb"),
    Pair("lmsys", "llama-2-7b", "a100-80gb", memory=0.25),
    Pair("lmsys", "llama-3.1-8b", "l4"),
    Pair("lmsys", "llama-3.1-8b", "b200"),
    Pair("r1-reasoning", "llama-2-7b", "a100-80gb"),
    Pair("r1-reasoning", "llama-3.1-8b", "l40s"),
    Pair("r1-reasoning", "llama-3.1-8b", "h100-80gb"),
    Pair("mooncake-conversation", "llama-3.1-8b", "h100-80gb"),
    Pair("mooncake-conversation", "llama-3.1-70b", "h200", tp=4),
    Pair("p512-d20", "llama-2-7b", "a100-80gb"),
    Pair("p512-d20-d50-mix", "llama-3.1-8b", "l40s"),
    Pair("p512-d1000", "llama-2-7b", "a100-80gb"),
    Pair("p512-d1000", "llama-3.1-8b", "l40s"),
    Pair("three-types", "llama-2-7b", "a100-80gb"),
    Pair("three-types", "llama-2-7b", "a100-80gb", memory=0.125),
)


@dataclass(frozen=True)
class Quality:
    """One pair, judged.

    Attributes:
        pair: workload and machine.
        rates: one per policy of `QUALITY_POLICIES`.
    """

    pair: Pair
    rates: tuple[StableRate, ...]

    @property
    def best(self) -> StableRate:
        """The policy with the largest stable rate: what the machine sustains."""
        return max(self.rates, key=lambda rate: rate.rate if isfinite(rate.rate) else rate.low)

    @property
    def error(self) -> float:
        """Predicted boundary ÷ simulated rate − 1."""
        return self.best.boundary_rate / self.best.rate - 1.0


def plan_quality(
    *,
    pairs: tuple[Pair, ...] = PAIRS,
    requests: int = 4000,
    rule: Rule | None = None,
    runner: Runner | None = None,
) -> tuple[Quality, ...]:
    """Predict and simulate every pair; arguments as in `frontier`.

    Raises:
        InputError: a results file of something else.
    """
    sources = {pair.workload: PRESETS[pair.workload] for pair in pairs}
    work = Searches(sources, EngineConfig(), rule or Rule(), requests=requests, seed=0)
    header = work.header()
    header.pop("workloads")  # each job names its own, so that pairs can be added to a file
    machines = [pair.hardware() for pair in pairs]
    rows = iter(
        (runner or Runner()).run(
            work,
            [
                Search(pair.workload, 1.0, machine, policy)
                for pair, machine in zip(pairs, machines, strict=True)
                for policy in QUALITY_POLICIES
            ],
            header={"command": "experiment plan-quality", **header},
            shape=SEARCH_SHAPE,
        )
    )
    return tuple(
        Quality(pair, tuple(stable_rate(p, Setting(machine.name, machine), next(rows)) for p in QUALITY_POLICIES))
        for pair, machine in zip(pairs, machines, strict=True)
    )
