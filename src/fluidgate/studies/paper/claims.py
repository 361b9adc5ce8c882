"""What the papers claim, what comes out here, whether it is the same, and whose the difference is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import isfinite

from fluidgate.studies.paper.decode_claims import decode_claims
from fluidgate.studies.paper.mixing import mixing_claims
from fluidgate.studies.paper.runs import boundary_rate
from fluidgate.studies.paper.scaling_claims import scaling_claims
from fluidgate.studies.paper.settings import (
    CAP_ALONE,
    CHUNKS,
    LARGE,
    LONG_LATENCY_S,
    MACHINES,
    NEAR_BOUNDARY_S,
    PUBLISHED_CAP,
    SARATHI,
    SEARCHED,
    STUDIES,
    VLLM,
    on_machine,
)
from fluidgate.studies.paper.study import Cell, PaperResult, at_equal_chunks
from fluidgate.studies.paper.theory_claims import theory_claims
from fluidgate.studies.paper.verdicts import CLEAR, NEAR, NEAR_LATENCY, Claim, Owner, Verdict, by_machine, judged

LOADED = 50.0
"""LMSYS rates from here on are near overload or beyond it, requests per second; below, all are alike."""

SHORT = {"p512-d20": "Figure 7", "p512-d20-d50-mix": "Figure 8"}
LONG = "p512-d1000"
"""Workloads, and the figures that show them in the paper."""

PAPERS_THREE = (VLLM, SARATHI, SEARCHED)
_NAMES = {PUBLISHED_CAP: "WAIT, the authors' B", SEARCHED: "WAIT, B searched"}
_WHY = {
    VLLM: ": as served by a scheduler equal to Vidur's own (parity.md)",
    SEARCHED: ": the best B of the grid serves more, the authors' B their rate",
}
"""What shows that a difference is the paper's, beside the table."""


def judged_claims(result: PaperResult) -> list[Claim]:
    """The claims that the parts run can answer."""
    claims: list[Claim] = []
    if result.has("theory"):
        claims += theory_claims(result)
    if result.has("scaling"):
        claims += scaling_claims(result.scaling)
    if result.has("stable-rate"):
        claims += [*_stable_rates(result), _thresholds(result)]
    if result.has("equal-chunks"):
        claims.append(_equal_chunks(result))
    if result.has("latency"):
        claims += [*_short_latency(result), *_near_boundary(result), *_long_outputs(result)]
        claims += [_no_evictions(result), _lmsys(result)]
    if result.has("decode-server"):
        claims += decode_claims(result.decode)
    if result.has("mixing"):
        claims += mixing_claims(result.mixing)
    return claims


def machines_of(workload: str) -> dict[str, str]:
    """The study of a workload by machine."""
    names = {machine: on_machine(workload, machine) for machine in MACHINES}
    return {machine: name for machine, name in names.items() if name in STUDIES}


def _stable_rates(result: PaperResult) -> Iterator[Claim]:
    for workload, figure in SHORT.items():
        for scheduler, goal in STUDIES[workload].published:
            rates = {
                machine: result.row("stable-rate", Cell(name, scheduler)).mean("service_rate")
                for machine, name in machines_of(workload).items()
            }
            near = {machine: abs(rate / goal - 1.0) <= NEAR for machine, rate in rates.items()}
            shown = f"Largest stable rate, {workload}"
            verdict, owner = judged(near, "open" if scheduler == SARATHI else "the paper's")
            yield Claim(
                f"{figure}, {workload}: largest stable rate of {_name(scheduler)}, req/s",
                f"{goal:g}",
                by_machine({machine: f"{rate:.1f}" for machine, rate in rates.items()}),
                verdict,
                owner,
                shown + _WHY.get(scheduler, ""),
            )


def _thresholds(result: PaperResult) -> Claim:
    gains = {}
    for name in STUDIES:
        wait, cap = (
            result.row("stable-rate", Cell(name, scheduler)).mean("service_rate") for scheduler in (SEARCHED, CAP_ALONE)
        )
        gains[name] = wait / cap - 1.0
    verdict = _all_or_some([gain > CLEAR for gain in gains.values()])
    return Claim(
        "Section 6.1: WAIT's gain comes from its thresholds: stable rate against the same cap alone, both searched",
        "above 0",
        _by_name(gains),
        verdict,
        _unless(verdict, "the paper's"),
        "Largest stable rate, lines WAIT and B alone",
    )


