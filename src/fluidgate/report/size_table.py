"""A sizing for the terminal: the fleets that hold, and what proves the cheapest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isclose, isfinite

from rich import box
from rich.table import Table
from rich.text import Text

from fluidgate.report.words import counted, duration, or_dash, short, whole_percent
from fluidgate.runs.size import Cheaper, Nearest, Option, Outcome, Proof, Sizing, fleet_label
from fluidgate.runs.size.proof import GROWTH_STEP
from fluidgate.words import listed, number, percent

LONGEST_SOURCE = 120
THIN = 0.1
"""Step times that were not fitted to a server's own timings are off by more than this, and mostly too short."""
WANTS = {
    "KV memory": "for want of KV memory",
    "seats": "for want of seats",
    "the token budget": "for want of token budget",
    "prompt time": "because prompts take too long",
    "step time": "because steps take too long",
}


@dataclass(frozen=True)
class _Column:
    heading: str
    text: Callable[[Option], str]
    only: Callable[[Sizing], bool] = lambda sizing: True


COLUMNS = (
    _Column("$/h", lambda option: f"{option.cost:.2f}", lambda sizing: sizing.priced),
    _Column("GPUs", lambda option: str(option.gpus), lambda sizing: not sizing.priced),
    _Column("$/M\nout", lambda option: f"{option.cost_per_million:.3f}", lambda sizing: sizing.priced),
    _Column("TTFT\np99", lambda option: _ms(option, "p99_ttft_ms")),
    _Column("TPOT\np95", lambda option: _ms(option, "p95_tpot_ms")),
    _Column(
        "good",
        lambda option: whole_percent(option.outcome.figures["goodput_share"]),
        lambda sizing: any(isfinite(option.outcome.figures["goodput_share"]) for option in sizing.options),
    ),
    _Column("KV", lambda option: whole_percent(option.outcome.figures["kv_mean"])),
    _Column(
        "evicted",
        lambda option: _evicted(option),
        lambda sizing: any(option.outcome.figures["preemptions"] for option in sizing.options),
    ),
    _Column("room", lambda option: _room(option)),
)


