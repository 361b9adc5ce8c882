"""The tables of the deadlines study, as a Markdown page."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from fluidgate.fluid.deadlines import ServedShare
from fluidgate.metrics import mean_interval
from fluidgate.studies.deadlines.cases import (
    FITS,
    GPU,
    LONG,
    MODEL,
    STUDIED,
    SURGE,
    TTFT,
    WORKLOADS,
    boundary_plan,
    bounds,
    service_s,
    span,
)
from fluidgate.studies.deadlines.changes import BEFORE, CHANGES, PATIENCE, START_LOAD, STEADY, ChangeRow
from fluidgate.studies.deadlines.study import (
    BEST_CAP,
    CAPS,
    DROPPING,
    FLUID,
    KNOWN,
    MOST_REQUESTS,
    STOCK,
    TUNING_SEEDS,
    DeadlinesResult,
    Row,
)
from fluidgate.studies.deadlines.targets import STEADY_AGAIN, back_again, judged_targets
from fluidgate.studies.markdown import section, table
from fluidgate.words import number, percent


def deadlines_page(result: DeadlinesResult, command: str) -> str:
    """Markdown; `command` is what made it."""
    intro = (
        f"Made by `{command}`; [](deadlines.md) explains it. Means over {result.seeds} paired seeds, with 95% "
        "intervals where there is a ±. What completes is a share of the requests sent."
    )
    parts = ["# Deadlines: results", intro, section("Targets", _targets(result)), section("Workloads", *_workloads())]
    if "cells" in result.parts:
        parts.append(section("Runs", _length(result), *_left_out(result)))
        for workload in WORKLOADS:
            for patience in STUDIED:
                rows = [row for row in result.rows if (row.cell.workload, row.cell.patience) == (workload, patience)]
                if rows:
                    parts.append(section(f"{workload}, {_named(patience)}", _fits(rows), _cells(rows)))
        parts.append(section("Not knowing lengths", *_price(result.rows)))
        parts.append(section("Who pays", *_who_pays(result.rows)))
    if "waits" in result.parts:
        parts.append(section("Waits told at arrival", *_waits(result.rows)))
    if "changes" in result.parts:
        parts.append(section("Changes midway", *_changes(result.changes)))
    return "\n\n".join(parts) + "\n"


def _named(patience: str) -> str:
    return patience if patience == TTFT else f"timeout {patience}"


def _targets(result: DeadlinesResult) -> str:
    rows = [
        (target.what, target.goal, target.measured, target.verdict, target.where) for target in judged_targets(result)
    ]
    return table(("target for `fluid`", "wanted", "worst", "verdict", "where it is worst"), rows, numbers=False)


def _workloads() -> list[str]:
    lines = []
    for workload in WORKLOADS:
        plan = boundary_plan(workload)
        stable, lengths = plan.stability, (plan.mix.mean_prompt_tokens, plan.mix.mean_output_tokens)
        facts = (number(stable.boundary_rate), stable.limit, number(stable.residents))
        times = (f"{1e3 * stable.iteration_time_s:.1f}", number(float(service_s(workload).mean())))
        lines.append((workload, *map(number, lengths), *facts, *times))
    head = ("workload", "prompt", "output", "boundary, req/s", "what binds", "residents", "iteration, ms", "service, s")
    return [f"{MODEL} on one {GPU}; mean lengths in tokens, the rest at the stability boundary.", table(head, lines)]


def _length(result: DeadlinesResult) -> str:
    least = min(span(row.cell, result.requests).end_s - span(row.cell, result.requests).begin_s for row in result.rows)
    return (
        "The machine fills for two mean services. Above the boundary the queue is then built up: requests come at load "
        f"{SURGE:g} (or the cell's, if that is larger) until stock's wait has reached its steady value W in the model, "
        "for W/(load − 1) seconds, and one more mean service goes by. The measured requests then come "
        f"for {LONG:g} times the patience, or {LONG:g} mean services if that is longer, but no more than "
        f"{result.requests:,} requests or what comes in one patience (the shortest takes {number(least)} s). "
        "Others go on coming for one patience after them. Plans and priors know a draw of their own. The cap is the "
        "best of "
        f"{', '.join(map(str, CAPS))} on {TUNING_SEEDS} further seeds."
    )


def _left_out(result: DeadlinesResult) -> list[str]:
    if not result.left_out:
        return []
    names = "; ".join(map(str, result.left_out))
    return [f"Left out, since more than {MOST_REQUESTS:,} requests would come in a run: {names}."]


def _fits(rows: Sequence[Row]) -> str:
    row = rows[0]
    if row.cell.patience == TTFT:
        evictions = max(row.mean("lifo", "preemptions") for row in rows)
        model = "The model gives two shares for stock: all late prompts are computed in vain, or none."
        stalls = (
            " A client with a first token waits for ever: requests count that LIFO evicts up to {} times on average."
        )
        return model + (stalls.format(number(evictions)) if evictions >= 1.0 else "")
    return f"At the boundary's pace {percent(row.cell.fits)} of the services fit into the timeout."


def _cells(rows: Sequence[Row]) -> str:
    head = (
        "load",
        STOCK,
        "lifo",
        "codel",
        "best cap",
        KNOWN,
        FLUID,
        *([DROPPING] if DROPPING in rows[0].values else []),
    )
    head = (*head, "÷ known", "÷ cap", "÷ stock", "wasted: stock, fluid", "model: stock, in order, any")
    lines = []
    for row in rows:
        shares = [_share(row.mean(name)) for name in (STOCK, "lifo", "codel")]
        shares += [f"{_share(row.mean(BEST_CAP))} ({row.cap})", _share(row.mean(KNOWN)), _with_interval(row, FLUID)]
        shares += [_share(row.mean(DROPPING))] if DROPPING in row.values else []
        over = [_ratio(row.over(FLUID, other)) for other in (KNOWN, BEST_CAP, STOCK)]
        wasted = ", ".join(percent(round(row.mean(name, "wasted"), 3)) for name in (STOCK, FLUID))
        lines.append((f"{row.cell.load:g}", *shares, *over, wasted, _model(row)))
    return table(head, lines)


def _model(row: Row) -> str:
    model = bounds(row.cell)
    stock = _stock(model.stock, model.stock_at_least)
    return f"{stock}, {_share(model.in_order.completed)}, {_share(model.any_order)}"


def _stock(stock: ServedShare, at_least: float) -> str:
    apart = stock.wait_s > 0.0 and stock.completed - at_least >= 0.0005
    return f"{_share(at_least)} to {_share(stock.completed)}" if apart else _share(stock.completed)


def _price(rows: Sequence[Row]) -> list[str]:
    """`fluid` over known lengths, in order of how many services fit."""
    loads = sorted({row.cell.load for row in rows})
    cases = list(dict.fromkeys((row.cell.fits, row.cell.workload, row.cell.patience) for row in rows))
    lines = []
    for fits, workload, patience in sorted(cases, key=lambda case: case[0]):
        ratios = {
            row.cell.load: _ratio(row.over(FLUID, KNOWN))
            for row in rows
            if (row.cell.workload, row.cell.patience) == (workload, patience)
        }
        lines.append((workload, patience, percent(round(fits, 3)), *(ratios.get(load, "–") for load in loads)))
    head = ("workload", "patience", "services that fit", *(f"load {load:g}" for load in loads))
    what = f"`{FLUID}` ÷ `{KNOWN}`, which starts in order of arrival too and sheds what cannot end in time."
    return [f"{what} The target holds from {percent(FITS)} of services on.", table(head, lines)]


def _who_pays(rows: Sequence[Row]) -> list[str]:
    head = ("cell", "outputs: stock", "outputs: fluid", "prompts: stock", "prompts: fluid")
    lines = []
    for row in rows:
        if row.cell.load > 1.0 and isfinite(row.mean(FLUID, "by_output")):
            shares = [_quarters(row, name, by) for by in ("by_output", "by_prompt") for name in (STOCK, FLUID)]
            lines.append((str(row.cell), *shares))
    what = "What completes of each quarter of the requests, from the shortest to the longest."
    return [what, table(head, lines, numbers=False)]


def _quarters(row: Row, policy: str, by: str) -> str:
    return " / ".join(f"{share:.2f}" for share in row.values[policy][by].mean(axis=0))


def _waits(rows: Sequence[Row]) -> list[str]:
    lines = []
    for row in (row for row in rows if row.cell.load > 1.0):
        values = row.values[FLUID]
        if values["told"].sum() > 0:
            shown = [_pooled(row, name) for name in ("wait_error", "wait_bias", "wait_within")]
            lines.append((str(row.cell), f"{values['told'].sum():,.0f}", *map(_percentage, shown)))
    head = ("cell", "waits", "median error", "median of predicted ÷ came − 1", "within 50%")
    what = (
        "Predicted: requests waiting ÷ starts per second, counted over the latest iterations in which requests waited, "
        f"as `{FLUID}` does it and the middleware takes it. Of those who found a queue and were started; medians are "
        "means over the seeds."
    )
    return [what, table(head, lines)]


def _pooled(row: Row, name: str) -> float:
    values, told = row.values[FLUID][name], row.values[FLUID]["told"]
    seen = told > 0
    return float(values[seen] @ told[seen] / told.sum())


def _changes(rows: Sequence[ChangeRow]) -> list[str]:
    head = ("workload", "what changes", "load", "service, s", "policy", "before", *_columns(), "steady", "back")
    lines = []
    for row in rows:
        for policy in row.success:
            windows = [f"{row.since(policy, services).mean:.3f}" for services in range(BEFORE)]
            before = float(row.success[policy][:, :BEFORE].mean())
            back = _back(row) if policy == FLUID else ""
            course = (f"{row.course.load:.2f}", f"{row.course.window_s:.1f}")
            ends = f"{float(row.steady(policy).mean()):.3f}"
            lines.append((row.workload, CHANGES[row.change], *course, policy, f"{before:.3f}", *windows, ends, back))
    what = (
        f"Load {START_LOAD:g} until the change, timeout {PATIENCE}. What completes of the requests sent in each mean "
        f"service (as it is after the change); steady: in the last {STEADY}, when stock's wait has settled. Back: "
        f"those sent two mean services after the change do at least {percent(STEADY_AGAIN)} as well."
    )
    return [what, table(head, lines, numbers=False)]


def _columns() -> list[str]:
    return [f"+{services} to +{services + 1}" for services in range(BEFORE)]


def _back(row: ChangeRow) -> str:
    return f"{'yes' if back_again(row) >= STEADY_AGAIN else 'no'} ({back_again(row):.2f})"


def _with_interval(row: Row, policy: str) -> str:
    found = mean_interval(row.values[policy]["success"])
    half = found.high - found.mean
    return _share(found.mean) + (f" ± {half:.3f}" if half >= 0.0005 else "")


def _share(value: float) -> str:
    return f"{value:.3f}"


def _ratio(value: float) -> str:
    if not isfinite(value):
        return "–" if value != value else "∞"
    return f"{value:.3f}" if value < 10.0 else number(value)


def _percentage(value: float) -> str:
    return f"{100.0 * value:.1f}%"