def _by_name(gains: Mapping[str, float]) -> str:
    return "; ".join(
        f"{name} {f'{gain:+.1%}' if isfinite(gain) else 'too few requests to tell'}" for name, gain in gains.items()
    )


def _equal_chunks(result: PaperResult) -> Claim:
    gains = {}
    for name in at_equal_chunks():
        for chunk in CHUNKS:
            wait, sarathi = (
                result.row("equal-chunks", Cell(name, scheduler, None, chunk)).mean("service_rate")
                for scheduler in (SEARCHED, SARATHI)
            )
            gains[f"{name} at {chunk}"] = wait / sarathi - 1.0
    verdict = _all_or_some([gain > CLEAR for gain in gains.values()])
    return Claim(
        "WAIT is stable at higher rates than Sarathi (not in the paper: at equal tokens per iteration)",
        "above 0",
        _by_name(gains),
        verdict,
        _unless(verdict, "the paper's"),
        "Largest stable rate at equal tokens per iteration",
    )


def _short_latency(result: PaperResult) -> Iterator[Claim]:
    for workload, low, near, published, gap in (
        ("p512-d20", 12.0, 23.0, "2% at 12, over 70% at 23", 0.7),
        ("p512-d20-d50-mix", 12.0, 22.0, "6% at low load, over 40% near the boundary", 0.4),
    ):
        rates = [rate for rate in STUDIES[workload].rates if rate <= 24.0]
        holds, texts, lowest = {}, {}, {}
        for machine, name in machines_of(workload).items():
            least = [_is_least(result, name, rate) for rate in rates]
            gaps = [
                1.0 - _e2e_s(result, name, SEARCHED, rate) / _e2e_s(result, name, SARATHI, rate) for rate in (low, near)
            ]
            texts[machine] = f"{gaps[0]:.0%} at {low:g}, {gaps[1]:.0%} at {near:g}, least at {sum(least)}/{len(least)}"
            lowest[machine] = all(least)
            holds[machine] = all(least) and gaps[1] >= (1.0 - NEAR_LATENCY) * gap
        verdict, owner = judged(holds, "open")
        if verdict != "reproduced" and judged(lowest, "open")[0] == "reproduced":
            verdict = "partly"  # least at all rates, by less
        yield Claim(
            f"{SHORT[workload]}, {workload}: WAIT's mean E2E is least of the three at 12–24 req/s, below Sarathi's by",
            published,
            by_machine(texts),
            verdict,
            owner,
            f"Latency, {workload}",
        )


def _near_boundary(result: PaperResult) -> Iterator[Claim]:
    for workload, published in NEAR_BOUNDARY_S.items():
        for scheduler, goals in published.items():
            latencies_s = {
                machine: {rate: _e2e_s(result, name, scheduler, rate) for rate in goals}
                for machine, name in machines_of(workload).items()
            }
            near = {
                machine: all(abs(found[rate] / goals[rate] - 1.0) <= NEAR_LATENCY for rate in goals)
                for machine, found in latencies_s.items()
            }
            verdict, owner = judged(near, "the paper's" if scheduler == VLLM else "open")
            yield Claim(
                f"Appendix, repeated runs, {workload}: mean E2E of {_name(scheduler)} at 22 / 23 req/s, s",
                _seconds(goals.values()),
                by_machine({machine: _seconds(found.values()) for machine, found in latencies_s.items()}),
                verdict,
                owner,
                "Latency near the boundary",
            )


def _long_outputs(result: PaperResult) -> Iterator[Claim]:
    bounds = {machine: boundary_rate(LONG, machine) for machine in machines_of(LONG)}
    verdict, owner = judged({machine: bound >= 4.5 for machine, bound in bounds.items()}, "open", "the paper's")
    yield Claim(
        f"Figure 9, {LONG}: WAIT's latency is controlled at 4.5 req/s",
        "largest rates between 4 and 5 req/s",
        "no policy beyond: " + by_machine({machine: f"{bound:.2f} req/s" for machine, bound in bounds.items()}),
        verdict,
        owner,
        f"Largest stable rate, {LONG}{_AS_RUN}",
    )
    for rate, published in LONG_LATENCY_S.items():
        for who, goal in published.items():
            found = {machine: _e2e_s(result, name, who, rate) for machine, name in machines_of(LONG).items()}
            near = {machine: abs(seconds / goal - 1.0) <= NEAR_LATENCY for machine, seconds in found.items()}
            verdict, owner = judged(near, "open", "the paper's")
            yield Claim(
                f"{'Table 1' if rate == 4.0 else 'Figure 9'}, {LONG}: mean E2E of {_name(who)} at {rate:g} req/s, s",
                f"{goal:g}",
                by_machine({machine: _seconds([seconds]) for machine, seconds in found.items()}),
                verdict,
                owner,
                f"Latency, {LONG}" + (_AS_RUN if verdict == "partly" else ""),
            )
    yield _restarts(result)


