"""The table at the top of the page: policies by the six numbers that decide, with differences from the baseline."""

from __future__ import annotations

from fluidgate.metrics import METRICS
from fluidgate.report.amounts import difference_texts, scale_of
from fluidgate.report.criteria import deciding, mean_of
from fluidgate.report.grid_table import grid_cell, grid_head, grid_row, grid_table
from fluidgate.report.html import Html, join, tag
from fluidgate.report.recommend import Recommendation
from fluidgate.report.shown_metrics import judge
from fluidgate.report.why import troubles
from fluidgate.report.words import capital, counted
from fluidgate.runs import Cell, Comparison, Scenario
from fluidgate.words import listed


def deciding_table(comparison: Comparison, scenario: Scenario, choice: Recommendation) -> Html:
    """One row per policy, or per policies that gave the same numbers in every repeat."""
    names = {criterion.metric: capital(criterion.words) for criterion in deciding(comparison)}
    metrics = list(names)
    cells = comparison.at(scenario)
    units = {key: scale_of(key, [mean_of(cell, key) for cell in cells]) for key in metrics}
    heads = [
        grid_head(names[key], tag("small", ", ".join(filter(None, (units[key].unit, _direction(key))))))
        for key in metrics
    ]
    rows = []
    for same in _same(cells, metrics):
        values = [
            grid_cell(
                units[key].titled(names[key]),
                units[key].text(mean_of(same[0], key)),
                *_difference(comparison, same, key),
            )
            for key in metrics
        ]
        rows.append(grid_row(_name(comparison, same, choice), *values))
    return grid_table(_caption(comparison), [grid_head("policy"), *heads], rows)


def _direction(key: str) -> str:
    return f"{METRICS[key].better} is better"


def _caption(comparison: Comparison) -> str:
    what, base = "The six numbers that decide", comparison.baseline
    if comparison.repeats == 1:
        return f"{what}: one repeat; below, the difference from {base}, without intervals."
    means = f"means over {counted(comparison.repeats, 'repeat')}"
    return f"{what}: {means}; below, the paired difference from {base} with its 95% interval."


def _same(cells: tuple[Cell, ...], metrics: list[str]) -> list[list[Cell]]:
    """The policies together that have the same numbers in every repeat."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        numbers = [[getattr(summary, key) for key in metrics] for summary in cell.summaries]
        found.setdefault(repr(numbers), []).append(cell)
    return list(found.values())


def _name(comparison: Comparison, same: list[Cell], choice: Recommendation) -> Html:
    names = [cell.policy for cell in same]
    chosen = tag("strong", choice.policy, class_="pick") if choice.policy in names else None
    shown = [chosen if chosen and name == choice.policy else name for name in names]
    named = join([part for place, name in enumerate(shown) for part in ([", "] if place else []) + [name]])
    roles = [
        *(["recommended"] if choice.policy in names else []),
        *(["baseline"] if comparison.baseline in names else []),
        *(["same numbers"] if len(names) > 1 else []),
    ]
    against = list(dict.fromkeys(trouble for cell in same for trouble in troubles(comparison, cell)))
    return join(
        [
            named,
            *([tag("small", ", ".join(roles))] if roles else []),
            *([tag("small", listed(against), class_="bad")] if against else []),
        ]
    )


def _difference(comparison: Comparison, same: list[Cell], key: str) -> list[Html]:
    """Two small lines: the difference, coloured where its interval excludes zero, and the interval."""
    if comparison.baseline in [cell.policy for cell in same]:
        return []
    difference = comparison.difference(same[0], key)
    mean, interval = difference_texts(key, difference)
    if mean == "–":
        return []
    verdict = judge(key, difference)
    style = f"note {verdict}" if verdict else None
    text = f"{mean} {verdict}" if verdict else mean
    return [tag("small", tag("span", text, class_=style)), *([tag("small", interval)] if interval else [])]
