"""A plan's numbers in words: label and value with unit, for tables."""

from __future__ import annotations

from dataclasses import astuple

from fluidgate.fluid.plan import FluidPlan
from fluidgate.words import number, percent

_MAIN = (
    "hardware",
    "KV capacity",
    "seats / tokens per iteration",
    "arrival rate",
    "stability boundary",
    "load",
    "binding",
    "memory matters from",
    "completed in time",
)


def main_rows(plan: FluidPlan) -> list[tuple[str, str]]:
    """The rows to see first; how bursty the arrivals are is among them where they are not Poisson."""
    shown = (*_MAIN, "arrivals") if plan.burstiness.compared else _MAIN
    return [(label, value) for label, value in all_rows(plan) if label in shown]


def all_rows(plan: FluidPlan) -> list[tuple[str, str]]:
    """Every row, in a fixed order."""
    stable, mix = plan.stability, plan.mix
    shares = stable.time_shares
    return [
        ("hardware", plan.hardware.name),
        ("KV capacity", _kv_capacity(plan)),
        (
            "seats / tokens per iteration",
            f"{_limit(plan, 'max_num_seqs')} / {_limit(plan, 'max_num_batched_tokens')}",
        ),
        ("longest request", _longest(plan)),
        ("arrival rate", f"{number(mix.rate)} req/s"),
        ("prompt, mean / max", f"{number(mix.mean_prompt_tokens)} / {mix.max_prompt_tokens:,} tokens"),
        ("output, mean / max", f"{number(mix.mean_output_tokens)} / {mix.max_output_tokens:,} tokens"),
        ("stability boundary", _boundary(plan)),
        ("load", percent(stable.load)),
        ("binding", stable.binding),
        ("gain from 1% more of the least limit", percent(stable.eta / 100.0)),
        ("arrivals", plan.burstiness.row),
        ("memory matters from", _onset(plan)),
        ("10% of memory left empty costs", f"{percent(plan.empty_tenth_cost)} of the boundary"),
        ("one eviction per request costs", f"{percent(stable.eviction_cost)} of the boundary"),
        ("KV use at this load", _kv_use(plan)),
        ("iteration time", _iteration_time(plan)),
        ("iteration time at the boundary", f"{number(1e3 * stable.iteration_time_s)} ms"),
        (
            "time in fixed / tokens / KV / attention / sequences",
            " / ".join(percent(share) for share in astuple(shares)),
        ),
        ("rate limit", f"{number(plan.rate_limit)} admissions per iteration"),
        ("concurrency cap", f"{number(plan.concurrency_cap)} requests"),
        ("watermark", f"{percent(plan.watermark)} of blocks"),
        ("coherence of output lengths", number(stable.coherence)),
        ("prefill interval", plan.prefill_interval.row),
        ("WAIT period", f"{number(1e3 * plan.wait.period_s)} ms"),
        ("WAIT memory, real / integer", _wait_memory(plan)),
        ("Nested WAIT segments", str(len(plan.nested.segments))),
        ("Nested WAIT guaranteed rate", f"{number(plan.guaranteed_rate)} req/s"),
        *(() if plan.deadlines is None else [("completed in time", plan.deadlines.row)]),
    ]


def _kv_capacity(plan: FluidPlan) -> str:
    law = plan.hardware.law
    tokens = f"{number(plan.limits.kv_tokens)} tokens"
    if law.is_one_full_group:
        return f"{tokens}, {law.dtype}" if law.dtype.name else tokens
    budget, longest = plan.limits.max_num_batched_tokens, plan.limits.max_model_len
    text = f"{plan.hardware.num_gpu_blocks:,} blocks of {len(law.groups)} groups: {law.title}"
    if longest is None or budget is None:
        return text
    return f"{text}; as vLLM logs it, {number(plan.hardware.logged_kv_tokens(budget, longest))} tokens"


def _limit(plan: FluidPlan, name: str) -> str:
    limit = getattr(plan.limits, name)
    return "no limit" if limit is None else f"{limit:,}"


def _longest(plan: FluidPlan) -> str:
    longest = _limit(plan, "max_model_len")
    if plan.mix.refused is None:
        return longest if plan.limits.max_model_len is None else f"{longest} tokens"
    return f"{longest} tokens; {percent(plan.mix.refused.requests)} of the requests are refused"


def _boundary(plan: FluidPlan) -> str:
    rate, uncertainty = plan.stability.boundary_rate, plan.uncertainty
    if uncertainty is None:
        return f"{number(rate)} req/s" + ("" if plan.hardware.calibration is None else ", ± unknown")
    low, high = uncertainty.boundary_rate
    return f"{number(rate)} ± {number(max(high - rate, rate - low))} req/s"


def _onset(plan: FluidPlan) -> str:
    load, rate = plan.stability.onset_load, plan.stability.onset_rate
    return "never" if load is None or rate is None else f"{number(load)} of the boundary, {number(rate)} req/s"


def _kv_use(plan: FluidPlan) -> str:
    use = percent(plan.stability.kv_use)
    return use if plan.equilibrium is not None else f"{use} at the boundary; the queue grows above it"


def _iteration_time(plan: FluidPlan) -> str:
    if plan.equilibrium is None:
        return "no equilibrium above the boundary"
    return f"{number(1e3 * plan.equilibrium.iteration_time_s)} ms"


def _wait_memory(plan: FluidPlan) -> str:
    return f"{number(plan.wait.memory_tokens)} / {number(plan.wait.integer_memory_tokens)} tokens"
