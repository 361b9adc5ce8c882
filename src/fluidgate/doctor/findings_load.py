"""Findings about the load: how far it is from the stability boundary."""

from __future__ import annotations

from math import ceil

from fluidgate.doctor.binding import MANY_PER_REQUEST, Limit
from fluidgate.doctor.changes import Change, Group, has_flag
from fluidgate.doctor.finding import Case, Finding, Severity
from fluidgate.words import number, percent

NEAR_THE_BOUNDARY, TARGET_LOAD = 0.9, 0.8
STEP_TIME_OFF = 1.5
"""The model's step may differ from the server's by this factor."""

REUSE_MATTERS = 0.1
QUEUE_S = 30.0


def load(case: Case) -> Finding:
    """Arrivals against the stability boundary."""
    facts, boundary = case.facts, case.boundary
    if boundary is None:
        numbers: dict[str, float] = {}
        return Finding("load", Severity.UNKNOWN, _no_boundary(case, numbers), numbers=numbers)
    stable = boundary.stable
    low, high = boundary.rates
    numbers = {
        "boundary_rate": boundary.rate,
        "boundary_rate_low": low,
        "boundary_rate_high": high,
        "eta": stable.eta,
        "residents_at_boundary": stable.residents,
    }
    where = f"{number(boundary.rate)} req/s ({number(low)} to {number(high)} by the length histograms)"
    caveats = _caveats(case, numbers)
    if boundary.load is None or boundary.loads is None or facts.rate is None:
        why = "cannot tell the load, because how long the counters ran is unknown: scrape twice, with --wait-s."
        if facts.rate == 0.0:
            why = "cannot tell the load, because no request arrived in the time: scrape further apart."
        return Finding("load", Severity.UNKNOWN, f"The stability boundary is {where}; {why}{caveats}", numbers=numbers)
    numbers |= {
        "rate": facts.rate,
        "load": boundary.load,
        "load_low": boundary.loads[0],
        "load_high": boundary.loads[1],
    }
    says = (
        f"{number(facts.rate)} req/s arrive on average, {percent(boundary.load)} of the stability boundary of {where}; "
    )
    limit = "compute" if stable.binding == "compute" else stable.limit
    if boundary.load > 1.0:
        says += f"the queue grows under any policy; at the boundary {limit} binds."
        benefit = 1.0 - 1.0 / boundary.load
        return Finding("load", Severity.ACT, says + caveats, benefit, numbers, _overload(case, boundary.load))
    if boundary.load >= NEAR_THE_BOUNDARY:
        says += f"a burst makes a queue that drains slowly; at the boundary {limit} binds."
        return Finding("load", Severity.WATCH, says + caveats, 0.0, numbers, _overload(case, boundary.load))
    return Finding("load", Severity.FINE, says + _room(case, boundary.load) + caveats, 0.0, numbers)


def _room(case: Case, load: float) -> str:
    """What a load below the boundary means; what was seen goes before what the model expects of the mean load."""
    assert case.boundary is not None
    onset = case.boundary.stable.onset_load
    evicts = (case.facts.preemptions_per_request or 0.0) >= MANY_PER_REQUEST
    if case.binding.limit is Limit.MEMORY or evicts:
        return "the mean load leaves room, yet the KV cache overflows: arrivals come in bursts."
    if onset is None or load < onset:
        return "the KV cache hardly ever fills here unless in bursts, and no admission policy matters."
    return f"memory control matters from {percent(onset)} on."


def _no_boundary(case: Case, numbers: dict[str, float]) -> str:
    facts = case.facts
    if facts.histogram("request_generation_tokens") is None:
        return "Cannot tell the distance to the boundary, because no lengths of finished requests are known."
    if case.contradiction is not None:
        return "Cannot tell the distance to the boundary, because the size of the KV cache is in doubt."
    if facts.kv_tokens is None:
        return "Cannot tell the distance to the boundary, because the size of the KV cache is unknown."
    return (
        "Cannot tell the distance to the boundary, because step times are unknown: add --model and --gpu."
        + _by_memory(case, numbers)
    )


def _by_memory(case: Case, numbers: dict[str, float]) -> str:
    """Little's law: n residents that fill the memory, each for E[o] steps as long as they are now."""
    facts, memory = case.facts, case.memory
    gaps, output = facts.histogram("inter_token_latency_seconds"), facts.histogram("request_generation_tokens")
    if memory is None or gaps is None or output is None or gaps.mean * output.mean <= 0.0:
        return ""
    rate = facts.engines * memory.full_at_residents * facts.tokens_per_step / (gaps.mean * output.mean)
    numbers["memory_rate"] = rate
    load = ""
    if facts.rate:
        numbers["memory_load"] = facts.rate / rate
        load = f"; {number(facts.rate)} req/s arrive, a load of about {percent(facts.rate / rate)}"
    return (
        f" At the present {number(1e3 * gaps.mean)} ms per step the KV memory allows about {number(rate)} req/s, less "
        f"where steps grow longer with it{load}."
    )


def _caveats(case: Case, numbers: dict[str, float]) -> str:
    """Why the boundary of the model may differ from the server's."""
    facts, boundary = case.facts, case.boundary
    assert boundary is not None
    text = ""
    limits = {"--max-num-seqs": facts.max_num_seqs, "--max-num-batched-tokens": facts.max_num_batched_tokens}
    unknown = " and ".join(flag for flag, value in limits.items() if value is None)
    if unknown:
        text += f" {unknown} not given: taken as no limit."
    if facts.prefix_queries and facts.prefix_hits / facts.prefix_queries >= REUSE_MATTERS:
        text += (
            f" The prefix cache spares {percent(facts.prefix_hits / facts.prefix_queries)} of prompts, which raises it."
        )
    gaps, tokens = facts.histogram("inter_token_latency_seconds"), facts.histogram("iteration_tokens_total")
    if gaps is None or tokens is None or not facts.busy or facts.kv_tokens is None:
        return text
    modelled_s = boundary.step_s(facts, tokens.mean)
    low, high = gaps.quantile(0.5)
    numbers |= {"modelled_step_ms": 1e3 * modelled_s, "median_gap_low_ms": 1e3 * low, "median_gap_high_ms": 1e3 * high}
    if modelled_s < low / STEP_TIME_OFF or modelled_s > high * STEP_TIME_OFF:
        text += (
            f" The hardware model is off: it gives {number(1e3 * modelled_s)} ms per step, the server's median gap is "
            f"{number(1e3 * low)} to {number(1e3 * high)} ms; the boundary is wrong by as much. "
            "Give a measured --hardware file."
        )
    return text


def _overload(case: Case, load: float) -> tuple[Change, ...]:
    boundary, facts = case.boundary, case.facts
    assert boundary is not None
    servers = ceil(load * facts.servers / TARGET_LOAD)
    brings = f"bring the load of each to {percent(load * facts.servers / servers)}"
    what = f"{servers} replicas of this server" if facts.servers == 1 else f"{servers} of these servers"
    more = Change(what, brings, Group.CAPACITY)
    queue = ceil(boundary.stable.residents + QUEUE_S * boundary.rate / facts.engines)
    bound = Change("a bound on the queue before the servers", "its 503 is better than a timeout", Group.CAPACITY)
    if has_flag(facts, "--max-num-queued-reqs"):
        why = "n* residents and 30 s of queue; HTTP 503 beyond"
        bound = Change.of_flag(Group.CAPACITY, "--max-num-queued-reqs", str(queue), why)
    return (more, bound) if servers > facts.servers else (bound,)
