"""The page's pictures, section by section; the same figures can be written as files."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from fluidgate.report.controls import choice
from fluidgate.report.html import Html, join, tag
from fluidgate.report.losses import busy_time
from fluidgate.report.over_repeats import kv_bars, metric_bars, policies, throughput_latency
from fluidgate.report.over_time import (
    batch_over_time,
    distribution,
    evicted_over_time,
    held_over_time,
    kv_over_time,
    waiting_over_time,
    watched,
)
from fluidgate.report.words import load_title
from fluidgate.runs import Comparison, Scenario
from fluidgate.runs.policy_runs import MAX_TOKENS
from fluidgate.words import percent

NOT_WATCHED = join(
    [
        "The runs were not looked at over time: ",
        tag("code", "fluidgate compare --html"),
        " does, and ",
        tag("code", "compare(..., timelines=True)"),
        " from Python.",
    ]
)

TOO_MANY = f"Not followed: a repeat has more than {MAX_TOKENS:,} output tokens, too many to keep every batch of."

LATENCIES = ("ttft", "tpot", "e2el")


@dataclass(frozen=True)
class Figure:
    """A drawing that stands alone.

    Attributes:
        name: of its file, without the ending.
        drawing: an `<svg>` element.
        policy: the place of the only policy that it shows, if it shows one.
        metric: what it shows, where the reader may choose.
    """

    name: str
    drawing: Html
    policy: int | None = None
    metric: str | None = None

    def html(self) -> Html:
        """The figure on the page, which a choice of policies or metric may hide."""
        place = None if self.policy is None else str(self.policy)
        return tag("figure", self.drawing, data_policy=place, data_metric=self.metric)


Drawn = Callable[[Comparison, Scenario], list[Figure]]


def kv_figures(comparison: Comparison, scenario: Scenario) -> list[Figure]:
    """KV use over time per policy, or bars of mean and peak where no run was looked at over time."""
    cells = watched(comparison, scenario)
    if not cells:
        return [Figure(_name("kv", scenario), kv_bars(comparison, scenario))]
    return [
        Figure(_name("kv", scenario, cell.policy), kv_over_time(comparison, cell, t), _place(comparison, cell.policy))
        for cell, t in cells
    ]


def batch_figures(comparison: Comparison, scenario: Scenario) -> list[Figure]:
    """The batch by stage over time, per policy."""
    return [
        Figure(
            _name("batch", scenario, cell.policy), batch_over_time(comparison, cell, t), _place(comparison, cell.policy)
        )
        for cell, t in watched(comparison, scenario)
        if t.batch
    ]


def queue_figures(comparison: Comparison, scenario: Scenario) -> list[Figure]:
    """Requests waiting, and held."""
    if not watched(comparison, scenario):
        return []
    return [
        Figure(_name("waiting", scenario), waiting_over_time(comparison, scenario)),
        Figure(_name("held", scenario), held_over_time(comparison, scenario)),
    ]


def latency_figures(comparison: Comparison, scenario: Scenario) -> list[Figure]:
    """TTFT, TPOT and E2E: their distributions in one repeat, and their means over all repeats with intervals."""
    seen = [
        Figure(_name(key, scenario), distribution(comparison, scenario, f"{key}_s"), metric=key)
        for key in LATENCIES
        if watched(comparison, scenario)
    ]
    return seen + [
        Figure(_name(f"mean-{key}", scenario), metric_bars(comparison, scenario, f"mean_{key}_ms"), metric=key)
        for key in LATENCIES
    ]


def silence_figures(comparison: Comparison, scenario: Scenario) -> list[Figure]:
    """Longest silences, and evictions over time."""
    seen = []
    if watched(comparison, scenario):
        seen = [
            Figure(_name("silence", scenario), distribution(comparison, scenario, "silence_s")),
            Figure(_name("evictions", scenario), evicted_over_time(comparison, scenario)),
        ]
    return seen + [
        Figure(_name(name, scenario), metric_bars(comparison, scenario, key))
        for name, key in (("p99-silence", "p99_longest_silence_s"), ("recompute-tax", "recompute_tax"))
    ]


def loss_figures(comparison: Comparison, scenario: Scenario) -> list[Figure]:
    """Busy time, split."""
    return [Figure(_name("busy-time", scenario), busy_time(comparison, scenario))]


def overview(comparison: Comparison) -> Figure:
    """Throughput against latency, all loads."""
    return Figure("throughput-latency", throughput_latency(comparison))


def all_figures(comparison: Comparison) -> list[Figure]:
    """Every figure of the page, in its order."""
    groups: tuple[Drawn, ...] = (
        kv_figures,
        batch_figures,
        queue_figures,
        latency_figures,
        silence_figures,
        loss_figures,
    )
    drawn = [figure for group in groups for scenario in comparison.scenarios for figure in group(comparison, scenario)]
    return [overview(comparison), *drawn]


def per_load(comparison: Comparison, drawn: Drawn, *, above: Callable[[Scenario], Html] | None = None) -> Html:
    """A group of figures at every load, under the load's title."""
    parts = []
    for place, scenario in enumerate(comparison.scenarios):
        figures = [figure.html() for figure in drawn(comparison, scenario)]
        head = [] if above is None or not figures else [above(scenario)]
        missing = TOO_MANY if watched(comparison, scenario) else NOT_WATCHED
        shown = tag("div", *figures, class_="panels") if figures else tag("p", missing, class_="soft")
        parts.append(tag("div", tag("h3", load_title(scenario)), *head, shown, data_load=str(place)))
    return join(parts)


def metric_choice() -> Html:
    """Which distribution to show."""
    options = choice("metric", "Show", list(zip(LATENCIES, ("TTFT", "TPOT", "E2E"), strict=True)))
    return tag("div", options, class_="controls needs-script", hidden="")


def _name(what: str, scenario: Scenario, policy: str = "") -> str:
    load = percent(scenario.load).rstrip("%").replace(",", "")
    return re.sub(r"[^\w.-]+", "-", "-".join(filter(None, (what, f"load-{load}", policy)))).strip("-")


def _place(comparison: Comparison, policy: str) -> int:
    return policies(comparison).index(policy)
