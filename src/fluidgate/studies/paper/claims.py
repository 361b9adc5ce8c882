"""What the papers claim, what comes out here, and whether it is the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fluidgate.policies import Greedy
from fluidgate.studies.paper.cycle import (
    LENGTHS,
    POISSON_LENGTHS,
    POISSON_LOADS,
    CycleRun,
    cycle_share,
    largest_pace,
    toy_example,
    toy_wait,
)
from fluidgate.studies.paper.memory import (
    PUBLISHED,
    PUBLISHED_CROSSING,
    SEGMENT_COUNTS,
    crossing_rate,
    fluid_memory,
    guaranteed_rate,
)
from fluidgate.studies.paper.runs import boundary_rate
from fluidgate.studies.paper.settings import CAP_ALONE, CHUNKS, LINEAR, SARATHI, SEARCHED, STUDIES, VLLM
from fluidgate.studies.paper.study import Cell, PaperResult

Verdict = Literal["reproduced", "partly", "not"]

NEAR = 0.1
"""A rate within this share of the published one counts as the same: the machine is a model of theirs."""
CLEAR = 0.01
"""Differences up to this share count as none."""

LOADED = 50.0
"""LMSYS rates from here on are near overload or beyond it, requests per second; below, all are alike."""

PAPERS_THREE = (VLLM, SARATHI, SEARCHED)


@dataclass(frozen=True)
class Claim:
    """A claim of one of the papers with what was measured."""

    what: str
    published: str
    measured: str
    verdict: Verdict


def judged_claims(result: PaperResult) -> list[Claim]:
    """The claims that the parts run can answer."""
    claims: list[Claim] = []
    if result.has("theory"):
        claims += [*_memory(result), _toy(), *_cycle(result), _poisson(result), _segments()]
    if result.has("stable-rate"):
        claims += [*_stable_rates(result), _thresholds(result)]
    if result.has("equal-chunks"):
        claims.append(_equal_chunks(result))
    if result.has("latency"):
        claims += [*_short_latency(result), *_long_outputs(result), _no_evictions(result), *_lmsys(result)]
    return claims


def _memory(result: PaperResult) -> Iterator[Claim]:
    formula = {rate: fluid_memory(rate) for rate in PUBLISHED}
    apart = max(abs(formula[rate] / PUBLISHED[rate] - 1.0) for rate in PUBLISHED)
    yield Claim(
        "M* of LMSYS at 50 / 60 / 70 / 80 req/s, tokens",
        " / ".join(f"{tokens:,.0f}" for tokens in PUBLISHED.values()),
        " / ".join(f"{tokens:,.0f}" for tokens in formula.values()),
        _verdict(apart < 1e-3),
    )
    yield Claim(
        "M* = C at",
        f"{PUBLISHED_CROSSING} req/s",
        f"{crossing_rate():.1f} req/s",
        _verdict(abs(crossing_rate() - PUBLISHED_CROSSING) < 0.1),
    )
    shares = [numbers["kv_tokens"] / numbers["predicted_tokens"] for numbers in result.memory.values()]
    yield Claim(
        "a server that keeps up holds M* (linear step time, simulated KV ÷ M*)",
        "1",
        f"{min(shares):.3f} to {max(shares):.3f}, mean {np.mean(shares):.3f}",
        _verdict(abs(float(np.mean(shares)) - 1.0) < CLEAR),
    )


def _toy() -> Claim:
    greedy, wait = toy_example(Greedy()), toy_example(toy_wait())
    return Claim(
        "toy example, C = 12, 4 arrivals per iteration: completions per iteration, FCFS / WAIT",
        "3–3.5 / 4",
        f"{greedy:.2f} / {wait:.2f}",
        _verdict(3.0 <= greedy <= 3.5 and wait == 4.0),
    )


def _cycle(result: PaperResult) -> Iterator[Claim]:
    runs = {(run.prompt, run.output, run.policy): numbers for run, numbers in result.cycles.items() if run.load is None}
    best = {lengths: largest_pace(*lengths) for lengths in LENGTHS}
    greedy = [runs[(*lengths, "greedy")]["per_iteration"] / best[lengths] for lengths in LENGTHS]
    predicted = [cycle_share(*lengths) for lengths in LENGTHS]
    yield Claim(
        f"saturated greedy ÷ x* is (2l+o+1)/(2(l+o)), for l/o {_listed(f'{p}/{o}' for p, o in LENGTHS)}",
        _listed(f"{share:.3f}" for share in predicted),
        _listed(f"{share:.3f}" for share in greedy),
        _verdict(bool(np.allclose(greedy, predicted, rtol=CLEAR))),
    )
    paced = [runs[(*lengths, "rate-limited")] for lengths in LENGTHS]
    shares = [numbers["per_iteration"] / best[lengths] for numbers, lengths in zip(paced, LENGTHS, strict=True)]
    restarts = max(numbers["restarts"] for numbers in paced)
    yield Claim(
        "pacing at 0.98 x* reaches it without an eviction",
        "0.98; 0 evictions",
        f"{min(shares):.3f} to {max(shares):.3f}; {restarts:g} evictions",
        _verdict(min(shares) > 0.98 - CLEAR and restarts == 0),
    )


def _poisson(result: PaperResult) -> Claim:
    def unstable_from(backlog: bool) -> float | None:
        return next((load for load in POISSON_LOADS if _mean_growth(result, load, "greedy", backlog) > 0.02), None)

    lower = cycle_share(*POISSON_LENGTHS)
    empty, burst = unstable_from(False), unstable_from(True)
    expected = next(load for load in POISSON_LOADS if load > lower)
    texts = ["none" if load is None else f"{load:g} x*" for load in (empty, burst)]
    return Claim(
        f"Poisson arrivals above the cycle's rate, {lower:.2f} x*, destabilise greedy (l/o 10/100)",
        f"from {expected:g} x* of those tested",
        f"from an empty start: from {texts[0]}; from a backlog: from {texts[1]}",
        "reproduced" if empty == expected else "partly" if burst == expected else "not",
    )


def _mean_growth(result: PaperResult, load: float, policy: str, backlog: bool) -> float:
    return float(
        np.mean(
            [
                numbers["growth"]
                for run, numbers in result.cycles.items()
                if (run.load, run.policy, run.backlog) == (load, policy, backlog)
            ]
        )
    )


def poisson_growth(result: PaperResult, run: CycleRun) -> float:
    """Mean over seeds of the share of arrivals left behind, for the load, policy and start of a run."""
    assert run.load is not None
    return _mean_growth(result, run.load, run.policy, run.backlog)


def _segments() -> Claim:
    rates = [guaranteed_rate(count, "mean") for count in SEGMENT_COUNTS]
    best = SEGMENT_COUNTS[int(np.argmax(rates))]
    return Claim(
        "Nested WAIT: memory is U-shaped in L, a moderate L is best (largest guaranteed rate)",
        f"between {SEGMENT_COUNTS[0]} and {SEGMENT_COUNTS[-1]}",
        f"L = {best}: {max(rates):.1f} req/s; L = 1: {rates[0]:.1f}, L = {SEGMENT_COUNTS[-1]}: {rates[-1]:.1f}",
        _verdict(best not in (SEGMENT_COUNTS[0], SEGMENT_COUNTS[-1])),
    )


def _stable_rates(result: PaperResult) -> Iterator[Claim]:
    for name, study in STUDIES.items():
        if not study.published:
            continue
        goals = [rate for _, rate in study.published]
        rates = [
            result.row("stable-rate", Cell(name, scheduler)).mean("service_rate") for scheduler, _ in study.published
        ]
        near = [abs(rate / goal - 1.0) <= NEAR for rate, goal in zip(rates, goals, strict=True)]
        tuned = result.searched[Cell(name, SEARCHED)]
        least = min(tuned)
        in_order = rates[0] < rates[1] < rates[2]
        yield Claim(
            f"{name}: largest stable rate, vLLM / Sarathi / WAIT, req/s",
            " / ".join(f"{rate:g}" for rate in goals),
            " / ".join(f"{rate:.1f}" for rate in rates) + f" (WAIT at B = {least[0]}: {tuned[least]:.1f})",
            "reproduced" if all(near) and in_order else "partly" if rates[2] > max(rates[:2]) else "not",
        )


def _thresholds(result: PaperResult) -> Claim:
    gains = {}
    for name in STUDIES:
        wait, cap = (
            result.row("stable-rate", Cell(name, scheduler)).mean("service_rate") for scheduler in (SEARCHED, CAP_ALONE)
        )
        gains[name] = wait / cap - 1.0
    return Claim(
        "WAIT's gain comes from its thresholds: stable rate against the same cap alone, both searched",
        "above 0",
        "; ".join(f"{name} {gain:+.1%}" for name, gain in gains.items()),
        _all_or_some([gain > CLEAR for gain in gains.values()]),
    )


def _equal_chunks(result: PaperResult) -> Claim:
    gains = {}
    for name in STUDIES:
        for chunk in CHUNKS:
            wait, sarathi = (
                result.row("equal-chunks", Cell(name, scheduler, None, chunk)).mean("service_rate")
                for scheduler in (SEARCHED, SARATHI)
            )
            gains[f"{name} at {chunk}"] = wait / sarathi - 1.0
    return Claim(
        "WAIT is stable at higher rates than Sarathi (not in the paper: at equal tokens per iteration)",
        "above 0",
        "; ".join(f"{name} {gain:+.1%}" for name, gain in gains.items()),
        _all_or_some([gain > CLEAR for gain in gains.values()]),
    )


def _short_latency(result: PaperResult) -> Iterator[Claim]:
    for name, low, near, published in (
        ("p512-d20", 12.0, 23.0, "2% at 12, over 70% at 23"),
        ("p512-d20-d50-mix", 12.0, 22.0, "6% at low load, over 40% near the boundary"),
    ):
        rates = [rate for rate in STUDIES[name].rates if rate <= 24.0]
        least = [_is_least(result, name, rate) for rate in rates]
        gaps = [
            1.0 - _e2e_s(result, name, SEARCHED, rate) / _e2e_s(result, name, SARATHI, rate) for rate in (low, near)
        ]
        yield Claim(
            f"{name}: WAIT's mean E2E is least of the three at 12–24 req/s, below Sarathi's by",
            published,
            f"{gaps[0]:.0%} at {low:g}, {gaps[1]:.0%} at {near:g}; least at {sum(least)} of {len(least)} rates",
            "partly" if any(least) and gaps[1] < 0.4 else _all_or_some(least),
        )


def _long_outputs(result: PaperResult) -> Iterator[Claim]:
    name, goals = "p512-d1000", (53.8, 41.7, 32.3)
    latencies_s = [_e2e_s(result, name, scheduler, 4.5) for scheduler in PAPERS_THREE]
    near = all(abs(latency_s / goal - 1.0) < 0.5 for latency_s, goal in zip(latencies_s, goals, strict=True))
    bounds = [boundary_rate(name, variant) for variant in (None, LINEAR)]
    yield Claim(
        f"{name}: WAIT's latency is controlled at 4.5 req/s",
        "largest rates between 4 and 5 req/s",
        f"no policy beyond {bounds[0]:.2f} req/s (with the paper's linear time {bounds[1]:.2f})",
        _verdict(max(bounds) >= 4.5),
    )
    yield Claim(
        f"{name} at 4.5 req/s: mean E2E, vLLM / Sarathi / WAIT",
        " / ".join(f"{seconds:g} s" for seconds in goals),
        " / ".join(f"{seconds:.0f} s" for seconds in latencies_s),
        "reproduced" if near else "partly" if latencies_s[2] < min(latencies_s[:2]) else "not",
    )
    restarts = [result.row("latency", Cell(name, scheduler, 4.0)).mean("restarts") for scheduler in (SARATHI, SEARCHED)]
    yield Claim(
        f"{name} at 4.0 req/s: restarts per request, Sarathi / WAIT",
        "0.0288 / 0",
        " / ".join(f"{share:.3f}" for share in restarts),
        "partly" if restarts[1] < restarts[0] else "not",
    )


def _no_evictions(result: PaperResult) -> Claim:
    rows = [row for row in result.rows if row.part == "latency" and row.cell.scheduler == SEARCHED]
    clean = [row.values["restarts"].max() == 0.0 for row in rows]
    worst = max(rows, key=lambda row: row.mean("restarts"))
    where = f"; most at {worst.cell.study}, {worst.cell.rate:g} req/s: {worst.mean('restarts'):.3f} per request"
    return Claim(
        "WAIT and Nested WAIT evict nothing",
        "0 evictions",
        f"none in {sum(clean)} of {len(clean)} cells{'' if all(clean) else where}",
        _all_or_some(clean),
    )


def _lmsys(result: PaperResult) -> Iterator[Claim]:
    for name in ("lmsys", "lmsys, linear time"):
        rates = STUDIES[name].rates
        lower = [_is_least(result, name, rate) for rate in rates]
        at = ", ".join(f"{rate:g}" for rate, best in zip(rates, lower, strict=True) if best)
        loaded = [best for rate, best in zip(rates, lower, strict=True) if rate >= LOADED]
        yield Claim(
            f"{name}: Nested WAIT's mean E2E is the least of the three, most clearly near overload",
            "at all rates, 10–150 req/s",
            f"at {sum(lower)} of {len(lower)} rates" + (f": {at}" if at else ""),
            _all_or_some(loaded),
        )


def _is_least(result: PaperResult, study: str, rate: float) -> bool:
    vllm, sarathi, wait = (_e2e_s(result, study, scheduler, rate) for scheduler in PAPERS_THREE)
    return wait <= (1.0 + CLEAR) * min(vllm, sarathi)


def _e2e_s(result: PaperResult, study: str, scheduler: str, rate: float) -> float:
    return result.row("latency", Cell(study, scheduler, rate)).mean("mean_e2e_s")


def _verdict(same: bool) -> Verdict:
    return "reproduced" if same else "not"


def _all_or_some(same: list[bool]) -> Verdict:
    return "reproduced" if same and all(same) else "partly" if any(same) else "not"


def _listed(parts: Iterator[str]) -> str:
    return ", ".join(parts)
