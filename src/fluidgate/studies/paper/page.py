"""The tables of the paper's studies, as a Markdown page."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fluidgate.fluid import PromptBound
from fluidgate.studies.markdown import number, section, table
from fluidgate.studies.paper.claims import judged_claims, machines_of
from fluidgate.studies.paper.cycle import (
    LENGTHS,
    POISSON_LENGTHS,
    POISSON_LOADS,
    CycleRun,
    cycle_share,
    largest_pace,
)
from fluidgate.studies.paper.decode_page import decode_server
from fluidgate.studies.paper.memory import (
    CAPACITY_TOKENS,
    MEAN_KV_ITERATIONS,
    PUBLISHED,
    SEGMENT_COUNTS,
    fluid_memory,
    guaranteed_rate,
    preset_memory,
)
from fluidgate.studies.paper.mixing_page import mixing
from fluidgate.studies.paper.scaling_page import scaling_section
from fluidgate.studies.paper.settings import CHUNKS, MACHINES, NEAR_BOUNDARY_S, SEARCHED, STUDIES, schedulers
from fluidgate.studies.paper.study import PARTS, SATURATED, Cell, PaperResult, Row, at_equal_chunks
from fluidgate.studies.paper.theory_claims import poisson_growth

POLICIES = ("greedy", "rate-limited")

MAX_STUCK = 0.5
"""Where fewer of the requests complete, their rate says nothing."""


def paper_page(result: PaperResult) -> str:
    """All tables of the parts that were run, and which claims came out."""
    sections = [_intro(result), _claims(result)]
    sections += [chapter(result) for part, chapter in _SECTIONS.items() if result.has(part)]
    return "\n\n".join(sections) + "\n"


def _intro(result: PaperResult) -> str:
    scale = result.scale
    machines = "\n".join(f"| {name} | {machine.title} |" for name, machine in MACHINES.items())
    return (
        "# The papers' studies: all tables\n\n"
        f"Means over {scale.seeds} paired seeds, {scale.requests:,} requests per run, {SATURATED} times as many where "
        f"saturated; from `{_command(result)}`. As in the papers, requests of any length are served. "
        "[The papers, run again](paper.md) has settings and conclusions.\n\n"
        f"| machine | what it is, on an A100-80GB |\n| --- | --- |\n{machines}\n\n"
        "A study without a machine in its name runs on the four-term one."
    )


def _command(result: PaperResult) -> str:
    scale, parts = result.scale, [part for part in PARTS if result.has(part)]
    words = ["fluidgate experiment paper", *(f"--part {part}" for part in parts if len(parts) < len(PARTS))]
    return " ".join([*words, f"--requests {scale.requests} --seeds {scale.seeds}"])


def _claims(result: PaperResult) -> str:
    note = (
        "*Reproduced* is a claim that holds with Vidur's steps or the line fitted to them. Whose a difference is: "
        "*ours, mended*: it was of the four-term step time, and is gone with Vidur's steps; *the paper's*: the table "
        "named last shows another cause than the paper, or only what the paper's setting does not state gives its "
        "numbers; *open*: the cause is not known. 10% of a rate and 25% of a latency count as equal."
    )
    rows = [
        (claim.what, claim.published, claim.measured, claim.verdict, claim.owner, claim.shown)
        for claim in judged_claims(result)
    ]
    head = ("claim", "published", "here", "verdict", "whose difference", "shown by")
    return section("Claims", note, table(head, rows, numbers=False))


def _theory(result: PaperResult) -> str:
    parts = [
        "### M\\* of LMSYS against C\n\n" + _memory(result),
        "### Segments of Nested WAIT: the largest guaranteed rate, req/s\n\n" + _guarantees(),
        "### The limit cycle: a saturated queue of equal requests\n\n" + _cycles(result),
        "### Poisson arrivals: share of the arriving requests that remain unserved\n\n" + _poisson(result),
    ]
    return section("Formulas", *parts)


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
    return table(head, rows)


def _guarantees() -> str:
    bounds: tuple[tuple[str, PromptBound], ...] = (("mean prompts", "mean"), ("largest prompts", "max"))
    rows = [(label, *(f"{guaranteed_rate(count, bound):.1f}" for count in SEGMENT_COUNTS)) for label, bound in bounds]
    return table(("L", *(str(count) for count in SEGMENT_COUNTS)), rows)


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
    return table(head, rows)


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
    return table(("arrival rate ÷ x*", *(f"{load:g}" for load in POISSON_LOADS)), rows)


def _stable_rates(result: PaperResult) -> str:
    parts = []
    for workload in _workloads():
        names = machines_of(workload)
        published = dict(STUDIES[workload].published)
        rows = []
        for who in result.schedulers("stable-rate", workload):
            ran = [who in schedulers(STUDIES[name]) for name in names.values()]
            cells = [
                _rate(result.row("stable-rate", Cell(name, who))) if has else "–"
                for name, has in zip(names.values(), ran, strict=True)
            ]
            rows.append((who, f"{published[who]:g}" if who in published else "–", *cells))
        parts.append(f"### {workload}: largest stable rate\n\n" + table(("", "published", *names), rows))
    note = "In brackets: the B (and L, if not 1) that the search chose, restarts per request and unfinished requests."
    return section("Largest stable rate, req/s", note, *parts)


def _workloads() -> list[str]:
    return list(dict.fromkeys(study.preset for study in STUDIES.values()))


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
    columns = [(name, chunk) for name in at_equal_chunks() for chunk in CHUNKS]
    rows = [
        (who, *(_rate(result.row("equal-chunks", Cell(name, who, None, chunk))) for name, chunk in columns))
        for who in result.schedulers("equal-chunks", next(iter(STUDIES)))
    ]
    head = ("", *(f"{name}, {chunk}" for name, chunk in columns))
    return section("Largest stable rate at equal tokens per iteration, req/s", table(head, rows))


def _latency(result: PaperResult) -> str:
    parts = []
    for name, study in STUDIES.items():
        head = ("req/s", *(f"{rate:g}" for rate in study.rates))
        tables = [f"{what}:\n\n" + table(head, _over_rates(result, name, text)) for what, text in _MEASURES.items()]
        if any(row.mean("restarts") > 0 for row in result.rows if row.part == "latency" and row.cell.study == name):
            rows = _over_rates(result, name, lambda row: f"{row.mean('restarts'):.3f}")
            tables.append("Restarts per request:\n\n" + table(head, rows))
        chosen = [_setting(result.row("latency", Cell(name, SEARCHED, rate))) for rate in study.rates]
        tables.append("The search for B:\n\n" + table(head, [(SEARCHED, *chosen)]))
        parts.append("\n\n".join([f"### {name}", *tables]))
    note = "Studies without a table of restarts had none."
    title = "Latency and completion rate by arrival rate"
    return section(title, _near_boundary(result), note, *parts, _by_segments(result))


def _near_boundary(result: PaperResult) -> str:
    """The paper's repeated runs beside every machine's."""
    parts = ["### Latency near the boundary: mean E2E, seconds"]
    for workload, published in NEAR_BOUNDARY_S.items():
        names = machines_of(workload)
        rows = [
            (
                f"{who}, {rate:g} req/s",
                number(goal),
                *(number(result.row("latency", Cell(name, who, rate)).mean("mean_e2e_s")) for name in names.values()),
            )
            for who, goals in published.items()
            for rate, goal in goals.items()
        ]
        parts.append(f"{workload}:\n\n" + table(("", "published", *names), rows))
    return "\n\n".join(parts)


_MEASURES: dict[str, Callable[[Row], str]] = {
    "Mean E2E latency, seconds": lambda row: number(row.mean("mean_e2e_s")),
    "Effective completion rate, req/s": lambda row: number(row.mean("completion_rate")),
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
            best = (min(reached for (_, of), reached in search.items() if of == count) for search in searches)
            rows.append((str(count), *(number(value) for value in best)))
        tables.append(f"{name}:\n\n" + table(("L", *(f"{rate:g}" for rate in study.rates)), rows))
    return "\n\n".join(["### Nested WAIT by number of segments, mean E2E at the best B, seconds", *tables])


_SECTIONS: dict[str, Callable[[PaperResult], str]] = {
    "theory": _theory,
    "scaling": scaling_section,
    "stable-rate": _stable_rates,
    "equal-chunks": _equal_chunks,
    "latency": _latency,
    "decode-server": decode_server,
    "mixing": mixing,
}
