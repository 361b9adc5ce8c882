"""What was found of every fleet: a map of machines by replicas, and in words what is ruled out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from fluidgate.metrics import Objective
from fluidgate.report.html import Html, head, row, table, tag
from fluidgate.report.labels import CHARACTER
from fluidgate.report.size_table import missed
from fluidgate.report.svg import box_legend, svg
from fluidgate.report.words import cost_text, counted, short
from fluidgate.runs.size import Count, Found, Machine, Outcome, Sizing, fleet_label

LABELS, PITCH, HEIGHT, HEAD = 122.0, 58.0, 38.0, 40.0
LONGEST_NAME = 18

HOLDS, FAILS, UNDECIDED = "holds", "fails", "undecided"
OVERLOADED, TOO_SLOW, UNTRIED = "overloaded", "too-slow", "untried"
KINDS = {
    HOLDS: "holds",
    FAILS: "fails: the objective that breaks",
    UNDECIDED: "undecided",
    TOO_SLOW: "too slow even alone (bound)",
    OVERLOADED: "overloaded (bound)",
    UNTRIED: "not needed",
}
"""What a fleet can be, by its style."""


@dataclass(frozen=True)
class Cell:
    """A fleet on the map.

    Attributes:
        kind: a key of `KINDS`.
        label: in its cell.
        why: in words, for a machine's part of a table and under the pointer.
    """

    machine: Machine
    replicas: int
    kind: str
    label: str
    why: str


def cells_of(sizing: Sizing, machine: Machine, found: Found) -> Iterator[Cell]:
    """A machine's counts that were tried; where the proof ran one again, what the proof says."""
    cheaper = sizing.proof.cheaper if sizing.proof is not None else ()
    proved = {below.replicas: below.outcome for below in cheaper if below.machine == machine and below.outcome}
    for count in found.counts:
        outcome = proved.get(count.replicas, count.outcome)
        kind, label = _kind(count, outcome, sizing.objectives)
        yield Cell(machine, count.replicas, kind, label, count.why or _said(sizing, kind, count, outcome))


def fleet_map(sizing: Sizing) -> Html:
    """Machines by replicas; each cell says what was found of the fleet, and what it costs."""
    most = max((count.replicas for found in sizing.found for count in found.counts), default=1)
    parts = [tag("text", "replicas", x=LABELS, y=13, class_="soft")]
    for replicas in range(1, most + 1):
        at = LABELS + PITCH * (replicas - 0.5)
        parts.append(tag("text", str(replicas), x=at, y=31, text_anchor="middle", class_="soft"))
    told = []
    for place, (machine, found) in enumerate(zip(sizing.machines, sizing.found, strict=True)):
        top = HEAD + HEIGHT * place
        cells = {cell.replicas: cell for cell in cells_of(sizing, machine, found)}
        name = tag("text", tag("title", machine.label), short(machine.label, LONGEST_NAME), x=0, y=top + 22)
        parts += [name, *_row(sizing, machine, found, cells, most, top)]
        said = ", ".join(f"{cell.replicas} {cell.label}" for cell in cells.values())
        told.append(f"{machine.label}: {said or _why_none(found)}")
    alt = f"What was found of every fleet, by machine and number of replicas. {'; '.join(told)}."
    width = LABELS + PITCH * most + 2
    drawing = svg(width, HEAD + HEIGHT * len(sizing.machines) + 2, alt, parts)
    inside = tag("div", drawing, class_="map", style=f"--wide: {width:g}px")
    return tag("div", inside, class_="scroll", tabindex="0", role="region", aria_label="Fleets that were tried")


def map_legend() -> Html:
    """The styles of the map's cells."""
    return box_legend((words, {"class_": f"cell {kind}"}) for kind, words in KINDS.items())


def ruled_out(sizing: Sizing) -> Html:
    """Every machine's counts that do not hold, and why; neighbours for the same reason are one row."""
    rows = []
    for machine, found in zip(sizing.machines, sizing.found, strict=True):
        if not found.counts:
            rows.append(row(machine.label, tag("td", "any"), tag("td", _why_none(found), class_="text")))
        beyond = (cell for cell in cells_of(sizing, machine, found) if cell.kind != HOLDS)
        for _, same in groupby(beyond, key=lambda cell: (cell.kind, cell.label)):
            rows.append(_reason(list(same)))
    heads = [head("machine"), head("replicas"), head("why", class_="text")]
    return table("Fleets that do not hold; of several for the same reason, the last one's numbers", heads, rows)


def _reason(same: list[Cell]) -> Html:
    first, last = same[0], same[-1]
    counts = str(last.replicas) if first is last else f"{first.replicas} to {last.replicas}"
    return row(last.machine.label, tag("td", counts), tag("td", last.why, class_="text"))


def _kind(count: Count, outcome: Outcome | None, objectives: Sequence[Objective]) -> tuple[str, str]:
    """What a fleet is, and that in a word."""
    if outcome is None:
        return (OVERLOADED, "overload") if count.overloaded else (TOO_SLOW, "too slow")
    if count.holds:
        return HOLDS, "holds"
    quantity = next(objective.quantity for objective in objectives if str(objective) == outcome.objective)
    name = {"ttft": "TTFT", "tpot": "TPOT", "e2el": "E2E"}.get(quantity, quantity)
    return (FAILS, name) if outcome.holds is False else (UNDECIDED, f"{name} ?")


def _said(sizing: Sizing, kind: str, count: Count, outcome: Outcome | None) -> str:
    assert outcome is not None, "without a run a bound says why"
    runs = f"with {count.flags.words}, in {counted(outcome.runs, 'run')}"
    if kind == HOLDS:
        return f"holds {runs}"
    state = "fails" if kind == FAILS else "is neither shown to hold nor to fail"
    return f"{state} {runs}: {missed(sizing, outcome)}"


def _why_none(found: Found) -> str:
    """Why no count was tried."""
    return found.why_not or "one replica has more GPUs than are allowed"


def _row(
    sizing: Sizing, machine: Machine, found: Found, cells: dict[int, Cell], most: int, top: float
) -> Iterator[Html]:
    if not cells:
        why = _why_none(found)
        fits = max(8, int(most * PITCH / CHARACTER))
        yield tag("text", tag("title", why), short(why, fits), x=LABELS, y=top + 22, class_="soft")
        return
    for replicas in range(1, min(most, sizing.max_gpus // machine.tp) + 1):
        cell = cells.get(replicas) or Cell(machine, replicas, UNTRIED, "", KINDS[UNTRIED])
        yield _drawn(sizing, cell, LABELS + PITCH * (replicas - 1), top)


def _drawn(sizing: Sizing, cell: Cell, x: float, top: float) -> Html:
    answer = sizing.answer
    chosen = answer is not None and (answer.machine, answer.replicas) == (cell.machine, cell.replicas)
    cost = cell.replicas * cell.machine.unit_cost
    money = cost_text(sizing, cost)
    style = " ".join(["cell", cell.kind, *(["chosen"] if chosen else [])])
    parts = [
        tag("title", f"{fleet_label(cell.machine, cell.replicas)}, {money}: {cell.why}"),
        tag("rect", x=x + 1, y=top + 1, width=PITCH - 2, height=HEIGHT - 2, rx=4, class_=style),
    ]
    if cell.kind != UNTRIED:
        middle = x + PITCH / 2
        parts.append(tag("text", cell.label, x=middle, y=top + 17, text_anchor="middle", class_="in-cell"))
        parts.append(tag("text", money.removesuffix("/h"), x=middle, y=top + 31, text_anchor="middle", class_="cost"))
    return tag("g", *parts)
