"""The sections of words and numbers: answer, plan, comparison, how it was made."""

from __future__ import annotations

from dataclasses import asdict
from itertools import groupby
from math import isfinite

from fluidgate.hardware import Hardware
from fluidgate.metrics import METRICS, Interval, PairedDifference
from fluidgate.report.html import Html, tag
from fluidgate.report.judge import judge
from fluidgate.report.recommend import Recommendation, recommend, rule
from fluidgate.report.words import load_title, stability, unfinished
from fluidgate.runs import Cell, Comparison, Scenario
from fluidgate.words import percent

COMPARED = (
    "mean_ttft_ms",
    "p99_ttft_ms",
    "mean_tpot_ms",
    "p99_itl_ms",
    "mean_e2el_ms",
    "p99_e2el_ms",
    "output_throughput",
    "effective_throughput",
    "mean_longest_silence_s",
    "p99_longest_silence_s",
    "preemptions",
    "recompute_tax",
    "mean_held_s",
    "kv_peak",
    "kv_mean",
    "kv_above_90",
    "fluid_efficiency",
    "recompute_loss",
    "underuse_loss",
)
GOODPUT = ("request_goodput", "goodput_share")


def answer(comparison: Comparison) -> Html:
    """Which policy to use at each load, why, and why not the others."""
    cards = [_card(scenario, recommend(comparison, scenario)) for scenario in comparison.scenarios]
    return tag(
        "section",
        tag("div", *cards, class_="cards"),
        tag("details", tag("summary", "The rule behind this answer"), tag("p", rule(comparison), class_="soft")),
        aria_label="Which policy to use",
    )


def _card(scenario: Scenario, chosen: Recommendation) -> Html:
    against = [tag("li", f"{policy}: {why}") for policy, why in chosen.others]
    return tag(
        "div",
        tag("h2", load_title(scenario)),
        tag("p", chosen.headline, class_="answer"),
        tag("p", chosen.reason),
        *([tag("ul", *against)] if against else []),
        class_="card",
    )


def plan(comparison: Comparison) -> Html:
    """What the fluid model says before any run: what holds at every load, then each load, then the numbers."""
    verdicts = [scenario.plan.verdict for scenario in comparison.scenarios]
    common = [sentence for sentence in verdicts[0] if all(sentence in own for own in verdicts)]
    words = []
    if len(verdicts) > 1 and common:
        words += [tag("h3", "At every load"), tag("ul", *(tag("li", sentence) for sentence in common))]
        verdicts = [tuple(sentence for sentence in own if sentence not in common) for own in verdicts]
    cards = [
        tag(
            "div", tag("h3", load_title(scenario)), tag("ul", *(tag("li", sentence) for sentence in own)), class_="card"
        )
        for scenario, own in zip(comparison.scenarios, verdicts, strict=True)
    ]
    numbers = tag("details", tag("summary", "All numbers of the plan"), _plan_table(comparison))
    return section("plan", "What the plan says", tag("div", *cards, class_="cards"), *words, numbers)


def _plan_table(comparison: Comparison) -> Html:
    scenarios = comparison.scenarios
    rows = []
    for per_load in zip(*(scenario.plan.summary_rows() for scenario in scenarios), strict=True):
        values = [(value, len(list(same))) for value, same in groupby(value for _, value in per_load)]
        cells = [
            tag("td", value, class_="same", colspan=span) if span > 1 else tag("td", value) for value, span in values
        ]
        rows.append(tag("tr", tag("th", per_load[0][0], scope="row"), *cells))
    heads = [tag("th", percent(scenario.load), scope="col") for scenario in scenarios]
    return table_of("The fluid plan, by load", [tag("th", "load", scope="col"), *heads], rows)


