"""Findings about latency: what the first token waits for, what makes gaps, and what the prefix cache spares."""

from __future__ import annotations

from math import isfinite

from fluidgate.doctor.binding import BUDGET, Limit
from fluidgate.doctor.changes import Change, Group
from fluidgate.doctor.finding import Case, Finding, Severity, admission_changes
from fluidgate.words import number, percent

MIN_REQUESTS, MIN_GAPS = 10, 100
SLOW_FIRST_TOKEN_S = 1.0
SPIKE = 4.0
"""A gap is a spike from this many medians on."""

OFTEN = 0.001
"""Spikes rarer than this share of gaps are no finding."""

SMALLEST_CHUNK = 256


def first_token(case: Case) -> Finding | None:
    """Queue against prefill in the time to the first token."""
    whole = case.facts.histogram("time_to_first_token_seconds")
    queue = case.facts.histogram("request_queue_time_seconds")
    prefill = case.facts.histogram("request_prefill_time_seconds")
    if whole is None or queue is None or prefill is None or min(queue.count, prefill.count) < MIN_REQUESTS:
        return None
    both = queue.mean + prefill.mean
    share = queue.mean / both if both else 0.0
    numbers = {
        "mean_ttft_s": whole.mean,
        "mean_queue_s": queue.mean,
        "mean_prefill_s": prefill.mean,
        "queue_share": share,
    }
    spent = f"finished requests queued {number(queue.mean)} s and prefilled {number(prefill.mean)} s on average"
    if both < SLOW_FIRST_TOKEN_S:
        return Finding("first-token", Severity.FINE, f"First tokens come soon: {spent}.", 0.0, numbers)
    if share >= 0.5:
        says = f"The first token waits in the queue, {percent(share)} of its time: {spent}."
        limit = case.binding.limit
        if limit not in (Limit.NONE, Limit.UNKNOWN):
            says += f" What keeps it there is {limit}."
        return Finding("first-token", Severity.WATCH, says, share, numbers)
    says = f"The first token waits for its prefill, not for a place: {spent}."
    changes = (
        _larger_chunks(case),
        Change("share prompt prefixes", "what the prefix cache holds is not computed again", Group.PREFIX),
    )
    return Finding("first-token", Severity.WATCH, says, 1.0 - share, numbers, changes)


def gap_spikes(case: Case) -> Finding | None:
    """Gaps between tokens of many medians: long prefills in the same step, or preemptions."""
    gaps = case.facts.histogram("inter_token_latency_seconds")
    if gaps is None or gaps.count < MIN_GAPS:
        return None
    median_high = gaps.quantile(0.5)[1]
    if not isfinite(median_high):
        return None
    slow = gaps.above(SPIKE * median_high)
    low, high = gaps.quantile(0.99)
    numbers = {"median_gap_high_s": median_high, "p99_gap_low_s": low, "spikes": slow, "spike_share": slow / gaps.count}
    if slow < OFTEN * gaps.count:
        says = f"Tokens flow evenly: half of the gaps are at most {number(1e3 * median_high)} ms, and spikes are rare."
        return Finding("gap-spikes", Severity.FINE, says, 0.0, numbers)
    to = f" to {number(1e3 * high)}" if isfinite(high) else " or more"
    says = (
        f"{number(slow)} gaps ({percent(slow / gaps.count)}) last over {number(SPIKE)} times the median of at most "
        f"{number(1e3 * median_high)} ms; the 99th percentile is {number(1e3 * low)}{to} ms. "
    )
    # Each slow gap lasts at least SPIKE medians, so this much of the streams' time went into them.
    benefit = min(1.0, slow * SPIKE * median_high / gaps.total) if gaps.total else 0.0
    preempted = case.facts.preemptions or 0.0
    if preempted >= 0.5 * slow:
        says += f"There were {number(preempted)} preemptions, each of which makes one: those are the cause."
        changes = admission_changes(case) if case.facts.gate is None else ()
        return Finding("gap-spikes", Severity.WATCH, says, benefit, numbers, changes)
    says += "Preemptions are too few to be the cause: long prefills share the step with decodes."
    return Finding("gap-spikes", Severity.WATCH, says, benefit, numbers, _smaller_chunk(case, median_high))


def _larger_chunks(case: Case) -> Change:
    budget, why = case.facts.max_num_batched_tokens, "prompts take fewer steps; gaps between tokens grow longer"
    if budget is None:
        return Change(f"`{BUDGET}` twice as large", why, Group.TOKENS)
    return Change.of_flag(Group.TOKENS, BUDGET, str(2 * budget), why)


def _smaller_chunk(case: Case, median_s: float) -> tuple[Change, ...]:
    """The largest power of two whose step stays below a spike; without a step time, half the present budget."""
    facts, boundary = case.facts, case.boundary
    budget = facts.max_num_batched_tokens
    if boundary is not None and boundary.hardware.step_time.c_tok > 0 and facts.kv_tokens is not None:
        chunk, grid = SMALLEST_CHUNK, boundary.hardware.grid
        most = 2**20 if grid is None else grid.max_tokens // 2
        while 2 * chunk <= most and boundary.step_s(facts, 0, 2 * chunk) <= SPIKE * median_s:
            chunk *= 2
        if budget is None or chunk < budget:
            why = f"keeps a step with a full chunk below {number(1e3 * SPIKE * median_s)} ms; prompts take more steps"
            return (Change.of_flag(Group.TOKENS, BUDGET, str(chunk), why),)
    if budget is not None and budget > 2 * SMALLEST_CHUNK:
        why = "half the prompt tokens per step, half the spike"
        return (Change.of_flag(Group.TOKENS, BUDGET, str(budget // 2), why),)
    return (Change(f"a smaller `{BUDGET}`", "fewer prompt tokens in a step with decodes", Group.TOKENS),)


def prefix_cache(case: Case) -> Finding | None:
    """What the prefix cache spares, or that it is off."""
    facts = case.facts
    if facts.prefix_caching is False:
        why = "costs nothing where prompts share no prefix; evicted work is found again"
        change = Change.of_flag(Group.PREFIX, "--enable-prefix-caching", "", why)
        return Finding("prefix-cache", Severity.WATCH, "The prefix cache is off.", 0.0, {}, (change,))
    if not facts.prefix_queries:
        return None
    rate = facts.prefix_hits / facts.prefix_queries
    says = f"The prefix cache spares {percent(rate)} of the prompt tokens."
    if rate < 0.01:
        says = f"Prompts share almost nothing: the prefix cache spares {percent(rate)} of their tokens."
    return Finding("prefix-cache", Severity.FINE, says, 0.0, {"hit_rate": rate})
