"""The page's figures, section by section; `write_figures` writes the same ones as SVG files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fluidgate.metrics import Timeline
from fluidgate.output import make_folder, write_text
from fluidgate.report.deciding_chart import deciding_chart
from fluidgate.report.html import Html, join, tag
from fluidgate.report.over_repeats import busy_time, kv_bars, metric_bars, series, throughput_latency
from fluidgate.report.over_time import (
    batch_over_time,
    distribution,
    evicted_over_time,
    held_over_time,
    kv_over_time,
    timelines,
    waiting_over_time,
)
from fluidgate.report.shown_metrics import LATENCIES, LATENCY_BARS, SILENCE_BARS
from fluidgate.report.svg import standalone
from fluidgate.report.words import load_title
from fluidgate.runs import Cell, Comparison, Scenario
from fluidgate.runs.policy_runs import MAX_TOKENS
from fluidgate.words import percent

NO_TIMELINES = join(
    [
        "These runs have no timelines. To record them, use ",
        tag("code", "fluidgate compare --html"),
        ", or ",
        tag("code", "compare(..., timelines=True)"),
        " in Python.",
    ]
)
TOO_MANY = (
    f"Batches were not recorded: a repeat has more than {MAX_TOKENS:,} output tokens, too many to keep every batch."
)


@dataclass(frozen=True)
class Figure:
    """One drawing, on the page or in a file.

    Attributes:
        name: the file's, without the extension.
        drawing: an `<svg>` element.
        policy: the series of the policy that it shows; None if it shows all of them.
        metric: the latency that it shows, where the reader may choose one.
    """

    name: str
    drawing: Html
    policy: int | None = None
    metric: str | None = None

    def html(self) -> Html:
        """The figure on the page; the choice of policies or of a latency may hide it."""
        place = None if self.policy is None else str(self.policy)
        return tag("figure", self.drawing, data_policy=place, data_metric=self.metric)


FiguresOf = Callable[[Comparison, Scenario], list[Figure]]


def kv_figures(comparison: Comparison, scenario: Scenario) -> list[Figure]:
    """KV use over time per policy, or bars of mean and peak where no run has a timeline."""
    if not timelines(comparison, scenario):
        return [Figure(_name("kv", scenario), kv_bars(comparison, scenario))]
    return _per_policy("kv", kv_over_time, comparison, timelines(comparison, scenario))


def batch_figures(comparison: Comparison, scenario: Scenario) -> list[Figure]:
    """The batch by stage over time, per policy."""
    followed = [(cell, timeline) for cell, timeline in timelines(comparison, scenario) if timeline.batch]
    return _per_policy("batch", batch_over_time, comparison, followed)


def _per_policy(
    what: str,
    draw: Callable[[Comparison, Cell, Timeline], Html],
    comparison: Comparison,
    cells: list[tuple[Cell, Timeline]],
) -> list[Figure]:
    return [
        Figure(
            _name(what, cell.scenario, cell.policy), draw(comparison, cell, timeline), policy=series(comparison, cell)
        )
        for cell, timeline in cells
    ]


def queue_figures(comparison: Comparison, scenario: Scenario) -> list[Figure]:
    """Requests waiting, and held."""
    if not timelines(comparison, scenario):
        return []
    return [
        Figure(_name("waiting", scenario), waiting_over_time(comparison, scenario)),
        Figure(_name("held", scenario), held_over_time(comparison, scenario)),
    ]


def latency_figures(comparison: Comparison, scenario: Scenario) -> list[Figure]:
    """TTFT, TPOT and E2E: their distributions in one repeat, and their means over all repeats with intervals."""
    curves = LATENCIES if timelines(comparison, scenario) else ()
    return [
        *(Figure(_name(key, scenario), distribution(comparison, scenario, key), metric=key) for key in curves),
        *(
            Figure(_name(m.bars, scenario), metric_bars(comparison, scenario, m.key), metric=m.latency)
            for m in LATENCY_BARS
        ),
    ]


def silence_figures(comparison: Comparison, scenario: Scenario) -> list[Figure]:
    """Longest silences, evictions over time, and the recompute tax."""
    over_time = []
    if timelines(comparison, scenario):
        over_time = [
            Figure(_name("silence", scenario), distribution(comparison, scenario, "silence")),
            Figure(_name("evictions", scenario), evicted_over_time(comparison, scenario)),
        ]
    return over_time + [Figure(_name(m.bars, scenario), metric_bars(comparison, scenario, m.key)) for m in SILENCE_BARS]


def loss_figures(comparison: Comparison, scenario: Scenario) -> list[Figure]:
    """Busy time, split."""
    return [Figure(_name("busy-time", scenario), busy_time(comparison, scenario))]


def overview(comparison: Comparison) -> Figure:
    """Throughput against latency, all loads."""
    return Figure("throughput-latency", throughput_latency(comparison))


def all_figures(comparison: Comparison) -> list[Figure]:
    """Every figure of the page, in its order."""
    groups: tuple[FiguresOf, ...] = (
        kv_figures,
        batch_figures,
        queue_figures,
        latency_figures,
        silence_figures,
        loss_figures,
    )
    answers = [Figure(_name("answer", s), deciding_chart(comparison, s)) for s in comparison.scenarios]
    return [*answers, overview(comparison)] + [
        figure for group in groups for scenario in comparison.scenarios for figure in group(comparison, scenario)
    ]


def per_load(comparison: Comparison, group: FiguresOf, above: Callable[[Scenario], Html] | None = None) -> Html:
    """A group of figures at every load, under the load's title."""
    parts = []
    for place, scenario in enumerate(comparison.scenarios):
        figures = [figure.html() for figure in group(comparison, scenario)]
        legend = [] if above is None or not figures else [above(scenario)]
        missing = TOO_MANY if timelines(comparison, scenario) else NO_TIMELINES
        body = tag("div", *figures, class_="panels") if figures else tag("p", missing, class_="soft")
        parts.append(tag("div", tag("h3", load_title(scenario)), *legend, body, data_load=str(place)))
    return join(parts)


def write_figures(comparison: Comparison, folder: str | os.PathLike[str]) -> list[Path]:
    """Write every figure of the report as `NAME.svg`, in the light colours; creates the folder if needed.

    Raises:
        InputError: the folder cannot be written to.
    """
    target = make_folder(folder)
    written: list[Path] = []
    for figure in all_figures(comparison):
        path = _free(target / f"{figure.name}.svg", written)
        write_text(path, standalone(figure.drawing))
        written.append(path)
    return written


def _free(path: Path, taken: list[Path]) -> Path:
    """The path, with a number added where the names of two policies lead to the same one."""
    count, free = 2, path
    while free in taken:
        free, count = path.with_stem(f"{path.stem}-{count}"), count + 1
    return free


def _name(what: str, scenario: Scenario, policy: str = "") -> str:
    load = percent(scenario.load).rstrip("%").replace(",", "")
    parts = filter(None, (what, scenario.workload, f"load-{load}", policy))
    return re.sub(r"[^\w.-]+", "-", "-".join(parts)).strip("-")
