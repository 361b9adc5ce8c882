"""The fluid equilibrium of a mix: iteration time, KV and residents when arrivals and completions balance."""

from __future__ import annotations

from dataclasses import dataclass, field

from fluidgate.arrays import FloatArray
from fluidgate.fluid.mix import RequestMix
from fluidgate.hardware.core import StepTime
from fluidgate.hardware.kv_law import KvLaw


@dataclass(frozen=True, eq=False)
class Equilibrium:
    """The state in which every iteration admits and completes what arrives during it (model.md §2).

    It knows no memory limit: whether `memory_tokens` fits is a question for `stability`.

    Attributes:
        rate: arrivals, requests per second.
        iteration_time_s: ΔT* = c0 / (1 - λw).
        kv_tokens: M* = λ ΔT* E[a], KV tokens of all residents.
        memory_tokens: what they take of the pool, in whole blocks, tokens.
        requests_per_stage: n*_j = λ_j ΔT*, shape (J,).
        residents: requests in the engine.
        admissions_per_iteration: λ ΔT*.
        throughput_tokens_s: output tokens of completed requests per second, Σ λ_j o_j.
    """

    rate: float
    iteration_time_s: float
    kv_tokens: float
    memory_tokens: float
    requests_per_stage: FloatArray = field(metadata={"json": False})  # one number per request type
    residents: float
    admissions_per_iteration: float
    throughput_tokens_s: float


def equilibrium(mix: RequestMix, step_time: StepTime, law: KvLaw | None = None) -> Equilibrium | None:
    """The equilibrium of `mix`, or None when the work λw that arrives per second takes a second or more.

    Source: model.md §2, the iteration time; the paper's case is c_tok = c_attn = 0.
    """
    busy = float(mix.rate @ mix.work_s(step_time))
    if busy >= 1.0:
        return None
    iteration_time_s = step_time.c0 / (1.0 - busy)
    per_iteration = mix.rate * iteration_time_s
    return Equilibrium(
        rate=mix.total_rate,
        iteration_time_s=iteration_time_s,
        kv_tokens=float(per_iteration @ mix.kv_token_iterations),
        memory_tokens=float(per_iteration @ mix.memory_token_iterations(law or KvLaw.full(1))),
        requests_per_stage=per_iteration,
        residents=float(per_iteration @ mix.iterations),
        admissions_per_iteration=float(per_iteration.sum()),
        throughput_tokens_s=float(mix.rate @ mix.output_tokens),
    )
