"""`write_report`: a comparison as one self-contained HTML file, its sections in order."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fluidgate.errors import InputError
from fluidgate.output import write_text
from fluidgate.report import figures
from fluidgate.report.alike import ALIKE_NOTE
from fluidgate.report.html import Html, document, fold, tag
from fluidgate.report.over_repeats import busy_time_legend, policies, stable_rate_bars
from fluidgate.report.over_time import stage_legend
from fluidgate.report.sections import all_numbers, objectives, plan, provenance, stability_strip, standings
from fluidgate.report.serving_lines import Deployment, deployment
from fluidgate.report.shown_metrics import LATENCIES
from fluidgate.report.svg import policy_legend, swatch
from fluidgate.report.top import answers
from fluidgate.report.words import counted, load_name
from fluidgate.runs import Comparison, Frontier
from fluidgate.version import version
from fluidgate.words import percent

PRINTED_POLICIES, PRINTED_LOADS = 4, 2
"""Up to so many, all numbers are printed, a page per load; beyond, paper has only the numbers that decide."""


@dataclass(frozen=True)
class Section:
    """A folded section.

    Attributes:
        title: its heading.
        inside: what it holds, read before it is opened.
        note: what its figures show.
        link: its name among the links at the top, where that is not the title.
    """

    title: str
    inside: str
    note: str = ""
    link: str = ""


SECTIONS = {
    "why": Section("Why, and how the others stand", "numbers, doubts, every other policy, and the rule", link="Why"),
    "objectives": Section("Objectives", "met or missed, by policy and load"),
    "plan": Section("What the plan says", "the fluid model's verdict before any run", link="Plan"),
    "kv": Section(
        "KV cache over time",
        "how close to its capacity, against the prediction",
        "First repeat. Shaded: minimum to maximum in each of 300 intervals, so that every peak shows; line: mean. "
        "Dashed: the mean that the fluid model predicts; grey: two standard deviations around it under greedy "
        "admission (both at the boundary if the load is above it). Requests are evicted when the cache is full.",
        link="KV cache",
    ),
    "batch": Section(
        "Who is in the batch",
        "requests by tokens so far, against the fluid equilibrium",
        "Requests in the batch by tokens generated so far, in ranges that hold equal shares in the fluid equilibrium; "
        "dashed: where the layers end in that equilibrium. A layer much thicker than the others is a cohort: its "
        "requests will grow, and finish, together.",
        link="Batch",
    ),
    "queue": Section(
        "Queue and holds",
        "how many wait, and how much of it is the policy's doing",
        "Waiting: requests that have arrived and hold no KV, evicted ones included; the maximum of each interval. "
        f"Held: how long the policy, and nothing else, kept requests out, by arrival time. First repeat. {ALIKE_NOTE}",
        link="Queue",
    ),
    "latency": Section(
        "Latency",
        "TTFT, TPOT and E2E: distributions, means, throughput",
        "Curves: the share of requests at or below each latency, in the first repeat; further left is better, and "
        f"the left axis reads as percentiles. Bars: means over all repeats, with 95% intervals. {ALIKE_NOTE}",
    ),
    "silence": Section(
        "Silence and recomputation",
        "stalls of streams, evictions and what they cost",
        "A stream falls silent when its request is evicted and recomputed, or when the prompts of other requests "
        f"take up an iteration. Curves: first repeat; bars: all repeats, with 95% intervals. {ALIKE_NOTE}",
        link="Silence",
    ),
    "stability": Section(
        "Stability",
        "which policies keep up at which load",
        "Stable: the number of requests in the system does not keep growing. A short run cannot always settle it.",
    ),
    "losses": Section(
        "Where busy time goes",
        "the fluid bound, recomputation and under-use",
        "Busy time, split exactly into what the fluid bound needs for the requests that finished, what recomputation "
        "costs, and what is lost to batches smaller than memory, the token budget and the seats allow. Under-use is "
        "harmless below the load from which memory matters.",
        link="Busy time",
    ),
    "deploy": Section("What to set in vLLM", "every line to serve with, and why each argument", link="vLLM settings"),
    "comparison": Section("All numbers of the runs", "every metric, interval and difference", link="All numbers"),
    "made": Section("How it was made", "command, version, seed, hardware, parameters"),
}
"""By anchor, in order."""

OVERVIEW_NOTE = "Each mark is a load; lines through it are 95% intervals. Down and to the right is better."


def write_report(
    comparison: Comparison,
    path: str | os.PathLike[str],
    command: str | None = None,
    deployments: Sequence[Deployment] = (),
    frontier: Frontier | None = None,
) -> Path:
    """Write the page: self-contained, loads nothing from elsewhere, and readable in full without scripts.

    Args:
        path: the file; its folder must exist.
        command: the command line that produced the comparison, for the last section.
        deployments: what to set in vLLM, one per load; without them, the page says how to find out.
        frontier: the policies' largest stable rates on the same workload and hardware, for the section on stability.

    Returns:
        The path written.

    Raises:
        InputError: nothing to report, or the file cannot be written.
    """
    if not comparison.cells:
        raise InputError("the comparison is empty, so there is nothing to report; compare at least one policy")
    target = Path(path)
    write_text(target, _page(comparison, _sections(comparison, command, deployments, frontier)))
    return target


def _page(comparison: Comparison, sections: Sequence[Html]) -> str:
    subtitle = (
        "Which requests may enter the GPU, and when: "
        f"{counted(len(policies(comparison)), 'admission policy', 'admission policies')} "
        f"at {counted(len(comparison.scenarios), 'load')}, {counted(comparison.requests, 'request')}, "
        f"{counted(comparison.repeats, 'repeat', 'paired repeats')}."
    )
    anchors = [anchor for anchor in SECTIONS if anchor != "objectives" or comparison.objectives]
    links = [(SECTIONS[anchor].link or SECTIONS[anchor].title, anchor) for anchor in anchors]
    return document(f"{comparison.workload_name}, {comparison.hardware.name}", sections, subtitle, links)


def _sections(
    comparison: Comparison, command: str | None, deployments: Sequence[Deployment], frontier: Frontier | None
) -> list[Html]:
    """All sections in order; the controls stand where the figures begin."""
    legend = policy_legend(policies(comparison))
    printed = len(policies(comparison)) <= PRINTED_POLICIES and len(comparison.scenarios) <= PRINTED_LOADS

    def folded(anchor: str, *parts: Html) -> Html:
        section = SECTIONS[anchor]
        note = [tag("p", section.note, class_="soft")] if section.note else []
        return fold(anchor, section.title, section.inside, *note, *parts, printed=anchor == "comparison" and printed)

    def per_load(group: figures.FiguresOf) -> Html:
        return figures.per_load(comparison, group)

    batches = figures.per_load(comparison, figures.batch_figures, above=stage_legend)
    overview = _narrow(figures.overview(comparison).drawing, OVERVIEW_NOTE)
    return [
        answers(comparison, deployments),
        _origin(comparison, command),
        folded("why", standings(comparison)),
        *([folded("objectives", objectives(comparison))] if comparison.objectives else []),
        folded("plan", plan(comparison)),
        _controls(comparison),
        folded("kv", per_load(figures.kv_figures)),
        folded("batch", batches),
        folded("queue", legend, per_load(figures.queue_figures)),
        folded("latency", legend, overview, _latency_choice(), per_load(figures.latency_figures)),
        folded("silence", legend, per_load(figures.silence_figures)),
        folded("stability", stability_strip(comparison), *_stable_rates(comparison, frontier)),
        folded("losses", busy_time_legend(), per_load(figures.loss_figures)),
        folded("deploy", deployment(comparison, deployments)),
        folded("comparison", all_numbers(comparison)),
        folded("made", provenance(comparison, command)),
    ]


def _origin(comparison: Comparison, command: str | None) -> Html:
    """For paper, where the last section is closed: what it takes to make the page again."""
    facts = [
        f"fluidgate {version()}",
        *([command] if command else []),
        f"seed {comparison.seed}",
        f"workload {comparison.workload_digest}",
        f"{comparison.hardware.name}: {comparison.hardware.source or 'source not given'}",
    ]
    return tag("p", "; ".join(facts), class_="soft only-printed")


def _narrow(drawing: Html, caption: str) -> Html:
    return tag("figure", drawing, tag("figcaption", caption), class_="narrow")


def _stable_rates(comparison: Comparison, frontier: Frontier | None) -> list[Html]:
    if frontier is None:
        return []
    caption = (
        f"Found by bisection over simulations that start from a standing queue; an interval misses the true rate with "
        f"a probability of at most {percent(frontier.rule.alpha)}. Dashed: the fluid model's limit for any policy."
    )
    return [_narrow(stable_rate_bars(comparison, frontier), caption)]


def _controls(comparison: Comparison) -> Html:
    """The form for loads and policies, which stays on the screen; hidden until the script, which needs it, runs."""
    boxes = []
    for place, name in enumerate(policies(comparison)):
        box = tag("input", type="checkbox", name="policy", value=str(place), checked="")
        boxes.append(tag("label", box, swatch(place), name))
    parts = [tag("div", tag("span", "Policies", class_="soft"), *boxes, role="group", aria_label="Policies")]
    loads = {str(place): load_name(scenario) for place, scenario in enumerate(comparison.scenarios)}
    if len(loads) > 1:
        parts.insert(0, _choice("load", "Load", loads))
    return tag("form", *parts, id="controls", class_="controls needs-script", hidden="")


def _latency_choice() -> Html:
    names = {key: title.partition(":")[0].removesuffix(" latency") for key, title in LATENCIES.items()}
    return tag("div", _choice("metric", "Show", names), class_="controls needs-script", hidden="")


def _choice(name: str, title: str, options: dict[str, str]) -> Html:
    """One of several values, or all."""
    buttons = [
        tag("label", tag("input", type="radio", name=name, value=value, checked="" if value == "all" else None), text)
        for value, text in {"all": "all", **options}.items()
    ]
    return tag("div", tag("span", title, class_="soft"), *buttons, role="radiogroup", aria_label=title)
