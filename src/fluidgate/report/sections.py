"""The sections of text and tables: standings, objectives, plan, stability, all numbers, how it was made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from itertools import groupby
from math import isfinite

from fluidgate.fluid.plan_rows import all_rows
from fluidgate.hardware import Hardware
from fluidgate.metrics import METRICS, Interval, PairedDifference
from fluidgate.report.html import Html, head, join, row, table, tag
from fluidgate.report.recommend import recommend, rule
from fluidgate.report.shown_metrics import compared_metrics, judge
from fluidgate.report.words import at_load, counted, load_name, load_title, signed, stability, unfinished
from fluidgate.runs import Cell, Comparison, Scenario
from fluidgate.version import version
from fluidgate.words import listed, percent

MAX_LISTED = 8
"""Longer lists of numbers are shown as their length and range."""


def standings(comparison: Comparison) -> Html:
    """The numbers of the policy to use at each load, how the others stand, and the rule."""
    cards = [_standings_card(comparison, scenario) for scenario in comparison.scenarios]
    return join([tag("div", *cards, class_="cards"), tag("h3", "The rule"), tag("p", rule(comparison), class_="soft")])


def _standings_card(comparison: Comparison, scenario: Scenario) -> Html:
    choice = recommend(comparison, scenario)
    against: dict[str, list[str]] = {}
    for policy, why in choice.others:
        against.setdefault(why, []).append(policy)
    return tag(
        "div",
        tag("h3", load_title(scenario)),
        tag("p", choice.reason),
        *([_bullets(f"{listed(policies)}: {why}" for why, policies in against.items())] if against else []),
        class_="card",
    )


def _bullets(sentences: Iterable[str]) -> Html:
    return tag("ul", *(tag("li", sentence) for sentence in sentences))


def objectives(comparison: Comparison) -> Html:
    """Policies by objectives, a table per load: the statistic, and whether it meets its bound."""
    heads = [head("policy"), *(head(objective.words, class_="text") for objective in comparison.objectives)]
    parts = [
        tag("div", table(load_title(scenario), heads, _judged_rows(comparison, scenario)), data_load=str(k))
        for k, scenario in enumerate(comparison.scenarios)
    ]
    note = (
        "Over all requests that the model takes; one that never got there counts as infinitely late. Met or missed is "
        "what the whole 95% interval over the repeats says."
    )
    return join([tag("p", note, class_="soft"), *parts])


def _judged_rows(comparison: Comparison, scenario: Scenario) -> list[Html]:
    style = {True: "strip yes", False: "strip no", None: "strip unclear"}
    return [
        row(
            cell.policy,
            *(tag("td", judged.outcome, class_=style[judged.met]) for judged in comparison.judged(cell)),
            data_policy=str(place),
        )
        for place, cell in enumerate(comparison.at(scenario))
    ]


def plan(comparison: Comparison) -> Html:
    """What the fluid model says before any run: at each load, at every load, and in numbers."""
    verdicts = [scenario.plan.verdict for scenario in comparison.scenarios]
    common = [sentence for sentence in verdicts[0] if all(sentence in verdict for verdict in verdicts)]
    titled = list(zip(map(load_title, comparison.scenarios), verdicts, strict=True))
    if len(verdicts) > 1 and common:
        titled = [(title, tuple(s for s in verdict if s not in common)) for title, verdict in titled]
        titled.append(("At every load", tuple(common)))
    cards = [tag("div", tag("h3", title), _bullets(sentences), class_="card") for title, sentences in titled]
    numbers = tag("details", tag("summary", "All numbers of the plan"), _plan_table(comparison))
    return join([tag("div", *cards, class_="cards"), numbers])


def _plan_table(comparison: Comparison) -> Html:
    rows = []
    for per_load in zip(*(all_rows(scenario.plan) for scenario in comparison.scenarios), strict=True):
        spans = [(value, len(list(equal))) for value, equal in groupby(value for _, value in per_load)]
        cells = [
            tag("td", value, class_="same", colspan=span) if span > 1 else tag("td", value) for value, span in spans
        ]
        rows.append(row(per_load[0][0], *cells))
    heads = [head("load"), *(head(load_name(scenario)) for scenario in comparison.scenarios)]
    return table("The fluid plan, by load", heads, rows)


def stability_strip(comparison: Comparison) -> Html:
    """Policies by loads: does the queue stay bounded?"""
    heads = [head("load"), *(head(load_name(scenario), class_="strip") for scenario in comparison.scenarios)]
    rows = []
    for place, cells in enumerate(zip(*(comparison.at(scenario) for scenario in comparison.scenarios), strict=True)):
        verdicts = [
            tag("td", stability(cell), class_=f"strip {_strip_style(cell)}", title=_stability_reasons(cell))
            for cell in cells
        ]
        rows.append(row(cells[0].policy, *verdicts, data_policy=str(place)))
    return table("Stability by policy and load, over all repeats", heads, rows)


def _strip_style(cell: Cell) -> str:
    return {"stable": "yes", "unstable": "no"}.get(stability(cell), "unclear")


def _stability_reasons(cell: Cell) -> str:
    return "; ".join(dict.fromkeys(summary.stability_reason for summary in cell.summaries))


def all_numbers(comparison: Comparison) -> Html:
    """A table per load: every metric of every policy, with intervals and differences from the baseline."""
    values = (
        f"Mean over {comparison.repeats} repeats ± half the width of the 95% interval; below it, the paired "
        f"difference from {comparison.baseline} (in each repeat, all policies saw the same requests), marked ▲ better "
        "or ▼ worse only where its 95% interval excludes zero. "
    )
    if comparison.repeats == 1:
        values = (
            f"Below each value, the difference from {comparison.baseline} (all policies saw the same requests); one "
            "repeat gives no intervals, so none is marked better or worse. "
        )
    missing = "aborted and unfinished" if comparison.gives_up else "unfinished"
    note = values + (
        f"Latencies cover only the requests that have them, so look at the {missing} ones first. The fluid bound's "
        "share and the two losses add up to the busy time; below the load from which memory matters, under-use is "
        "large and harmless: batches are small because there are few requests."
    )
    tables = [
        tag("div", tag("h3", load_title(scenario)), _comparison_table(comparison, scenario), data_load=str(place))
        for place, scenario in enumerate(comparison.scenarios)
    ]
    return join([tag("p", note, class_="soft"), tag("div", *tables, class_="by-load")])


def _comparison_table(comparison: Comparison, scenario: Scenario) -> Html:
    cells = comparison.at(scenario)
    rows = [_unfinished_row(cells), _stability_row(cells)]
    intervals = [cell.intervals for cell in cells]
    for key in compared_metrics(comparison):
        values = []
        for place, cell in enumerate(cells):
            difference = None if cell.policy == comparison.baseline else comparison.difference(cell, key)
            values.append(_value_cell(place, key, intervals[place][key], difference))
        metric = METRICS[key]
        rows.append(row(join([metric.label, *([tag("small", metric.unit)] if metric.unit else [])]), *values))
    heads = _policy_heads(comparison, scenario)
    caption = f"{counted(comparison.requests, 'request')} per repeat, {at_load(scenario)}"
    return table(caption, heads, rows)


def _policy_heads(comparison: Comparison, scenario: Scenario) -> list[Html]:
    pick = recommend(comparison, scenario).policy
    heads = [head("")]
    for place, cell in enumerate(comparison.at(scenario)):
        roles = {"baseline": cell.policy == comparison.baseline, "recommended": cell.policy == pick}
        names = ", ".join(role for role, holds in roles.items() if holds)
        small = [tag("small", names)] if names else []
        style = "pick" if cell.policy == pick else None
        heads.append(head(cell.policy, *small, class_=style, data_policy=str(place)))
    return heads


def _unfinished_row(cells: tuple[Cell, ...]) -> Html:
    counts = [
        tag("td", f"{unfinished(cell):,}", class_="bad" if unfinished(cell) else None, data_policy=str(place))
        for place, cell in enumerate(cells)
    ]
    return row(join(["Requests unfinished", tag("small", "in all repeats")]), *counts)


def _stability_row(cells: tuple[Cell, ...]) -> Html:
    verdicts = []
    for place, cell in enumerate(cells):
        style = "bad" if any(summary.stable is False for summary in cell.summaries) else None
        reasons = _stability_reasons(cell)
        wrapped = " ".join(filter(None, ("wrap", style)))
        verdicts.append(tag("td", stability(cell), class_=wrapped, title=reasons, data_policy=str(place)))
    return row("Stability", *verdicts)


def _value_cell(place: int, key: str, value: Interval, difference: Interval | None) -> Html:
    small = [tag("small", _difference(key, difference))] if difference and isfinite(difference.mean) else []
    return tag("td", METRICS[key].text(value.mean) + _half_width(key, value), *small, data_policy=str(place))


def _half_width(key: str, value: Interval) -> str:
    half = (value.high - value.low) / 2
    return f" ±{METRICS[key].text(half)}" if isfinite(half) else ""


def _difference(key: str, difference: Interval) -> Html:
    text = signed(METRICS[key].text(difference.mean)) + _half_width(key, difference)
    if isinstance(difference, PairedDifference) and isfinite(difference.relative.mean) and METRICS[key].unit:
        text += f" ({signed(f'{difference.relative.mean:.0%}')})"
    verdict = judge(key, difference)
    if verdict is None:
        return tag("span", text)
    return tag("span", {"better": "▲ better ", "worse": "▼ worse "}[verdict] + text, class_=f"note {verdict}")


def provenance(comparison: Comparison, command: str | None) -> Html:
    """Everything needed to reproduce the numbers."""
    hardware = comparison.hardware
    error = hardware.relative_error
    facts = {
        "fluidgate": version(),
        **({"command": command} if command else {}),
        "workload": comparison.workload_name,
        "workload digest": f"{comparison.workload_digest} (first repeat)",
        "requests per repeat": f"{comparison.requests:,}",
        "repeats, seed": f"{comparison.repeats}, {comparison.seed}",
        "service level": settings(asdict(comparison.slo)) if comparison.slo else "none",
        "hardware": hardware.name,
        "hardware source": hardware.source or "not given",
        "error of the four-term step time": percent(error) + " on average" if isfinite(error) else "unknown",
        "step time": step_time_text(hardware),
        "KV blocks": f"{hardware.kv_cache_text}; one is the null block",
        "engine": settings(asdict(comparison.config)),
    }
    parameters = [
        row(cell.policy, tag("td", load_name(cell.scenario)), tag("td", settings(cell.parameters), class_="text"))
        for cell in comparison.cells
    ]
    heads = [head("policy"), head("load"), head("parameters", class_="text")]
    all_facts = table("Settings", [], [row(name, tag("td", value, class_="text")) for name, value in facts.items()])
    return join([all_facts, table("Parameters of the policies", heads, parameters)])


def step_time_text(hardware: Hardware) -> str:
    """The terms of a step, or the digest of its table."""
    if hardware.grid is not None:
        return f"a grid, {hardware.grid.digest}"
    return ", ".join(f"{term} {value:.4g} s" for term, value in asdict(hardware.step_time).items())


def settings(values: Mapping[str, object]) -> str:
    """Names and values in a line."""
    return ", ".join(f"{name} = {_setting(value)}" for name, value in values.items()) or "none"


def _setting(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple) and len(value) > MAX_LISTED:
        return f"{len(value)} values from {_setting(min(value))} to {_setting(max(value))}"
    if isinstance(value, list | tuple):
        return f"({', '.join(map(_setting, value))})"
    return "default" if value is None else str(value)
