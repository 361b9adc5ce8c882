"""`write_size_report`: a sizing as one self-contained HTML file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from math import isfinite
from pathlib import Path

from fluidgate.output import write_text
from fluidgate.report.grid_table import grid_cell, grid_head, grid_row, grid_table
from fluidgate.report.html import Html, document, fold, head, join, row, table, tag
from fluidgate.report.sections import settings, step_time_text
from fluidgate.report.serving_lines import command as copied_line
from fluidgate.report.size_chart import cost_chart
from fluidgate.report.size_grid import fleet_map, map_legend, ruled_out
from fluidgate.report.size_table import COLUMNS, WANTS, impossible, missed, proved, size_title, trap
from fluidgate.report.words import capital, cost_text, counted, duration, whole_percent
from fluidgate.runs.size import Cheaper, Machine, Option, Proof, Sizing, fleet_label
from fluidgate.runs.size.proof import FRESH
from fluidgate.version import version
from fluidgate.words import number, percent

MAP_NOTE = (
    "Each cell is so many replicas of a machine, at its best setting, and what it costs. Counts rise until one holds; "
    "a cell without a word was not needed, and where there is none, a fleet would have more GPUs than are allowed."
)
CHART_NOTE = "Every machine's cheapest fleet that holds; ringed: the answer. Down and to the left is better."
TABLE_NOTE = (
    "The fleets that hold, the cheapest first: means over the runs that decided. Room: how much more traffic until an "
    "objective breaks."
)


def write_size_report(
    sizing: Sizing, path: str | os.PathLike[str], command: str | None = None, serve: str | None = None
) -> Path:
    """Write the page: self-contained, loads nothing from elsewhere, and readable in full without scripts.

    Args:
        path: the file; its folder must exist.
        command: what was typed to make it, for the last section.
        serve: the line that serves a replica of the answer.

    Returns:
        The path written.

    Raises:
        InputError: the file cannot be written.
    """
    target = Path(path)
    links = [("Fleets tried", "map"), ("Ruled out", "ruled-out"), ("How it was made", "made")]
    sections = [_answer(sizing, serve), _map(sizing)]
    if sizing.answer is not None and sizing.proof is not None:
        links.insert(1, ("Proof", "proof"))
        inside = "the cheaper fleets, where each objective breaks, how much slower steps may be"
        sections.append(fold("proof", "The proof", inside, _proof(sizing, sizing.answer, sizing.proof), printed=True))
    sections += [
        fold("ruled-out", "What was ruled out", "every fleet that does not hold, and why", ruled_out(sizing)),
        fold("made", "How it was made", "command, version, seeds, settings, step times", _made(sizing, command)),
    ]
    runs, requests = counted(sizing.runs, "simulation"), counted(sizing.requests, "request")
    subtitle = f"The cheapest fleet: {counted(len(sizing.machines), 'machine')}, {runs} of up to {requests}."
    write_text(target, document(size_title(sizing), sections, subtitle, links))
    return target


def _answer(sizing: Sizing, serve: str | None) -> Html:
    """The card at the top: what to use, why, the line that serves it, and the fleets that hold."""
    answer, proof = sizing.answer, sizing.proof
    if answer is None or proof is None:
        headline, *reasons = [*impossible(sizing), *trap(sizing)]
        return _card(headline, reasons)
    use = f"Use {answer.label} with {answer.flags.words}"
    first, *others = proved(sizing, answer, proof)
    reasons = [capital(first.removeprefix(f"{use}: ")), *others]
    used = [tag("p", tag("strong", "On every replica")), copied_line(serve, "serve")] if serve else []
    return _card(
        f"{use}: {cost_text(sizing, answer.cost)}.",
        reasons,
        tag("div", *used, class_="use"),
        tag("figure", cost_chart(sizing), tag("figcaption", CHART_NOTE)),
        _options(sizing),
    )


def _card(headline: str, reasons: list[str], *parts: Html) -> Html:
    said = [tag("h2", "The answer"), tag("p", headline, class_="answer"), *(tag("p", reason) for reason in reasons)]
    card = tag("article", tag("div", *said, class_="why"), *parts, class_="card answer-card")
    return tag("section", card, class_="answers", aria_label="Which fleet to use")


def _options(sizing: Sizing) -> Html:
    shown = [column for column in COLUMNS if column.only(sizing)]
    heads = [column.heading.replace("\n", " ") for column in shown]
    rows = []
    for option in sizing.options:
        label = tag("strong", option.label, class_="pick") if option is sizing.answer else option.label
        cells = [grid_cell(name, column.text(option)) for column, name in zip(shown, heads, strict=True)]
        rows.append(grid_row(label, *cells, grid_cell("settings", option.flags.words, class_="text")))
    titles = [grid_head(name) for name in ("fleet", *heads)]
    return grid_table(TABLE_NOTE, [*titles, grid_head("settings", class_="text")], rows)


def _map(sizing: Sizing) -> Html:
    note = tag("p", MAP_NOTE, class_="soft")
    title = tag("h2", "Fleets that were tried", id="map")
    return tag("section", title, note, map_legend(), fleet_map(sizing), class_="tried", aria_labelledby="map")


def _proof(sizing: Sizing, answer: Option, proof: Proof) -> Html:
    """On seeds that the search never saw: the answer, the cheaper fleets, and how far the answer holds."""
    objectives = zip(sizing.objectives, proof.outcome.values, proof.breaks, strict=True)
    rows = [
        row(
            capital(objective.words),
            tag("td", objective.text(value)),
            tag("td", _break(sizing, part.growth)),
        )
        for objective, value, part in objectives
    ]
    caption = f"{answer.label}, {counted(proof.outcome.runs, 'run')}: mean over runs, and the rate at which it breaks"
    promised = table(caption, [head("objective"), head("reached"), head("breaks at")], rows)
    cheaper = [_cheaper_row(sizing, below) for below in proof.cheaper]
    heads = [head("cheaper fleet"), head("cost"), head("settings", class_="text"), head("why not", class_="text")]
    beaten = [table("Cheaper fleets, the dearest first", heads, cheaper)] if cheaper else []
    causes = "" if proof.cause is None else f" The first objective to break does so {WANTS[proof.cause]}."
    slower = tag("p", f"All of them hold if every step takes up to {whole_percent(proof.slowdown)} longer.{causes}")
    hint = [tag("p", sentence) for sentence in trap(sizing)]
    return join([promised, *beaten, slower, *hint])


def _break(sizing: Sizing, growth: float) -> str:
    if not isfinite(growth):
        return "no rate that was tried"
    return f"{number(growth * sizing.rate)} req/s (×{number(growth)})"


def _cheaper_row(sizing: Sizing, below: Cheaper) -> Html:
    cost = cost_text(sizing, below.replicas * below.machine.unit_cost)
    why = below.why
    if below.outcome is not None:
        state = "fails" if below.outcome.holds is False else "undecided"
        why = f"{state} in {counted(below.outcome.runs, 'run')}: {missed(sizing, below.outcome)}"
    words = below.flags.words if below.outcome is not None else "any"
    label = fleet_label(below.machine, below.replicas)
    return row(label, tag("td", cost), tag("td", words, class_="text"), tag("td", why, class_="text"))


def _made(sizing: Sizing, command: str | None) -> Html:
    """Everything needed to reproduce the numbers."""
    facts = table("Settings", [], [row(name, tag("td", text, class_="text")) for name, text in _facts(sizing, command)])
    heads = [head("machine"), head("price, GPU and hour"), head("KV blocks"), head("step times", class_="text")]
    return join([facts, table("Machines", heads, list(map(_machine_row, sizing.machines)))])


def _facts(sizing: Sizing, command: str | None) -> Iterator[tuple[str, str]]:
    certainty, proof = sizing.certainty, sizing.proof
    yield "fluidgate", version()
    if command:
        yield "command", command
    yield "workload", f"{sizing.workload}, {number(sizing.rate)} req/s"
    yield "a long run", f"up to {counted(sizing.requests, 'request')}, {duration(sizing.long_s)}"
    yield "a short run", duration(sizing.short_s)
    yield "runs in all", f"{sizing.runs:,}"
    yield "seeds", f"of the search from {sizing.seed} on, of the proof from {sizing.seed + FRESH:,} on"
    certain = f"{percent(certainty.alpha)} at most, in up to {counted(certainty.replications, 'run')}"
    yield "a decision of the search is wrong with", certain
    if proof is not None:
        yield "runs of the proof", f"{proof.outcome.runs} of the answer"
    yield "settings tried", settings(asdict(sizing.choices))
    yield "engine", settings(asdict(sizing.config))


def _machine_row(machine: Machine) -> Html:
    price = "not given" if machine.price is None else f"{machine.price:g}"
    hardware = machine.hardware
    if hardware is None:
        return row(machine.label, tag("td", price), tag("td", "–"), tag("td", machine.why_not, class_="text"))
    source = tag("td", hardware.source or "source not given", tag("small", step_time_text(hardware)), class_="text")
    return row(machine.label, tag("td", price), tag("td", f"{hardware.num_gpu_blocks:,}"), source)
