"""What rules candidates out without a run: bounds that no policy and no router can beat."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.engine import EngineConfig
from fluidgate.fluid import Limits, RequestMix, Stability, affine_step_time, stability
from fluidgate.hardware import Hardware
from fluidgate.metrics import Objective, Slo
from fluidgate.metrics.objectives import GOODPUT
from fluidgate.runs.simulation import most_residents
from fluidgate.runs.size.demand import Demand
from fluidgate.runs.size.trials import draw
from fluidgate.words import number, percent
from fluidgate.workload import Workload

OVERLOADED = "overloaded"
"""How the reason begins where a fleet cannot keep up."""

GRID_MARGIN = 0.1
"""Where the step time is a table, the bounds rest on an affine stand-in and on single steps: trusted to this share."""

SAMPLING = 4.0
"""Standard deviations of a share among the requests drawn, by which it must exceed what is allowed."""


@dataclass(frozen=True)
class Floors:
    """What a request takes at least, alone on a machine; shape (n,) each, seconds.

    Attributes:
        ttft_s: every chunk of its prompt, and what lies outside the engine.
        tpot_s: one decode step with the KV of its prompt alone; 0 for a single token.
    """

    ttft_s: FloatArray
    tpot_s: FloatArray
    outputs: FloatArray

    def below(self, quantity: str) -> FloatArray:
        """Of a key of `metrics.QUANTITIES`, milliseconds."""
        seconds = {
            "ttft": self.ttft_s,
            "tpot": self.tpot_s,
            "silence": self.tpot_s,
            "e2el": self.ttft_s + (self.outputs - 1) * self.tpot_s,
        }
        return 1e3 * seconds[quantity]


def why_overloaded(law: Stability, hardware: Hardware, demand: Demand, replicas: int) -> str:
    """Why so many replicas cannot keep up, or nothing.

    At load ρ > 1 a share 1 - 1/ρ of the requests is never served in bounded time, whatever the policy; an objective
    that may be missed by fewer fails in the long run.
    """
    load = law.load / replicas
    certain = load if hardware.grid is None else load / (1.0 + GRID_MARGIN)
    never = 1.0 - 1.0 / certain if certain > 1.0 else 0.0
    if all(never <= _allowed(objective) for objective in demand.objectives):
        return ""
    return f"{OVERLOADED}: {number(law.rate / replicas)} req/s each, and no policy sustains {number(law.boundary_rate)}"


def why_too_slow(hardware: Hardware, demand: Demand, config: EngineConfig) -> str:
    """Why an objective fails on any number of replicas, or nothing: too many requests miss it even alone."""
    alone = floors(draw(demand, demand.seed, short=False), hardware, config)
    for objective in demand.objectives:
        beyond, allowed = _beyond(objective, alone, demand.slo), _allowed(objective)
        if beyond > allowed + SAMPLING * math.sqrt(allowed * (1.0 - allowed) / len(alone.outputs)):
            if objective.percentile is None and objective.quantity != GOODPUT:
                return f"{objective.words}: even alone on it, the mean is longer"
            return f"{objective.words}: even alone on it, {percent(beyond)} of the requests take longer"
    return ""


def can_be_ruled_out(demand: Demand, config: EngineConfig) -> bool:
    """Whether the bounds hold: what is found in the prefix cache needs no work, which they do not know."""
    like = draw(demand, demand.seed, short=True)
    reused = config.enable_prefix_caching and (like.prefix_block_tokens > 0 or like.has_sessions)
    return not reused


def law_of(demand: Demand, hardware: Hardware, config: EngineConfig) -> Stability:
    """The boundary of one replica; the rate is that of all requests that the model takes."""
    config = config.on(hardware)
    like = draw(demand, demand.seed, short=False).within(config.max_model_len)
    mix = RequestMix.from_workload(like, demand.rate * len(like) / like.offered)
    longest = int((like.prompt_tokens + like.output_tokens).max())
    limits = Limits.of(hardware, config.token_budget(longest), most_residents(like, config))
    return stability(mix, affine_step_time(mix, hardware, limits), limits)


def floors(requests: Workload, hardware: Hardware, config: EngineConfig) -> Floors:
    """The floors of each request that the server takes, at its token budget."""
    config = config.on(hardware)
    taken = requests.within(config.max_model_len)
    prompts, outputs = taken.prompt_tokens.astype(np.float64), taken.output_tokens.astype(np.float64)
    budget = config.token_budget(int((prompts + outputs).max()))
    tpot_s = hardware.step_s(1.0, prompts + 1.0, 0.0, 0.0, 0.0, 0.0)
    ttft_s = np.zeros(len(taken))
    before = np.zeros(len(taken))
    while (before < prompts).any():
        chunk = np.minimum(prompts - before, budget)
        pairs = chunk * before + chunk * (chunk + 1.0) / 2.0
        step_s = hardware.step_s(0.0, 0.0, chunk, before + chunk, pairs, 1.0)
        ttft_s += np.where(chunk > 0, step_s, 0.0)
        before += chunk
    trusted = 1.0 if hardware.grid is None else 1.0 / (1.0 + GRID_MARGIN)
    return Floors(trusted * ttft_s + hardware.overhead_s, np.where(outputs > 1, trusted * tpot_s, 0.0), outputs)


def _allowed(objective: Objective) -> float:
    """The share of requests that may be infinitely late."""
    if objective.quantity == GOODPUT:
        return 1.0 - objective.bound
    return 0.0 if objective.percentile is None else 1.0 - objective.percentile / 100.0


def _beyond(objective: Objective, alone: Floors, slo: Slo | None) -> float:
    """The share of requests that miss the bound even alone; of a mean 1 if it does."""
    if objective.quantity == GOODPUT:
        assert slo is not None
        bounds = {"ttft": slo.ttft_ms, "tpot": slo.tpot_ms, "e2el": slo.e2el_ms}
        late = np.zeros(len(alone.outputs), bool)
        for quantity, bound in bounds.items():
            late |= alone.below(quantity) > (math.inf if bound is None else bound)
        return float(late.mean())
    values = alone.below(objective.quantity)
    if objective.percentile is None:
        return float(values.mean() - SAMPLING * values.std() / math.sqrt(len(values)) > objective.bound)
    return float((values > objective.bound).mean())