def compared(comparison: Comparison) -> Html:
    """A table per load: every metric of every policy, with intervals and differences from the baseline."""
    note = (
        f"Mean over {comparison.repeats} repeats ± half of the 95% interval; below it the paired difference from "
        f"{comparison.baseline} (all policies of a load saw the same requests in every repeat). It is marked ▲ better "
        "or ▼ worse only where its 95% interval excludes zero. Latencies are over the requests that have them: "
        "look at the unfinished ones first. Busy time is the fluid bound's share and the two losses; below the load "
        "from which memory matters, under-use is large and harmless: batches are small because few requests are there."
    )
    if comparison.repeats == 1:
        note = "One repeat: there are no intervals, so no difference is marked better or worse. " + note
    tables = [
        tag("div", tag("h3", load_title(scenario)), _comparison_table(comparison, scenario), data_load=str(place))
        for place, scenario in enumerate(comparison.scenarios)
    ]
    return section("comparison", "All numbers of the runs", tag("p", note, class_="soft"), *tables)


def _comparison_table(comparison: Comparison, scenario: Scenario) -> Html:
    cells = comparison.at(scenario)
    pick = recommend(comparison, scenario).policy
    heads = [tag("th", "", scope="col")]
    for place, cell in enumerate(cells):
        roles = [("baseline", cell.policy == comparison.baseline), ("to use", cell.policy == pick)]
        named = ", ".join(role for role, holds in roles if holds)
        heads.append(
            tag(
                "th",
                cell.policy,
                *([tag("small", named)] if named else []),
                scope="col",
                class_="pick" if cell.policy == pick else None,
                data_policy=str(place),
            )
        )
    rows = [_unfinished_row(cells), _stability_row(cells)]
    intervals = [cell.intervals for cell in cells]
    for key in (*(GOODPUT if comparison.slo else ()), *COMPARED):
        values = [
            _value_cell(
                place, key, own[key], None if cell.policy == comparison.baseline else comparison.difference(cell, key)
            )
            for place, (cell, own) in enumerate(zip(cells, intervals, strict=True))
        ]
        metric = METRICS[key]
        unit = [tag("small", metric.unit)] if metric.unit else []
        rows.append(tag("tr", tag("th", metric.label, *unit, scope="row"), *values))
    return table_of(f"{load_title(scenario)}: {comparison.requests:,} requests per repeat", heads, rows)


def _unfinished_row(cells: tuple[Cell, ...]) -> Html:
    left = [unfinished(cell) for cell in cells]
    values = [
        tag("td", f"{count:,}", class_="bad" if count else None, data_policy=str(place))
        for place, count in enumerate(left)
    ]
    return tag("tr", tag("th", "Requests unfinished", tag("small", "in all repeats"), scope="row"), *values)


def _stability_row(cells: tuple[Cell, ...]) -> Html:
    values = []
    for place, cell in enumerate(cells):
        unstable = any(summary.stable is False for summary in cell.summaries)
        reasons = "; ".join(dict.fromkeys(summary.stability_reason for summary in cell.summaries))
        style = "bad" if unstable else None
        values.append(tag("td", stability(cell), class_=style, title=reasons, data_policy=str(place)))
    return tag("tr", tag("th", "Stability", scope="row"), *values)


def stability_strip(comparison: Comparison) -> Html:
    """Loads by policies: does the queue stay bounded?"""
    heads = [tag("th", "load", scope="col")]
    heads += [tag("th", percent(scenario.load), scope="col", class_="strip") for scenario in comparison.scenarios]
    rows = []
    for place, cells in enumerate(zip(*(comparison.at(scenario) for scenario in comparison.scenarios), strict=True)):
        verdicts = [_verdict_cell(cell) for cell in cells]
        rows.append(tag("tr", tag("th", cells[0].policy, scope="row"), *verdicts, data_policy=str(place)))
    return table_of("Stable, by policy and load, in all repeats", heads, rows)


def _verdict_cell(cell: Cell) -> Html:
    verdicts = {summary.stable for summary in cell.summaries}
    style = {True: "yes", False: "no", None: "unclear"}[verdicts.pop()] if len(verdicts) == 1 else "unclear"
    reasons = "; ".join(dict.fromkeys(summary.stability_reason for summary in cell.summaries))
    return tag("td", stability(cell), class_=f"strip {style}", title=reasons)


