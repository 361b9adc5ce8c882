"""The chapter of the theorems on the page of the papers' studies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from fluidgate.metrics import mean_interval
from fluidgate.studies.markdown import number, section, table
from fluidgate.studies.paper.scaling import Scaling
from fluidgate.studies.paper.scaling_cases import CASES, NESTED_CASES, PERIODS, PROMPT, VARYING_CASES, WAIT_CASES
from fluidgate.studies.paper.scaling_claims import (
    AT_BOUNDARY,
    CRITICAL_CASES,
    NEAR_SLOPE,
    Overflow,
    overflows,
    random_walk_wait,
    slope,
    slope_text,
)
from fluidgate.studies.paper.slopes import growth
from fluidgate.studies.paper.study import PaperResult

_MEASURES = {
    "gap": "Throughput gap, % of the fluid throughput",
    "queue": "The part of it that has not begun, %",
    "latency": "Mean latency, full iterations",
    "wait": "Mean wait for the prefill, full iterations",
}
_PERCENT = {"gap", "queue"}
SHOWN_DELTA = 0.1


def scaling_section(result: PaperResult) -> str:
    """Theorems 1 to 4 and proposition 4."""
    of = result.scaling
    note = (
        f"Prompts of {PROMPT} tokens on the machine with the linear time; the algorithms to the letter. With ζ times "
        "as many arrivals, and iterations ζ times as fast, [0, T] is [0, ζT] of this machine; so the horizon grows, "
        "given in requests that are expected in it. A full iteration has every stage at its threshold and takes ΔT; a "
        "load of 1 is equality in the theorem's conditions. The gap counts the decode tokens of what has arrived and "
        "is not complete, whose mean is that of the fluid's minus the completed ones. ± and brackets: 95% over seeds, "
        f"{len(_seeds(of, 'wait-one-slack'))} of WAIT and from {len(_seeds(of, 'mmpp-within'))} to "
        f"{len(_seeds(of, 'nested-two'))} of Nested WAIT. A slope counts as the theorem's up to {NEAR_SLOPE:g}."
    )
    return section("The theorems over growing horizons", note, _wait(of), _boundary(of), _nested(of), _varying(of))


def _seeds(of: Scaling, name: str) -> np.ndarray:
    return next(iter(of[name].values()))["gap"]


def _wait(of: Scaling) -> str:
    says = (
        "WAIT's gap falls as 1/ζT and its latency stays where every full iteration takes more requests than arrive in "
        "it; where it takes as many, as (ζT)^-½ and (ζT)^½. Two thresholds: 2 of outputs of 20 tokens, and 2 and 1 of "
        "outputs of 20 and 50. A gap that stays, or a latency that grows in proportion to the horizon, would refute it."
    )
    walk = {requests: number(random_walk_wait("wait-one-critical", requests)) for requests in of["wait-one-critical"]}
    extra = {"wait": [("one length, load 1: a reflected random walk's", *walk.values(), "0.50")]}
    return _chapter("Theorem 1", says, _over_horizons(of, WAIT_CASES, _MEASURES, extra))


def _boundary(of: Scaling) -> str:
    says = (
        "At C = M\\* no policy that cannot see the future keeps the fluid throughput with a delay that grows more "
        f"slowly than (ζT)^½. One length, load 1, every policy with the same {CASES[AT_BOUNDARY[0]].base_tokens:,} "
        "tokens, which are M\\* and WAIT's M^π. A policy whose gap vanishes while its wait grows more slowly would "
        "refute it."
    )
    rows = []
    for name in AT_BOUNDARY:
        last = list(of[name].values())[-1]
        per_request = last["restarts"].mean() / list(of[name])[-1]
        rows.append(
            (
                CASES[name].policy,
                _mean("gap", last["gap"]),
                slope_text(slope(of, name, "gap")),
                _mean("wait", last["wait"]),
                slope_text(slope(of, name, "wait")),
                f"{per_request:.3f}",
            )
        )
    requests = list(of[AT_BOUNDARY[0]])[-1]
    head = (f"over {requests:,} requests", "gap, %", "slope", "wait, iterations", "slope", "restarts per request")
    return _chapter("Proposition 4", says, table(head, rows))


def _nested(of: Scaling) -> str:
    says = (
        "With M_req tokens Nested WAIT overflows within ζT with probability δ at most, its gap falls as 1/ζT and its "
        "latency stays. Load 0.9; thresholds 5, 3 (and 2) where half of the requests go on at each boundary; with four "
        "lengths in two segments it is Theorem 4. An overflow in more than a share δ of the runs would refute it."
    )
    tables = _over_horizons(of, NESTED_CASES, {key: _MEASURES[key] for key in ("gap", "latency")})
    memory = (
        "### Memory of Nested WAIT\n\nRuns with ample memory: what they hold at most says how often M_req would not "
        "have done. In brackets the upper 95% limit of that frequency. Of the buffer between M^π and M_req the last "
        "column is what a buffer without margin would take: up to what all but a share δ of the runs hold (all, where "
        "1/δ is more than their number). Rates that vary over the longest horizon."
    )
    head = ("", "requests", "δ", "M^π", "M_req", "overflows", "δ-quantile held", "of the buffer")
    rows = [_memory_row(CASES[name].title, one) for name, one in _memory_rows(of)]
    grown = [
        (
            CASES[name].title,
            number(float(CASES[name].boundary_tokens() @ (1 / CASES[name].decay()))),
            number(growth({requests: numbers["peak_tokens"] for requests, numbers in of[name].items()})),
        )
        for name in NESTED_CASES
    ]
    growing = table(
        ("tokens more when the horizon is e times as long", "Σ (l + l'_k)/θ_k", "mean of the most held"), grown
    )
    return "\n\n".join([_chapter("Theorem 2", says, tables), memory, table(head, rows), growing])


def _memory_rows(of: Scaling) -> Iterator[tuple[str, Overflow]]:
    """All horizons of the first case, whose seeds are most; of others the longest, and with rates that vary one δ."""
    first = next(iter(NESTED_CASES))
    for name in (*NESTED_CASES, *VARYING_CASES):
        longest = max(of[name])
        for one in overflows(of, name):
            if name == first or (one.requests == longest and (name in NESTED_CASES or one.delta == SHOWN_DELTA)):
                yield name, one


def _varying(of: Scaling) -> str:
    says = (
        "The same holds for rates that vary with time, as long as no window of ΔT expects n_1 arrivals or more, at any "
        f"time a share of long requests below n_2/n_1, and the rate does not vanish. Each rate keeps {PERIODS} mean "
        "periods in the horizon. MMPP switches between two rates (shares of the capacity), Cox wanders around one; the "
        "first three stay below the capacity (Cox but for one second in 10⁷); of the others only the mean does, and "
        "the theorem promises nothing. A gap that stays, or a growing latency, in the first three would refute it."
    )
    return _chapter(
        "Theorem 3",
        says,
        _over_horizons(of, VARYING_CASES, {key: _MEASURES[key] for key in ("gap", "latency", "wait")}),
    )


def _over_horizons(
    of: Scaling,
    names: Iterable[str],
    measures: dict[str, str],
    extra: dict[str, list[tuple[str, ...]]] | None = None,
) -> str:
    """A table for each measure: cases by horizons, and the slope."""
    names = list(names)
    parts = []
    for key, title in measures.items():
        shown = [name for name in names if key != "queue" or name in CRITICAL_CASES]
        rows = [
            (
                CASES[name].title,
                *(_mean(key, numbers[key]) for numbers in of[name].values()),
                slope_text(slope(of, name, key)),
            )
            for name in shown
        ]
        head = ("requests", *(f"{requests:,}" for requests in of[names[0]]), "log-log slope")
        parts.append(f"{title}:\n\n" + table(head, [*rows, *(extra or {}).get(key, [])]))
    return "\n\n".join(parts)


def _memory_row(title: str, one: Overflow) -> tuple[str, ...]:
    return (
        title,
        f"{one.requests:,}",
        f"{one.delta:g}",
        f"{one.base_tokens:,.0f}",
        f"{one.required_tokens:,.0f}",
        f"{one.hits}/{one.seeds} (≤ {one.limits[1]:.1%})",
        f"{one.quantile_tokens:,.0f}",
        f"{one.used:.0%}" if one.used > 0 else "none",
    )


def _mean(key: str, values: np.ndarray) -> str:
    interval = mean_interval(values * (100.0 if key in _PERCENT else 1.0))
    return f"{number(interval.mean)} ± {interval.high - interval.mean:.2g}"


def _chapter(title: str, says: str, body: str) -> str:
    return f"### {title}\n\n{says}\n\n{body}"
