"""The tables of the paper's studies, as a Markdown page."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from fluidgate.fluid import PromptBound
from fluidgate.studies.paper.claims import judged_claims, poisson_growth
from fluidgate.studies.paper.cycle import (
    LENGTHS,
    POISSON_LENGTHS,
    POISSON_LOADS,
    CycleRun,
    cycle_share,
    largest_pace,
)
from fluidgate.studies.paper.memory import (
    CAPACITY_TOKENS,
    MEAN_KV_ITERATIONS,
    PUBLISHED,
    SEGMENT_COUNTS,
    fluid_memory,
    guaranteed_rate,
    preset_memory,
)
from fluidgate.studies.paper.settings import CHUNKS, SEARCHED, STUDIES
from fluidgate.studies.paper.study import SATURATED, Cell, PaperResult, Row

POLICIES = ("greedy", "rate-limited")

MAX_STUCK = 0.5
"""Where fewer of the requests complete, their rate says nothing."""


def paper_page(result: PaperResult) -> str:
    """All tables of the parts that were run, and which claims came out."""
    sections = [_intro(result), _claims(result)]
    sections += [section(result) for part, section in _SECTIONS.items() if result.has(part)]
    return "\n\n".join(sections) + "\n"


def _intro(result: PaperResult) -> str:
    scale = result.scale
    return (
        "# The papers' studies: all tables\n\n"
        f"Means over {scale.seeds} paired seeds, {scale.requests:,} requests per run, {SATURATED} times as many where "
        "saturated; from `fluidgate experiment paper`. As in the papers, requests of any length are served. "
        "[The papers, run again](paper.md) has settings and conclusions."
    )


def _claims(result: PaperResult) -> str:
    rows = [(claim.what, claim.published, claim.measured, claim.verdict) for claim in judged_claims(result)]
    return _section("Claims", _table(("claim", "published", "here", "verdict"), rows, numbers=False))


def _theory(result: PaperResult) -> str:
    parts = [
        "### M\\* of LMSYS against C\n\n" + _memory(result),
        "### Segments of Nested WAIT: the largest guaranteed rate, req/s\n\n" + _guarantees(),
        "### The limit cycle: a saturated queue of equal requests\n\n" + _cycles(result),
        "### Poisson arrivals: share of the arriving requests that remain unserved\n\n" + _poisson(result),
    ]
    return _section("Formulas", *parts)


def _memory(result: PaperResult) -> str:
    rows = []
    for rate, published in PUBLISHED.items():
        runs = [numbers for run, numbers in result.memory.items() if run.rate == rate]
        measured = f"{np.mean([numbers['kv_tokens'] for numbers in runs]):,.0f}" if runs else "–"
        predicted = f"{np.mean([numbers['predicted_tokens'] for numbers in runs]):,.0f}" if runs else "–"
        preset = f"{preset_memory(rate):,.0f}"
        formula = f"{fluid_memory(rate):,.0f}"
        share = f"{fluid_memory(rate) / CAPACITY_TOKENS:.2f}"
        rows.append((f"{rate:g}", f"{published:,.0f}", formula, share, preset, predicted, measured))
    head = (
        "req/s",
        "published",
        f"formula, a = {MEAN_KV_ITERATIONS:,.0f}",
        "÷ C",
        "formula, preset lengths",
        "the same, as drawn",
        "simulated",
    )
    return _table(head, rows)


def _guarantees() -> str:
    bounds: tuple[tuple[str, PromptBound], ...] = (("mean prompts", "mean"), ("largest prompts", "max"))
    rows = [(label, *(f"{guaranteed_rate(count, bound):.1f}" for count in SEGMENT_COUNTS)) for label, bound in bounds]
    return _table(("L", *(str(count) for count in SEGMENT_COUNTS)), rows)


def _cycles(result: PaperResult) -> str:
    runs = {(r.prompt, r.output, r.policy): numbers for r, numbers in result.cycles.items() if r.load is None}
    rows = []
    for lengths in LENGTHS:
        greedy, paced = (runs[(*lengths, policy)] for policy in POLICIES)
        best = largest_pace(*lengths)
        rows.append(
            (
                f"{lengths[0]} / {lengths[1]}",
                f"{cycle_share(*lengths):.4f}",
                f"{greedy['per_iteration'] / best:.4f}",
                f"{greedy['restarts']:.2f}",
                f"{paced['per_iteration'] / best:.4f}",
                f"{paced['restarts']:.2f}",
            )
        )
    head = ("prompt / output", "(2l+o+1)/(2(l+o))", "greedy ÷ x*", "restarts", "paced ÷ x*", "restarts")
    return _table(head, rows)


def _poisson(result: PaperResult) -> str:
    rows = [
        (
            f"{policy}, {'from a backlog' if backlog else 'from empty'}",
            *(
                f"{poisson_growth(result, CycleRun(*POISSON_LENGTHS, policy, 0, 0, load, backlog)):.3f}"
                for load in POISSON_LOADS
            ),
        )
        for policy in POLICIES
        for backlog in (False, True)
    ]
    return _table(("arrival rate ÷ x*", *(f"{load:g}" for load in POISSON_LOADS)), rows)


def _stable_rates(result: PaperResult) -> str:
    names = list(STUDIES)
    rows = []
    for scheduler in result.schedulers("stable-rate", names[0]):
        study_rows = [result.row("stable-rate", Cell(name, scheduler)) for name in names]
        rows.append((scheduler, *(_rate(row) for row in study_rows)))
    published = [", ".join(f"{who} {rate:g}" for who, rate in STUDIES[name].published) or "–" for name in names]
    note = "In brackets: the B (and L, if not 1) that the search chose, restarts per request and unfinished requests."
    return _section("Largest stable rate, req/s", note, _table(("", *names), [*rows, ("published", *published)]))


def _rate(row: Row) -> str:
    if row.mean("completed") < MAX_STUCK:
        return f"stalls ({1 - row.mean('completed'):.0%} unfinished)"
    notes = [_setting(row)] if row.setting else []
    if row.mean("restarts") > 0:
        notes.append(f"{row.mean('restarts'):.2f} restarts")
    if row.mean("completed") < 1:
        notes.append(f"{1 - row.mean('completed'):.0%} unfinished")
    return f"{row.mean('service_rate'):.2f}" + (f" ({', '.join(notes)})" if notes else "")


def _setting(row: Row) -> str:
    assert row.setting is not None
    cap, segments = row.setting
    return f"B {cap}" + (f", L {segments}" if segments > 1 else "")


def _equal_chunks(result: PaperResult) -> str:
    columns = [(name, chunk) for name in STUDIES for chunk in CHUNKS]
    rows = [
        (who, *(_rate(result.row("equal-chunks", Cell(name, who, None, chunk))) for name, chunk in columns))
        for who in result.schedulers("equal-chunks", next(iter(STUDIES)))
    ]
    head = ("", *(f"{name}, {chunk}" for name, chunk in columns))
    return _section("Largest stable rate at equal tokens per iteration, req/s", _table(head, rows))


def _latency(result: PaperResult) -> str:
    parts = []
    for name, study in STUDIES.items():
        head = ("req/s", *(f"{rate:g}" for rate in study.rates))
        tables = [f"{what}:\n\n" + _table(head, _over_rates(result, name, text)) for what, text in _MEASURES.items()]
        if any(row.mean("restarts") > 0 for row in result.rows if row.part == "latency" and row.cell.study == name):
            rows = _over_rates(result, name, lambda row: f"{row.mean('restarts'):.3f}")
            tables.append("Restarts per request:\n\n" + _table(head, rows))
        chosen = [_setting(result.row("latency", Cell(name, SEARCHED, rate))) for rate in study.rates]
        tables.append("The search for B:\n\n" + _table(head, [(SEARCHED, *chosen)]))
        parts.append("\n\n".join([f"### {name}", *tables]))
    note = "Studies without a table of restarts had none."
    return _section("Latency and completion rate by arrival rate", note, *parts, _by_segments(result))


_MEASURES: dict[str, Callable[[Row], str]] = {
    "Mean E2E latency, seconds": lambda row: _number(row.mean("mean_e2e_s")),
    "Effective completion rate, req/s": lambda row: _number(row.mean("completion_rate")),
}


def _over_rates(result: PaperResult, name: str, text: Callable[[Row], str]) -> list[tuple[str, ...]]:
    return [
        (who, *(text(result.row("latency", Cell(name, who, rate))) for rate in STUDIES[name].rates))
        for who in result.schedulers("latency", name)
    ]


def _by_segments(result: PaperResult) -> str:
    """The least latency over B of every L, on the draw of the search."""
    tables = []
    for name, study in STUDIES.items():
        if len(study.segments) == 1:
            continue
        rows = []
        for count in study.segments:
            searches = [result.searched[Cell(name, SEARCHED, rate)] for rate in study.rates]
            rows.append((str(count), *(_number(min(search[cap, count] for cap in study.caps)) for search in searches)))
        tables.append(f"{name}:\n\n" + _table(("L", *(f"{rate:g}" for rate in study.rates)), rows))
    return "\n\n".join(["### Nested WAIT by number of segments, mean E2E at the best B, seconds", *tables])


_SECTIONS: dict[str, Callable[[PaperResult], str]] = {
    "theory": _theory,
    "stable-rate": _stable_rates,
    "equal-chunks": _equal_chunks,
    "latency": _latency,
}


def _number(value: float) -> str:
    """Three digits; a dash where a request of the window never finished."""
    if not np.isfinite(value):
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _section(title: str, *parts: str) -> str:
    return "\n\n".join([f"## {title}", *parts])


def _table(head: Iterable[str], rows: Iterable[Iterable[str]], *, numbers: bool = True) -> str:
    lines = [list(head), *(list(row) for row in rows)]
    ruled = [lines[0], ["---"] + ["---:" if numbers else "---"] * (len(lines[0]) - 1), *lines[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in ruled)