def _value_cell(place: int, key: str, value: Interval, difference: Interval | None) -> Html:
    half = (value.high - value.low) / 2
    spread = f" ±{METRICS[key].text(half)}" if isfinite(half) else ""
    shown = METRICS[key].text(value.mean) + spread
    if difference is None or not isfinite(difference.mean):
        return tag("td", shown, data_policy=str(place))
    return tag("td", shown, tag("small", _difference(key, difference)), data_policy=str(place))


def _difference(key: str, difference: Interval) -> Html:
    sure = judge(key, difference)
    relative = difference.relative.mean if isinstance(difference, PairedDifference) else float("nan")
    half = (difference.high - difference.low) / 2
    text = _signed(METRICS[key].text(difference.mean))
    if isfinite(half):
        text += f" ±{METRICS[key].text(half)}"
    if isfinite(relative) and METRICS[key].unit:
        text += f" ({relative:+.0%})"
    if sure is None:
        return Html(tag("span", text))
    mark = {"better": "▲ better ", "worse": "▼ worse "}[sure]
    return tag("span", mark + text, class_=f"note {sure}")


def _signed(text: str) -> str:
    return text.replace("-", "−") if text.startswith("-") else f"+{text}"


def _step_time(hardware: Hardware) -> str:
    if hardware.grid is not None:
        return f"a grid, {hardware.grid.digest}"
    step = hardware.step_time
    return f"c0 {step.c0:.4g} s, c_tok {step.c_tok:.4g} s, c_kv {step.c_kv:.4g} s, c_attn {step.c_attn:.4g} s"


def made(comparison: Comparison, version: str, command: str | None) -> Html:
    """Everything needed to make the same numbers again."""
    hardware = comparison.hardware
    error = hardware.relative_error
    facts = [
        ("fluidgate", version),
        *([("command", command)] if command else []),
        ("workload", comparison.workload_name),
        ("workload digest", f"{comparison.workload_digest} (first repeat)"),
        ("requests per repeat", f"{comparison.requests:,}"),
        ("repeats, seed", f"{comparison.repeats}, {comparison.seed}"),
        ("service level", _settings(asdict(comparison.slo)) if comparison.slo else "none given"),
        ("hardware", hardware.name),
        ("hardware source", hardware.source or "not given"),
        ("error of the step time's four terms", percent(error) + " on average" if isfinite(error) else "unknown"),
        ("step time", _step_time(hardware)),
        ("KV blocks", f"{hardware.num_gpu_blocks:,} of {hardware.block_size} tokens, one of them the null block"),
        ("engine", _settings(asdict(comparison.config))),
    ]
    rows = [tag("tr", tag("th", name, scope="row"), tag("td", value, class_="text")) for name, value in facts]
    settings = [
        tag(
            "tr",
            tag("th", cell.policy, scope="row"),
            tag("td", percent(cell.scenario.load)),
            tag("td", _settings(cell.parameters), class_="text"),
        )
        for cell in comparison.cells
    ]
    heads = [
        tag("th", "policy", scope="col"),
        tag("th", "load", scope="col"),
        tag("th", "parameters", scope="col", class_="text"),
    ]
    return section(
        "made",
        "How it was made",
        table_of("Settings", [], rows),
        table_of("Parameters of the policies", heads, settings),
    )


MAX_SHOWN = 8
"""Longer lists of numbers are summed up."""


def _settings(values: dict[str, object]) -> str:
    return ", ".join(f"{name} = {_setting(value)}" for name, value in values.items()) or "none"


def _setting(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple) and len(value) > MAX_SHOWN:
        return f"{len(value)} values from {_setting(min(value))} to {_setting(max(value))}"
    if isinstance(value, list | tuple):
        return f"({', '.join(map(_setting, value))})"
    return "default" if value is None else str(value)


def section(anchor: str, title: str, *parts: Html) -> Html:
    return tag("section", tag("h2", title, id=f"{anchor}-title"), *parts, id=anchor, aria_labelledby=f"{anchor}-title")


def table_of(caption: str, heads: list[Html], rows: list[Html]) -> Html:
    head = [tag("thead", tag("tr", *heads))] if heads else []
    table = tag("table", tag("caption", caption), *head, tag("tbody", *rows))
    return tag("div", table, class_="scroll", tabindex="0", role="region", aria_label=caption)
