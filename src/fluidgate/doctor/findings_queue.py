"""Findings about a queue: does KV memory keep requests out, or another limit?"""

from __future__ import annotations

from fluidgate.doctor.binding import BUDGET, SEATS, Binding, Limit
from fluidgate.doctor.changes import Change, Group
from fluidgate.doctor.facts import Facts
from fluidgate.doctor.finding import Case, Finding, Severity, admission_changes
from fluidgate.words import listed, number, percent

HIGHER_UTILIZATION = 0.95


def kv_binds(case: Case) -> Finding | None:
    """Requests wait while the KV cache has no room for the next prompt, or evictions have just made some."""
    facts, binding = case.facts, case.binding
    if binding.limit is not Limit.MEMORY:
        return None
    numbers = {
        "kv_use": facts.kv_use,
        "waiting": facts.waiting,
        "running": facts.running,
        "share_of_moments": binding.share,
    }
    gain = case.boundary.memory_doubled_gain if case.boundary else None
    if gain is not None:
        numbers["memory_doubled_gain"] = gain
    wait = f"{number(binding.waiting)} requests waited per engine, with {number(facts.running)} running"
    says = f"KV memory binds: {_often(binding, facts)} the cache was {percent(binding.kv_use)} full while {wait}."
    if binding.by_evictions:
        says = (
            f"KV memory binds: {number(facts.preemptions or 0.0)} evictions show it; {_often(binding, facts)} {wait}, "
            f"and the cache was {percent(binding.kv_use)} full: the room is what evictions left."
        )
    benefit = 0.0 if gain is None else gain / (1.0 + gain)
    return Finding("kv-binds", Severity.ACT, says, benefit, numbers, _more_memory(case, gain))


def other_limit(case: Case) -> Finding | None:
    """Requests wait although the KV cache has room: seats or the token budget."""
    facts, binding = case.facts, case.binding
    if binding.limit not in (Limit.SEATS, Limit.BUDGET, Limit.UNKNOWN):
        return None
    tokens = facts.histogram("iteration_tokens_total")
    numbers = {"kv_use": binding.kv_use, "waiting": binding.waiting, "running": binding.running}
    if tokens is not None:
        numbers["tokens_per_step"] = tokens.mean
    lost = 1.0 - binding.kv_use
    room = f"the KV cache was only {percent(binding.kv_use)} full while {number(binding.waiting)} waited"
    seats, budget = facts.max_num_seqs, facts.max_num_batched_tokens
    if binding.limit is Limit.SEATS:
        assert seats is not None
        says = f"Seats bind: {number(binding.running)} of {seats:,} are taken ({SEATS}), and {room}."
        return Finding(
            "seats-bind", Severity.ACT, says, lost, numbers, (_more_seats(case, seats, binding.kv_use, lost),)
        )
    if binding.limit is Limit.BUDGET:
        assert budget is not None
        says = (
            f"The token budget binds: steps compute {number(numbers['tokens_per_step'])} tokens on average of "
            f"{budget:,} ({BUDGET}), and {room}."
        )
        change = Change.of_flag(
            Group.TOKENS, BUDGET, str(2 * budget), "twice the prompt tokens per step; gaps grow longer"
        )
        return Finding("budget-binds", Severity.ACT, says, lost, numbers, (change,))
    return Finding("limit-unknown", Severity.WATCH, _which(facts, binding, room), lost, numbers, _ask(binding))


def _often(binding: Binding, facts: Facts) -> str:
    if len(facts.busy) == 1:
        return "at the moment of the scrape"
    return f"at {percent(binding.share)} of {len(facts.busy)} moments with work"


def _more_memory(case: Case, gain: float | None) -> tuple[Change, ...]:
    facts = case.facts
    size = "" if gain is None else f"twice the KV memory raises the boundary by {percent(gain)}"
    changes = []
    share = facts.gpu_memory_utilization
    if share is not None and share < HIGHER_UTILIZATION:
        why = f"instead of {share:g}: {percent(HIGHER_UTILIZATION - share)} of the GPU more for KV"
        changes.append(
            Change.of_flag(Group.MEMORY, "--gpu-memory-utilization", f"{HIGHER_UTILIZATION}", why, size=size)
        )
    why = "where requests must not wait: a gate moves the wait, it ends none"
    changes.append(Change("more GPUs or replicas", why, Group.MEMORY, size=size, vague=True))
    if facts.kv_cache_dtype in ("auto", "bfloat16", "float16"):
        why = "twice the tokens in the same memory, but other answers: compare them first"
        changes.append(
            Change("`--kv-cache-dtype fp8`", why, Group.MEMORY, ("--kv-cache-dtype", "fp8"), size, changes_answers=True)
        )
    if facts.preemptions is None and facts.gate is None:  # else the finding on preemptions says it
        changes += admission_changes(case)
    return tuple(changes)


def _more_seats(case: Case, seats: int, kv_use: float, lost: float) -> Change:
    """To n*, or without the lengths to where the present requests would fill the cache."""
    fits = case.memory.full_at_residents if case.memory else seats / max(kv_use, 1.0 / seats)
    if fits <= seats:
        return Change(
            f"keep `{SEATS} {seats}`", f"the lengths served fill the cache at {number(fits)} residents", Group.SEATS
        )
    why = "residents that fill the KV cache on average; steps grow longer"
    return Change.of_flag(Group.SEATS, SEATS, str(int(fits)), why, size=f"{percent(lost)} of the KV cache is empty")


def _which(facts: Facts, binding: Binding, room: str) -> str:
    if not binding.possible:
        return (
            f"Requests wait though neither seats nor token budget are used up: {room}. It may be a burst, or a limit "
            "that vLLM does not publish (LoRA, a watermark, --max-num-active-seqs)."
        )
    running = f"with {number(binding.running)} running"
    if len(binding.possible) == 2:
        return (
            f"Seats or the token budget bind, not memory: {room}, {running}. Cannot tell which, because vLLM publishes "
            "neither limit."
        )
    if binding.possible == (SEATS,):
        return f"Seats may bind, not memory nor the token budget: {room}, {running}. vLLM does not publish {SEATS}."
    taken = f"{number(binding.running)} of {facts.max_num_seqs:,} seats are taken"
    return f"The token budget may bind, not memory nor seats ({taken}): {room}. vLLM does not publish {BUDGET}."


def _ask(binding: Binding) -> tuple[Change, ...]:
    if not binding.possible:
        return ()
    missing = listed([f"{flag} N" for flag in binding.possible])
    return (Change(f"run doctor again with `{missing}`", "as the server has them, to tell which binds"),)