def size_table(sizing: Sizing) -> Table:
    """The fleets that hold, the cheapest first."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    shown = [column for column in COLUMNS if column.only(sizing)]
    table.add_column("fleet", no_wrap=True)
    for column in shown:
        table.add_column(column.heading, justify="right", no_wrap=True)
    table.add_column("settings", overflow="fold")
    for option in sizing.options:
        settings = Text(option.flags.words)
        table.add_row(Text(option.label), *(Text(column.text(option)) for column in shown), settings)
    return table


def size_title(sizing: Sizing) -> str:
    """What was asked."""
    promise = listed([objective.words for objective in sizing.objectives])
    return f"{sizing.workload}, {number(sizing.rate)} req/s: {promise}"


def size_sentences(sizing: Sizing) -> Iterator[str]:
    """What to do, the proof, and what would mislead."""
    if sizing.answer is None or sizing.proof is None:
        yield from impossible(sizing)
    else:
        yield from proved(sizing, sizing.answer, sizing.proof)
    yield from trap(sizing)
    yield from _left_out(sizing)
    if not sizing.priced:
        yield "Fleets are ranked by their number of GPUs; with --price GPU=PRICE (an hour) by what they cost."


def proved(sizing: Sizing, answer: Option, proof: Proof) -> Iterator[str]:
    """What to use, the cheaper fleets that are not enough, and how far the answer holds."""
    fresh = f"{counted(proof.outcome.runs, 'run')} of {duration(sizing.long_s)} with seeds that the search never saw"
    yield (
        f"Use {answer.label} with {answer.flags.words}: every objective holds in {fresh} "
        f"({percent(1.0 - sizing.certainty.alpha)} sure)."
    )
    yield from (_cheaper(sizing, below) for below in proof.cheaper)
    if not proof.cheaper:
        yield "There is no cheaper fleet among these machines."
    yield from _room_to_grow(sizing, answer, proof)
    hardware = answer.machine.hardware
    assert hardware is not None
    source = short(hardware.source.partition(" (")[0], LONGEST_SOURCE)
    yield f"It holds if all steps take up to {whole_percent(proof.slowdown)} longer. Step times: {source}."
    if proof.slowdown < THIN and hardware.calibration is None:
        yield (
            "That is less than such step times are off by: fit them to timings of your own (`fluidgate calibrate`), or "
            "take more than is needed."
        )


def _room_to_grow(sizing: Sizing, answer: Option, proof: Proof) -> Iterator[str]:
    """Up to which rate it holds, and what breaks beyond."""
    rate = {part.objective: part.growth * sizing.rate for part in proof.breaks}
    if proof.tried == 1.0:
        yield "No higher rate was tried: it is at its stability boundary already."
        return
    if not any(map(isfinite, rate.values())):
        most = f"{number(proof.tried * sizing.rate)} req/s"
        boundary = ", its stability boundary" if isclose(proof.tried * answer.load, 1.0) else ""
        yield f"No objective breaks at any rate that was tried, up to {most}{boundary}."
        return
    first = min(proof.breaks, key=lambda part: part.growth)
    objective = next(o for o in sizing.objectives if str(o) == first.objective)
    want = "" if proof.cause is None else f", {WANTS[proof.cause]}"
    yield (
        f"All holds up to {number(proof.growth * sizing.rate)} req/s; {objective.words} breaks first, at "
        f"{number(rate[first.objective])} req/s (×{number(first.growth)}){want}: add a replica before."
    )
    later = [f"{name} at {number(at)} req/s" for name, at in rate.items() if name != first.objective and isfinite(at)]
    if later:
        yield f"Then {listed(later)}."


def _cheaper(sizing: Sizing, below: Cheaper) -> str:
    label = fleet_label(below.machine, below.replicas)
    if below.outcome is None:
        return f"Cheaper, {label}, cannot: {below.why}."
    state = "fails" if below.outcome.holds is False else "is neither shown to hold nor to fail"
    runs = counted(below.outcome.runs, "run")
    return f"Cheaper, {label} with {below.flags.words}, {state} in {runs}: {missed(sizing, below.outcome)}."


def missed(sizing: Sizing, outcome: Outcome) -> str:
    """The objective that fails, or is nearest to failing, and by how much."""
    place = [str(objective) for objective in sizing.objectives].index(outcome.objective)
    excess = outcome.excesses[place]
    if excess <= 0.0:
        return f"{outcome.objective} is kept on average"
    of_requests = "" if outcome.objective.startswith("mean:") else " of the requests more than it allows"
    return f"{outcome.objective} is missed by {percent(excess)}{of_requests}"


def impossible(sizing: Sizing) -> Iterator[str]:
    """That nothing holds, and what comes nearest."""
    yield "No fleet within the limits is shown to keep every objective."
    if sizing.nearest is not None:
        yield _nearest(sizing, sizing.nearest)


def _nearest(sizing: Sizing, nearest: Nearest) -> str:
    count = nearest.count
    label = fleet_label(nearest.machine, count.replicas)
    if count.outcome is None:
        return f"The nearest possible, {label}, cannot: {count.why}."
    values = zip(sizing.objectives, count.outcome.values, strict=True)
    reached = listed([f"{objective.words}: {objective.text(value)}" for objective, value in values])
    return f"The nearest possible is {label} with {count.flags.words}: {reached}."


def trap(sizing: Sizing) -> Iterator[str]:
    """The cheapest fleet that short runs would have taken."""
    fooled = [
        (count.replicas * machine.unit_cost, machine, count)
        for machine, part in zip(sizing.machines, sizing.found, strict=True)
        for count in part.counts
        if count.fooled
    ]
    if fooled:
        _, machine, count = min(fooled, key=lambda item: item[0])
        fleet = f"{fleet_label(machine, count.replicas)} with {count.fooled[0].words}"
        lengths = f"{duration(sizing.short_s)}, and is not shown to in runs of {duration(sizing.long_s)}"
        yield f"A short look misleads: {fleet} holds in runs of {lengths}."


def _left_out(sizing: Sizing) -> Iterator[str]:
    """Machines on which nothing holds, with the reason."""
    for machine, part in zip(sizing.machines, sizing.found, strict=True):
        if part.answer is not None or (sizing.nearest is not None and sizing.nearest.machine == machine):
            continue
        if part.why_not:
            yield f"{machine.label}: {part.why_not}."
        elif not part.counts:
            yield f"{machine.label}: one replica has more GPUs than are allowed."
        else:
            last = part.counts[-1]
            why = last.why or f"{last.outcome.objective if last.outcome else ''} is not shown to hold"
            yield f"{machine.label}: not with {counted(last.replicas, 'replica')}: {why}."


def _room(option: Option) -> str:
    """How much more traffic it takes; a lower bound where rates were tried in large steps."""
    text = or_dash(option.growth - 1.0, "+{:.0%}".format)
    return f"≥ {text}" if option.growth_step > GROWTH_STEP else text


def _ms(option: Option, key: str) -> str:
    return duration(option.outcome.figures[key] / 1e3)


def _evicted(option: Option) -> str:
    figures = option.outcome.figures
    return percent(figures["preemptions"] / figures["offered"])
