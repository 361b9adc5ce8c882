"""Findings about a queue: does KV memory keep requests out, or another limit?"""

from __future__ import annotations

from fluidgate.doctor.facts import Facts
from fluidgate.doctor.finding import Case, Change, Finding, Severity, admission_changes
from fluidgate.vllm_metrics.moment import Moment
from fluidgate.words import number, percent

NEARLY_FULL = 0.9
OFTEN = 0.2
"""A limit binds if it does at this share of the moments with work."""

SEATS_TAKEN, BUDGET_SPENT = 0.95, 0.8
HIGHER_UTILIZATION = 0.95


def kv_binds(case: Case) -> Finding | None:
    """Requests wait while the KV cache has no room for the next prompt."""
    facts = case.facts
    full, share = _kept_out(case, full=True)
    numbers = {"kv_use": facts.kv_use, "waiting": facts.waiting, "running": facts.running, "share_of_moments": share}
    if share < OFTEN:
        return None
    gain = case.boundary.memory_doubled_gain if case.boundary else None
    if gain is not None:
        numbers["memory_doubled_gain"] = gain
    says = (
        f"KV memory binds: {_often(share, facts)} the cache was {percent(_mean_use(full))} full while "
        f"{number(_mean_waiting(full))} requests waited per engine, with {number(facts.running)} running."
    )
    benefit = 0.0 if gain is None else gain / (1.0 + gain)
    return Finding("kv-binds", Severity.ACT, says, benefit, numbers, _more_memory(case, gain))


def other_limit(case: Case) -> Finding | None:
    """Requests wait although the KV cache has room: seats or the token budget.

    Not where memory binds at other moments: room just after a preemption does not count,
    since vLLM admits no request then.
    """
    facts = case.facts
    kept_out, share = _kept_out(case, full=False)
    if share < OFTEN or _kept_out(case, full=True)[1] >= OFTEN:
        return None
    running = max(moment.running for moment in kept_out)
    tokens = facts.histogram("iteration_tokens_total")
    tokens_per_step = tokens.mean if tokens else None
    numbers = {"kv_use": _mean_use(kept_out), "waiting": _mean_waiting(kept_out), "running": running}
    if tokens_per_step is not None:
        numbers["tokens_per_step"] = tokens_per_step
    lost = 1.0 - _mean_use(kept_out)
    room = f"the KV cache was only {percent(_mean_use(kept_out))} full while {number(_mean_waiting(kept_out))} waited"
    seats, budget = facts.max_num_seqs, facts.max_num_batched_tokens
    if seats is not None and running >= SEATS_TAKEN * seats:
        says = f"Seats bind: {number(running)} of {seats:,} are taken (--max-num-seqs), and {room}."
        return Finding(
            "seats-bind", Severity.ACT, says, lost, numbers, (_more_seats(case, seats, _mean_use(kept_out)),)
        )
    if budget is not None and tokens_per_step is not None and tokens_per_step >= BUDGET_SPENT * budget:
        says = (
            f"The token budget binds: steps compute {number(tokens_per_step)} tokens on average of {budget:,} "
            f"(--max-num-batched-tokens), and {room}."
        )
        change = Change(
            f"`--max-num-batched-tokens {2 * budget}`", "twice the prompt tokens per step; gaps grow longer"
        )
        return Finding("budget-binds", Severity.ACT, says, lost, numbers, (change,))
    return Finding("limit-unknown", Severity.WATCH, _which(facts, room, running), lost, numbers, _ask(facts))


def _kept_out(case: Case, *, full: bool) -> tuple[list[Moment], float]:
    """Moments with a queue and a cache that is full, or is not; and their share of the moments with work."""
    busy = case.facts.busy
    if not busy or case.gate_holds:
        return [], 0.0
    moments = [moment for moment in busy if moment.queued and _no_room(moment, case.facts) == full]
    return moments, len(moments) / len(busy)


def _no_room(moment: Moment, facts: Facts) -> bool:
    """vLLM admits a request where its whole prompt fits."""
    prompt = facts.histogram("request_prompt_tokens")
    needed = prompt.mean / facts.kv_tokens if prompt and facts.kv_tokens else 0.0
    return moment.kv_use >= NEARLY_FULL or 1.0 - moment.kv_use < needed


def _mean_use(moments: list[Moment]) -> float:
    return sum(moment.kv_use for moment in moments) / len(moments)


def _mean_waiting(moments: list[Moment]) -> float:
    return sum(moment.waiting for moment in moments) / len(moments)


def _often(share: float, facts: Facts) -> str:
    if len(facts.busy) == 1:
        return "at the moment of the scrape"
    return f"at {percent(share)} of {len(facts.busy)} moments with work"


def _more_memory(case: Case, gain: float | None) -> tuple[Change, ...]:
    facts = case.facts
    brings = "" if gain is None else f": twice the KV memory raises the boundary by {percent(gain)}"
    changes = []
    if facts.kv_cache_dtype in ("auto", "bfloat16", "float16"):
        changes.append(Change("`--kv-cache-dtype fp8`", f"halves the KV bytes of a token{brings}; check the answers"))
    share = facts.gpu_memory_utilization
    if share is not None and share < HIGHER_UTILIZATION:
        changes.append(Change(f"`--gpu-memory-utilization {HIGHER_UTILIZATION}`", f"instead of {share:g}: more blocks"))
    if facts.preemptions is None and facts.gate is None:  # else the finding on preemptions says it
        changes += admission_changes(case)
    changes.append(Change("more GPUs or replicas", "where requests must not wait: a gate moves the wait, it ends none"))
    return tuple(changes)


def _more_seats(case: Case, seats: int, kv_use: float) -> Change:
    """To n*, or without the lengths to where the present requests would fill the cache."""
    fits = case.memory.full_at_residents if case.memory else seats / max(kv_use, 1.0 / seats)
    if fits <= seats:
        return Change(
            f"keep `--max-num-seqs {seats}`", f"the lengths served fill the cache at {number(fits)} residents"
        )
    return Change(f"`--max-num-seqs {int(fits)}`", "residents that fill the KV cache on average; steps grow longer")


def _which(facts: Facts, room: str, running: float) -> str:
    seats, budget = facts.max_num_seqs, facts.max_num_batched_tokens
    if seats is not None and budget is not None:
        return (
            f"Requests wait though neither seats nor token budget are used up: {room}. It may be a burst, or a limit "
            "that vLLM does not publish (LoRA, a watermark, --max-num-active-seqs)."
        )
    return (
        f"Seats or the token budget bind, not memory: {room}, with {number(running)} running. "
        "Cannot tell which, because vLLM publishes neither limit."
    )


def _ask(facts: Facts) -> tuple[Change, ...]:
    flags = {"--max-num-seqs": facts.max_num_seqs, "--max-num-batched-tokens": facts.max_num_batched_tokens}
    missing = " and ".join(f"{flag} N" for flag, value in flags.items() if value is None)
    if not missing:
        return ()
    return (Change(f"run doctor again with `{missing}`", "as the server has them, to tell which binds"),)
