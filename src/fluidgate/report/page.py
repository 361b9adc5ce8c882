"""`write_report`: a comparison as one self-contained HTML file, its sections in order."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from string import Template

from fluidgate.errors import InputError
from fluidgate.output import write_text
from fluidgate.report import figures
from fluidgate.report.html import Html, asset, join, section, tag
from fluidgate.report.over_repeats import busy_time_legend, policies, stable_rate_bars
from fluidgate.report.over_time import stage_legend
from fluidgate.report.sections import Deployment, all_numbers, answer, deployment, plan, provenance, stability_strip
from fluidgate.report.shown_metrics import LATENCIES
from fluidgate.report.svg import policy_legend, swatch
from fluidgate.report.words import counted
from fluidgate.runs import Comparison, Frontier
from fluidgate.version import version
from fluidgate.words import percent

CONTENTS = {
    "plan": "Plan",
    "kv": "KV cache",
    "batch": "Batch",
    "queue": "Queue",
    "latency": "Latency",
    "silence": "Silence",
    "stability": "Stability",
    "losses": "Busy time",
    "deploy": "vLLM settings",
    "comparison": "All numbers",
    "made": "How it was made",
}
"""Sections by anchor, as the links at the top name them."""

NOTES = {
    "kv": (
        "First repeat. Shaded: minimum to maximum in each of 300 intervals, so that every peak shows; line: mean. "
        "Dashed: the mean that the fluid model predicts; grey: two standard deviations around it under greedy "
        "admission (both at the boundary if the load is above it). Requests are evicted when the cache is full."
    ),
    "batch": (
        "Requests in the batch by tokens generated so far, in ranges that hold equal shares in the fluid equilibrium; "
        "dashed: where the layers end in that equilibrium. A layer much thicker than the others is a cohort: its "
        "requests will grow, and finish, together."
    ),
    "queue": (
        "Waiting: requests that have arrived and hold no KV, evicted ones included; the maximum of each interval. "
        "Held: how long the policy, and nothing else, kept requests out, by arrival time. First repeat."
    ),
    "latency": (
        "Curves: the share of requests at or below each latency, in the first repeat; further left is better, and "
        "the left axis reads as percentiles. Bars: means over all repeats, with 95% intervals."
    ),
    "overview": "Each mark is a load; lines through it are 95% intervals. Down and to the right is better.",
    "silence": (
        "A stream falls silent when its request is evicted and recomputed, or when the prompts of other requests "
        "take up an iteration. Curves: first repeat; bars: all repeats, with 95% intervals."
    ),
    "stability": (
        "Stable: the number of requests in the system does not keep growing. A short run cannot always settle it."
    ),
    "losses": (
        "Busy time, split exactly into what the fluid bound needs for the requests that finished, what recomputation "
        "costs, and what is lost to batches smaller than memory, the token budget and the seats allow. Under-use is "
        "harmless below the load from which memory matters."
    ),
}
"""What the figures of a section show."""


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
    links = [tag("a", name, href=f"#{anchor}") for anchor, name in CONTENTS.items()]
    return Template(asset("page.html")).substitute(
        title=join([f"{comparison.workload_name}, {comparison.hardware.name}"]),
        subtitle=join([subtitle]),
        style=asset("page.css") + asset("chart.css"),
        version=version(),
        contents=tag("nav", *links, aria_label="Contents"),
        sections="\n".join(sections),
        script=asset("page.js"),
    )


def _sections(
    comparison: Comparison, command: str | None, deployments: Sequence[Deployment], frontier: Frontier | None
) -> list[Html]:
    """All sections in order; the controls stand where the figures begin."""
    legend = policy_legend(policies(comparison))

    def noted(anchor: str, title: str, *parts: Html) -> Html:
        return section(anchor, title, tag("p", NOTES[anchor], class_="soft"), *parts)

    def per_load(group: figures.FiguresOf) -> Html:
        return figures.per_load(comparison, group)

    batches = figures.per_load(comparison, figures.batch_figures, above=stage_legend)
    overview = _narrow(figures.overview(comparison).drawing, NOTES["overview"])
    return [
        answer(comparison),
        plan(comparison),
        _controls(comparison),
        noted("kv", "KV cache over time", per_load(figures.kv_figures)),
        noted("batch", "Who is in the batch", batches),
        noted("queue", "Queue and holds", legend, per_load(figures.queue_figures)),
        noted("latency", "Latency", legend, overview, _latency_choice(), per_load(figures.latency_figures)),
        noted("silence", "Silence and recomputation", legend, per_load(figures.silence_figures)),
        noted("stability", "Stability", stability_strip(comparison), *_stable_rates(comparison, frontier)),
        noted("losses", "Where busy time goes", busy_time_legend(), per_load(figures.loss_figures)),
        section("deploy", "What to set in vLLM", deployment(comparison, deployments)),
        all_numbers(comparison),
        provenance(comparison, command),
    ]


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
    loads = {str(place): percent(scenario.load) for place, scenario in enumerate(comparison.scenarios)}
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
