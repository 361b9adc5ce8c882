"""The page of the scaling study: every rule on every shape of traffic, what it lost and what it cost."""

from __future__ import annotations

from collections.abc import Sequence

from fluidgate.runs.scaling import HeldLoad
from fluidgate.studies.markdown import section, table
from fluidgate.studies.scaling.study import (
    LIMITS,
    MACHINES,
    PATIENCE_S,
    PRESET,
    PROMISE_S,
    RULES,
    Row,
    ScalingResult,
)
from fluidgate.studies.scaling.traffic import SHAPES
from fluidgate.words import number, percent

ALLOWED = 0.01
"""The share of requests that may be late."""

COLUMNS = ("rule", "late", "lost", "replica-hours", "÷ fixed", "most", "starts", "promise")


def scaling_page(result: ScalingResult, command: str) -> str:
    """Markdown; `command` is what made it."""
    machines = list(result.held)
    parts = [
        "# Scaling over the day: results",
        f"Made by `{command}`; [](scaling.md) explains it. All rules see the same requests, of {result.seeds} seeds: "
        "shares are of all of them together, other numbers are means over the seeds.",
        _setting(),
        table(("rule", "asks for"), ((name, words) for name, (words, _) in RULES.items()), numbers=False),
        section("What a replica is given", *(_held(name, result.held[name]) for name in machines)),
        section("In how many cases the promise is kept", _counts(result)),
    ]
    for name in machines:
        for shape in SHAPES:
            rows = [row for row in result.rows if (row.machine, row.shape) == (name, shape)]
            if rows:
                parts.append(section(f"{MACHINES[name]}, {shape}", _shape(shape), _table(rows)))
    return "\n\n".join(parts) + "\n"


def _setting() -> str:
    return (
        f"Requests of {PRESET}, whose rate also fluctuates by itself. Late: without a first token after "
        f"{PROMISE_S:g} s; at most {percent(ALLOWED)} may be. Lost: the client has given up, after {PATIENCE_S:g} s. A "
        f"replica is paid for from its start-up until its last request has left; there are {LIMITS.least} to "
        f"{LIMITS.most}. All rules but the last act through Kubernetes' autoscaler: every 15 s, with "
        f"its tolerance of {percent(LIMITS.tolerance)}, and down to the most of the last {LIMITS.stabilise_s:g} s."
    )


def _held(name: str, held: HeldLoad) -> str:
    return (
        f"{MACHINES[name]}: {number(held.replica_rate)} req/s, {percent(held.load)} of the boundary of "
        f"{number(held.boundary_rate)} req/s: the largest load, in steps of 5%, at which the promise holds on a fleet "
        f"of three. {number(held.residents)} requests are in a replica then."
    )


def _shape(name: str) -> str:
    shape = SHAPES[name]
    points = [f"{rate:g} at {minute:g} min" for minute, rate in zip(shape.minutes, shape.rates, strict=True)]
    return f"The rate, in replicas: {', '.join(points)}. A replica starts in {shape.startup_s:g} s."


def _counts(result: ScalingResult) -> str:
    cases = len(result.rows) // len(RULES)
    lines = []
    for rule in RULES:
        rows = [row for row in result.rows if row.rule == rule]
        kept = sum(is_kept(row) for row in rows)
        costs = [_cost(result.rows, row) for row in rows]
        lost = max(row.share("lost_share") for row in rows)
        lines.append((rule, f"{kept} of {cases}", _share(lost), f"{min(costs):.2f} to {max(costs):.2f}"))
    return table(("rule", "kept", "most lost", "replica-hours ÷ fixed"), lines)


def _table(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        shares = [_share(row.share(name)) for name in ("late_share", "lost_share")]
        hours = f"{row.mean('replica_hours'):.2f}"
        counts = [f"{row.mean(name):.1f}" for name in ("most", "starts")]
        lines.append((row.rule, *shares, hours, f"{_cost(rows, row):.2f}", *counts, "kept" if is_kept(row) else "–"))
    return table(COLUMNS, lines)


def is_kept(row: Row) -> bool:
    """Whether few enough requests are late, over all seeds together."""
    return row.share("late_share") <= ALLOWED


def _cost(rows: Sequence[Row], row: Row) -> float:
    """Replica-hours over those of the fixed fleet."""
    fixed = next(r for r in rows if (r.machine, r.shape, r.rule) == (row.machine, row.shape, "fixed"))
    return row.mean("replica_hours") / fixed.mean("replica_hours")


def _share(value: float) -> str:
    return f"{value:.2%}"
