"""The sections of the page, in order: each a heading, what to look for, and its pictures or tables."""

from __future__ import annotations

from collections.abc import Sequence

from fluidgate.report import figures, over_repeats
from fluidgate.report.charts import legend
from fluidgate.report.controls import controls
from fluidgate.report.deployment import Deployment, deployment
from fluidgate.report.html import Html, tag
from fluidgate.report.losses import parts_legend
from fluidgate.report.over_repeats import policies
from fluidgate.report.over_time import stage_legend
from fluidgate.report.sections import answer, compared, made, plan, section, stability_strip
from fluidgate.runs import Comparison, Frontier
from fluidgate.words import percent

CONTENTS = (
    ("plan", "Plan"),
    ("kv", "KV cache"),
    ("batch", "Batch"),
    ("queue", "Queue"),
    ("latency", "Latency"),
    ("silence", "Silence"),
    ("stability", "Stability"),
    ("losses", "Busy time"),
    ("deploy", "vLLM settings"),
    ("comparison", "All numbers"),
    ("made", "How it was made"),
)


def contents() -> Html:
    """Links to the sections."""
    return tag("nav", *(tag("a", name, href=f"#{anchor}") for anchor, name in CONTENTS), aria_label="Contents")


def sections(
    comparison: Comparison,
    version: str,
    command: str | None,
    deployments: Sequence[Deployment],
    frontier: Frontier | None,
) -> list[Html]:
    """All of them; the controls stand where pictures begin."""
    return [
        answer(comparison),
        plan(comparison),
        controls(comparison),
        _kv(comparison),
        _batch(comparison),
        _queue(comparison),
        _latency(comparison),
        _silence(comparison),
        _stability(comparison, frontier),
        _losses(comparison),
        section("deploy", "What to set in vLLM", deployment(comparison, deployments)),
        compared(comparison),
        made(comparison, version, command),
    ]


def _note(text: str) -> Html:
    return tag("p", text, class_="soft")


def _kv(comparison: Comparison) -> Html:
    note = (
        "The first repeat. Shaded: from the least to the most in each of 300 intervals, so that every peak shows; "
        "line: mean. Dashed: the mean that the fluid model predicts; grey: two standard deviations of greedy admission "
        "around it (both at the boundary where the load is above it). At the capacity, requests are evicted."
    )
    return section("kv", "KV cache over time", _note(note), figures.per_load(comparison, figures.kv_figures))


def _batch(comparison: Comparison) -> Html:
    note = (
        "Members of the batch by tokens generated so far, in ranges that hold equal shares in the fluid equilibrium; "
        "dashed: where the layers end there. A layer much wider than the others is a cohort, which will grow, and "
        "finish, together."
    )
    drawn = figures.per_load(comparison, figures.batch_figures, above=stage_legend)
    return section("batch", "Who is in the batch", _note(note), drawn)


def _queue(comparison: Comparison) -> Html:
    note = (
        "Waiting: requests that have arrived and hold no KV, evicted ones too, at most in each interval. Held: how "
        "long the policy, and nothing else, kept requests out, by when they arrived. First repeat."
    )
    drawn = figures.per_load(comparison, figures.queue_figures)
    return section("queue", "Queue and holds", _note(note), _legend(comparison), drawn)


def _latency(comparison: Comparison) -> Html:
    note = (
        "Curves: the share of requests at or below each latency, in the first repeat; further left is better, and "
        "percentiles are read at the left edge. Bars: means over all repeats, with 95% intervals."
    )
    overview = tag(
        "figure",
        figures.overview(comparison).drawing,
        tag("figcaption", "Each mark is a load; lines through it are 95% intervals. Down and to the right is better."),
        class_="narrow",
    )
    drawn = figures.per_load(comparison, figures.latency_figures)
    parts = (_note(note), _legend(comparison), overview, figures.metric_choice(), drawn)
    return section("latency", "Latency", *parts)


def _silence(comparison: Comparison) -> Html:
    note = (
        "A stream falls silent when its request is evicted and computed again, or when others' prompts take the "
        "iteration. Curves: first repeat; bars: all repeats, with 95% intervals."
    )
    drawn = figures.per_load(comparison, figures.silence_figures)
    return section("silence", "Silence and recomputation", _note(note), _legend(comparison), drawn)


def _stability(comparison: Comparison, frontier: Frontier | None) -> Html:
    note = "Stable: the number of requests in the system does not keep growing. A short run cannot always tell."
    parts = [_note(note), stability_strip(comparison)]
    if frontier is not None:
        caption = (
            f"By simulation from a standing queue, bisected; an interval misses with at most "
            f"{percent(frontier.rule.alpha)}. Dashed: what the fluid model says is the most for any policy."
        )
        drawn = over_repeats.stable_rate_bars(comparison, frontier)
        parts.append(tag("figure", drawn, tag("figcaption", caption), class_="narrow"))
    return section("stability", "Stability", *parts)


def _losses(comparison: Comparison) -> Html:
    note = (
        "Busy time, split exactly: what the fluid bound needs for the requests that finished, what recomputation "
        "loses, and what batches smaller than memory, token budget and seats allow lose. Under-use is harmless below "
        "the load from which memory matters."
    )
    drawn = figures.per_load(comparison, figures.loss_figures)
    return section("losses", "Where busy time goes", _note(note), parts_legend(), drawn)


def _legend(comparison: Comparison) -> Html:
    return legend(policies(comparison))