_AS_RUN = f": only the memory of the authors' runs, {LARGE} tokens, gives it"


def _restarts(result: PaperResult) -> Claim:
    restarts = {
        machine: [result.row("latency", Cell(name, who, 4.0)).mean("restarts") for who in (SARATHI, SEARCHED)]
        for machine, name in machines_of(LONG).items()
    }
    verdict, owner = judged({m: 0.0 < of[0] <= 0.1 and of[1] == 0.0 for m, of in restarts.items()}, "open")
    return Claim(
        f"Table 1, {LONG}: restarts per request at 4.0 req/s, Sarathi / WAIT",
        "0.0288 / 0",
        by_machine({machine: f"{of[0]:.3f} / {of[1]:.3f}" for machine, of in restarts.items()}),
        verdict,
        owner,
        f"Latency, {LONG}",
    )


def _no_evictions(result: PaperResult) -> Claim:
    texts, holds = {}, {}
    for machine in MACHINES:
        rows = [
            row
            for row in result.rows
            if row.part == "latency"
            and row.cell.scheduler in (SEARCHED, PUBLISHED_CAP)
            and STUDIES[row.cell.study].machine == machine
        ]
        if not rows:
            continue
        most = max(rows, key=lambda row: row.mean("restarts"))
        holds[machine] = most.mean("restarts") == 0.0
        where = f"up to {most.mean('restarts'):.3f} per request, {most.cell.study}, {most.cell.rate:g} req/s"
        texts[machine] = "none" if holds[machine] else where
    verdict, owner = judged(holds, "the paper's", "the paper's")
    return Claim(
        "Section 6: WAIT and Nested WAIT evict nothing in the figures over rates",
        "0 evictions",
        by_machine(texts),
        verdict,
        owner,
        f"Latency, {LONG}: a B of the paper's grid fills more than the memory that its text states",
    )


def _lmsys(result: PaperResult) -> Claim:
    holds, texts = {}, {}
    for machine, name in machines_of("lmsys").items():
        rates = STUDIES[name].rates
        least = {rate: _is_least(result, name, rate) for rate in rates}
        at = ", ".join(f"{rate:g}" for rate, best in least.items() if best)
        texts[machine] = f"at {sum(least.values())} of {len(rates)}" + (f" ({at})" if at else "")
        loaded = [best for rate, best in least.items() if rate >= LOADED]
        holds[machine] = bool(loaded) and all(loaded)
    verdict, owner = judged(holds, "open")
    return Claim(
        "Figure 12, lmsys: Nested WAIT's mean E2E is the least of the three, most clearly near overload",
        "at all rates, 10–150 req/s",
        by_machine(texts),
        verdict,
        owner,
        "Latency, lmsys; Nested WAIT by number of segments",
    )


def _is_least(result: PaperResult, study: str, rate: float) -> bool:
    vllm, sarathi, wait = (_e2e_s(result, study, scheduler, rate) for scheduler in PAPERS_THREE)
    return wait <= (1.0 + CLEAR) * min(vllm, sarathi)


def _e2e_s(result: PaperResult, study: str, scheduler: str, rate: float) -> float:
    return result.row("latency", Cell(study, scheduler, rate)).mean("mean_e2e_s")


def _name(scheduler: str) -> str:
    return _NAMES.get(scheduler, scheduler)


def _seconds(values: Iterable[float]) -> str:
    return " / ".join(f"{value:.0f}" if value >= 100 else f"{value:.3g}" for value in values)


def _unless(verdict: Verdict, owner: Owner) -> Owner:
    return "none" if verdict == "reproduced" else owner


def _all_or_some(same: list[bool]) -> Verdict:
    return "reproduced" if same and all(same) else "partly" if any(same) else "not"
