"""Findings about fluidgate's own scheduler, where it runs."""

from __future__ import annotations

from dataclasses import asdict

from fluidgate.doctor.changes import Change, Group
from fluidgate.doctor.finding import Case, Finding, Severity
from fluidgate.words import number, percent

WELL_BELOW_FULL = 0.7


def gate(case: Case) -> Finding | None:
    """Whether the gate runs, and whether what it holds is held for a reason."""
    facts, ours = case.facts, case.facts.gate
    if ours is None:
        return None
    numbers = asdict(ours)
    if ours.fallbacks > 0:
        says = "fluidgate's scheduler gave up, and vLLM schedules alone (fluidgate_fallbacks_total > 0)."
        what = "read the server's log, correct the plan or roll back, and restart"
        change = Change(what, "the log entry says why", Group.GATE)
        return Finding("gate-off", Severity.ACT, says, 1.0, numbers, (change,))
    if ours.held == 0:
        return Finding("gate", Severity.FINE, "fluidgate's scheduler runs and holds no request now.", 0.0, numbers)
    says = f"fluidgate's scheduler holds {number(ours.held)} requests with the KV cache {percent(facts.kv_use)} full"
    if facts.kv_use < WELL_BELOW_FULL and ours.predicted_peak < WELL_BELOW_FULL:
        says += f" and a predicted peak of only {percent(ours.predicted_peak)}: it holds for nothing."
        change = Change(
            "plan again from recent traffic, with the server's --num-gpu-blocks",
            "the plan is for longer outputs, or for fewer blocks than there are",
            Group.GATE,
        )
        return Finding("gate-holds", Severity.WATCH, says, 1.0 - facts.kv_use, numbers, (change,))
    says += f"; residents will need {percent(ours.predicted_peak)} as they grow: it waits for memory, as planned."
    return Finding("gate", Severity.FINE, says, 0.0, numbers)
