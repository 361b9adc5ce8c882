"""Findings about requests that brought no answer, and about tokens that come slowly."""

from __future__ import annotations

from fluidgate.doctor.changes import Change, Group
from fluidgate.doctor.finding import Case, Finding, Severity
from fluidgate.words import number, percent

MANY_FAILED = 0.05
"""Share of the requests from which on something has to be done."""

SLOW_GAP_S = 0.1
"""Slower than most people read."""


def failed(case: Case) -> Finding | None:
    """Errors and clients that gave up, as a share of the requests that began."""
    facts = case.facts
    errors, aborted = facts.failed.get("error", 0.0), round(facts.failed.get("abort", 0.0) + facts.abandoned)
    began = (facts.finished or 0.0) + round(facts.abandoned)
    if not began or not (errors or aborted):
        return None
    lost = (errors + aborted) / began
    numbers = {"errors": errors, "gave_up": aborted, "error_share": errors / began, "gave_up_share": aborted / began}
    says, changes = [], []
    if errors:
        says.append(f"{number(errors)} of {number(began)} requests ({percent(errors / began)}) ended in an error.")
        changes.append(Change("read the server's log for its errors", "metrics do not say which", Group.FAILURES))
    if aborted:
        counted = ""
        if facts.abandoned:
            counted = ", which no metric counts; those that gave up while they waited come on top of these"
        says.append(
            f"About {number(aborted)} of {number(began)} requests began and did not finish ({percent(aborted / began)}"
            f"): their clients gave up{counted}. They are arrivals, and what was computed for them is lost."
        )
        why = "an answer that comes too late is work for nobody"
        changes.append(Change("a bounded queue, and clients that wait longer", why, Group.FAILURES))
    severity = Severity.ACT if lost >= MANY_FAILED else Severity.WATCH
    overload = case.boundary is not None and (case.boundary.load or 0.0) > 1.0
    benefit = 0.0 if overload else min(1.0, lost)  # what an overload loses, the load's finding says
    return Finding("failed", severity, " ".join(says), benefit, numbers, tuple(changes))


def slow_tokens(case: Case) -> Finding | None:
    """Whether half of the gaps between tokens are surely long."""
    gaps = case.facts.histogram("inter_token_latency_seconds")
    if gaps is None or gaps.quantile(0.5)[0] < SLOW_GAP_S:
        return None
    per_token_s = gaps.mean / case.facts.tokens_per_step
    says = (
        f"Tokens come slowly: half of the gaps last over {number(1e3 * gaps.quantile(0.5)[0])} ms, "
        f"{number(1e3 * per_token_s)} ms per token on average, with {number(case.facts.running)} requests running."
    )
    numbers = {"median_gap_low_s": gaps.quantile(0.5)[0], "mean_s_per_token": per_token_s}
    changes = (
        Change("more GPUs per server (`--tensor-parallel-size`), or more replicas", "shorter steps", Group.CAPACITY),
    )
    return Finding("slow-tokens", Severity.WATCH, says, 0.0, numbers, changes)
