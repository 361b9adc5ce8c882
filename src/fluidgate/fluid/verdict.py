"""What a plan says, in plain sentences with numbers."""

from __future__ import annotations

from collections.abc import Iterable
from math import isinf

from fluidgate.fluid.bursts import POISSON, Burstiness
from fluidgate.fluid.equilibrium import Equilibrium
from fluidgate.fluid.limits import Limits
from fluidgate.fluid.safety_buffer import Guarantee
from fluidgate.fluid.stability import COHERENT, Stability
from fluidgate.fluid.thresholds import WaitThresholds
from fluidgate.fluid.whole_nested import WholeNestedThresholds
from fluidgate.words import listed, number, percent


def verdict(limits: Limits, stable: Stability, bursts: Burstiness, equilibrium: Equilibrium | None) -> tuple[str, ...]:
    """The sentences, most important first. `equilibrium` is given whether or not it fits the memory."""
    sentences = [
        _region(limits, stable, equilibrium),
        _binding(limits, stable),
        _onset(stable, bursts),
        _pacing(stable),
    ]
    return tuple(sentence for sentence in sentences if sentence)


def thresholds_verdict(
    limits: Limits,
    stable: Stability,
    threshold_rate: float,
    wait: WaitThresholds,
    nested: WholeNestedThresholds,
    guarantee: Guarantee,
    guaranteed_rate: float,
) -> tuple[str, ...]:
    """What the papers' algorithms can do here: their rate, whether whole thresholds fit, and the guarantee."""
    sentences = [
        _scaled(stable, threshold_rate),
        whole_wait(limits, wait),
        whole_nested(limits, nested),
        _guaranteed(stable, guarantee, guaranteed_rate),
    ]
    return tuple(sentence for sentence in sentences if sentence)


def _region(limits: Limits, stable: Stability, equilibrium: Equilibrium | None) -> str:
    rate, boundary = stable.rate, stable.boundary_rate
    if stable.load <= 1.0:
        return (
            f"Sustainable: {number(rate)} req/s is {percent(stable.load)} of the stability boundary of "
            f"{number(boundary)} req/s."
        )
    need = ""
    if equilibrium is None:
        need = "; the work alone would take more than all the time"
    elif equilibrium.memory_tokens > limits.kv_tokens:
        need = f"; it would need {number(equilibrium.memory_tokens)} KV tokens where {number(limits.kv_tokens)} fit"
    return (
        f"Overload: {number(rate)} req/s is {percent(stable.load - 1.0)} ({number(rate - boundary)} req/s) "
        f"above the stability boundary of {number(boundary)} req/s, so the queue grows under any "
        f"policy{need}."
    )


def _binding(limits: Limits, stable: Stability) -> str:
    if stable.binding == "compute":
        return (
            f"Compute binds: raising the {_limit_name(limits, stable)} by 1% gains "
            f"{percent(stable.eta / 100.0)} of rate, almost nothing."
        )
    gain = f"1% more of it gains {percent(stable.eta / 100.0)} of rate"
    if stable.binding == "memory":
        return f"KV memory binds at the boundary: {gain}."
    return (
        f"The {_limit_name(limits, stable)} binds at the boundary, before KV memory does ({gain}): the "
        f"cache fills to {percent(stable.kv_use_at_boundary)} on average."
    )


def _limit_name(limits: Limits, stable: Stability) -> str:
    return {
        "memory": f"KV memory ({number(limits.kv_tokens)} tokens)",
        "token budget": f"token budget (max_num_batched_tokens = {limits.max_num_batched_tokens})",
        "seats": f"number of seats (max_num_seqs = {limits.max_num_seqs})",
    }[stable.limit]


def _onset(stable: Stability, bursts: Burstiness) -> str:
    onset, rate = stable.onset_load, stable.onset_rate
    if onset is None or rate is None:
        return "The KV cache does not fill at any sustainable rate: a memory gate has nothing to decide."
    start = f"{number(rate)} req/s ({percent(onset)} of the boundary)"
    if stable.load < onset:
        arrivals = f"these arrivals, {bursts.compared}" if bursts.compared else "Poisson arrivals"
        return (
            f"Below {start} the KV cache hardly ever fills with {arrivals}, so at this load the policy is irrelevant: "
            "every one that keeps the engine busy acts alike."
        )
    if bursts.index > POISSON:
        return (
            f"Memory control matters here: the arrivals are {bursts.compared}, and from {start} on "
            "their bursts fill the KV cache under greedy admission, which evicts."
        )
    return f"Memory control matters here: from {start} on, greedy admission fills the KV cache and evicts."


def _pacing(stable: Stability) -> str:
    if stable.coherence < COHERENT:
        return ""
    return (
        f"Output lengths are coherent (χ = {number(stable.coherence)}): cohorts stay in phase, so pace "
        f"admissions at {number(stable.admissions_per_iteration)} per iteration."
    )


def _scaled(stable: Stability, threshold_rate: float) -> str:
    if threshold_rate >= stable.rate:
        return ""
    return (
        f"WAIT and Nested WAIT thresholds are made for {number(threshold_rate)} req/s, not "
        f"{number(stable.rate)}: thresholds never follow the rate above what the limits allow."
    )


def whole_wait(limits: Limits, wait: WaitThresholds) -> str:
    """Why WAIT to the letter is infeasible; empty if it is not."""
    if wait.integer_feasible:
        return ""
    demands = (
        (wait.integer_memory_tokens, limits.kv_tokens, "KV tokens"),
        (wait.integer_tokens_per_iteration, limits.batched_tokens, "tokens per iteration"),
        (wait.integer_residents, limits.seats, "seats"),
    )
    return f"WAIT with whole-number thresholds is infeasible: it needs {_short(demands)}."


def whole_nested(limits: Limits, nested: WholeNestedThresholds) -> str:
    """Why Nested WAIT to the letter is infeasible; empty if it is not."""
    if nested.feasible:
        return ""
    if isinf(nested.required_memory_tokens):
        return "Nested WAIT with whole-number thresholds is infeasible: none serve this rate, however many segments."
    demands = (
        (nested.required_memory_tokens, limits.kv_tokens, "KV tokens"),
        (nested.required_tokens, limits.batched_tokens, "tokens per iteration"),
    )
    return f"Nested WAIT with whole-number thresholds is infeasible: it needs {_short(demands)}."


def _short(demands: Iterable[tuple[float, float, str]]) -> str:
    """What is needed beyond what there is."""
    return listed(
        [f"{number(need)} {unit} (of {number(available)})" for need, available, unit in demands if need > available]
    )


def _guaranteed(stable: Stability, guarantee: Guarantee, rate: float) -> str:
    promise = f"no overflow within {number(guarantee.horizon_s)} s but for a probability of {guarantee.delta:g}"
    if rate == 0.0:
        return f"Nested WAIT guarantees nothing ({promise}): its safety buffer alone exceeds the KV memory."
    reach = f"up to {number(rate)} req/s, {percent(rate / stable.boundary_rate)} of the boundary"
    if rate < min(stable.rate, stable.boundary_rate):
        return f"Nested WAIT's guarantee ({promise}) is too loose for this load: it holds only {reach}."
    return f"Nested WAIT's guarantee ({promise}) holds {reach}."
