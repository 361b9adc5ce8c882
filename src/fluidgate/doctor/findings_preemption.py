"""Findings about preemptions: how many, and what they cost in work, in rate and in silence."""

from __future__ import annotations

from math import isfinite

from fluidgate.doctor.binding import MANY_PER_REQUEST
from fluidgate.doctor.changes import Change, Group
from fluidgate.doctor.facts import Facts
from fluidgate.doctor.finding import Case, Finding, Severity, admission_changes
from fluidgate.words import number, percent

COSTLY_SHARE = 0.02


def preemptions(case: Case) -> Finding | None:
    """How often residents lose their KV, and what that costs in work and in silence."""
    facts = case.facts
    if facts.preemptions is None or not (facts.busy or facts.finished):
        return None
    if facts.preemptions == 0:
        return Finding("preemptions", Severity.FINE, "No preemptions: no resident lost its KV.")
    numbers = {"preemptions": facts.preemptions}
    says = f"{number(facts.preemptions)} preemptions"
    per_request = facts.preemptions_per_request
    if per_request is not None:
        numbers["per_request"] = per_request
        says += f", {number(per_request)} per finished request"
    share, cost = _recomputed(case, numbers)
    says += cost + _silence(facts, numbers) + _lost_rate(case, per_request, numbers)
    costly = (share or 0.0) >= COSTLY_SHARE or (per_request or 0.0) >= MANY_PER_REQUEST
    size = f"at most {percent(share)} of the computed tokens" if share else ""
    changes = admission_changes(case, size)
    if facts.gate is not None:
        why = "the gate admits too much: outputs are longer than planned"
        changes = (Change("plan again from recent traffic", why, Group.GATE),)
    return Finding("preemptions", Severity.ACT if costly else Severity.WATCH, says, share or 0.0, numbers, changes)


def _recomputed(case: Case, numbers: dict[str, float]) -> tuple[float | None, str]:
    """Share of all computed tokens that were computed again, and the words for it."""
    facts = case.facts
    if facts.gate is not None and facts.gate.computed_tokens > 0:
        share = facts.gate.recomputed_tokens / facts.gate.computed_tokens
        numbers |= {"recomputed_tokens": facts.gate.recomputed_tokens, "recomputed_share": share}
        return share, f": {percent(share)} of all tokens were computed again (measured)."
    held, lost = _held_tokens(case), _lost_tokens(case)
    if held is None or lost is None or facts.computed_tokens is None or facts.preemptions is None:
        return None, "; cannot tell what they recompute, because the lengths or the KV of residents are unknown."
    again, most = facts.preemptions * lost, facts.preemptions * held
    share, most_share = (tokens / (tokens + facts.computed_tokens) for tokens in (again, most))
    numbers |= {"recomputed_tokens": again, "recomputed_share": share, "recomputed_share_most": most_share}
    return share, (
        f": about {number(again)} tokens, {percent(share)} of all, were computed again if each lost its prompt (vLLM "
        f"evicts the youngest); {percent(most_share)} if victims were as old as others; less where the prefix cache "
        "found them."
    )


def _lost_tokens(case: Case) -> float | None:
    """What a victim loses: vLLM takes the last admitted, which hardly holds more than its prompt.

    In the simulator's runs of greedy admission without prefix cache it is 0.8 to 1.1 mean prompts, where residents
    hold 1.0 to 3.1.
    """
    prompt = case.facts.histogram("request_prompt_tokens")
    return None if prompt is None else prompt.mean


def _held_tokens(case: Case) -> float | None:
    if case.memory is not None:
        return case.memory.mean_kv_tokens
    facts = case.facts
    return facts.kv_use * facts.kv_tokens / facts.running if facts.kv_tokens and facts.running else None


def _silence(facts: Facts, numbers: dict[str, float]) -> str:
    """The longest gaps, one per preemption: if they are the victims', this is how long streams fell silent."""
    gaps = facts.histogram("inter_token_latency_seconds")
    if gaps is None or not facts.preemptions or facts.preemptions >= gaps.count / 2:
        return ""
    low, high = gaps.quantile(1.0 - 0.5 * facts.preemptions / gaps.count)
    numbers["silence_median_low_s"] = low
    to = f" to {number(high)}" if isfinite(high) else ""
    return f" The longest gaps, one per preemption, last {number(low)}{to} s in the middle: streams fall silent."


def _lost_rate(case: Case, per_request: float | None, numbers: dict[str, float]) -> str:
    if case.boundary is None or per_request is None:
        return ""
    again = case.boundary.stable.eviction_cost / (1.0 - case.boundary.stable.eviction_cost)  # work per eviction × rate
    lost = per_request * again / (1.0 + per_request * again)
    numbers["lost_rate_share"] = lost
    return f" At the boundary that is at most {percent(lost)} of the rate."
