"""Tables for the terminal: complete, and within the width of it."""

import pytest
from rich.console import Console

from fluidgate.fluid.plan_rows import all_rows, main_rows
from fluidgate.report import comparison_table, facts_table, plan_table, summary_table
from fluidgate.report.shown_metrics import SHOWN, columns, narrow_order
from fluidgate.runs import Comparison
from fluidgate.workload import generate, info


def printed(table: object, width: int = 120) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    return console.export_text()


@pytest.mark.parametrize("width", [60, 80, 100, None])
def test_comparison_table(comparison: Comparison, width: int | None) -> None:
    text = printed(comparison_table(comparison, width), width or 1000)
    assert "…" not in text
    for words in ("greedy", "watermark", "concurrency-cap:cap=3", "Load 50%", "Load 120%", "stable"):
        assert words in text
    rows = [line.split() for line in text.splitlines() if line.startswith("greedy")]
    whole = [
        line.split() for line in printed(comparison_table(comparison), 1000).splitlines() if line.startswith("greedy")
    ]
    for row, all_of_it in zip(rows, whole, strict=True):
        kept = iter(all_of_it)
        assert all(value in kept for value in row), "the same numbers, in the same order"
    headings = len(columns(comparison))
    assert len(whole[0]) >= headings
    assert (len(rows[0]) == len(whole[0])) == ("Not shown" not in text)
    assert len(rows[0]) >= {60: 5, 80: 8, 100: 11, None: headings}[width]


def test_every_column_has_its_place_in_a_narrow_table() -> None:
    keys = {metric.key for metric in SHOWN if metric.column}
    assert set(narrow_order(keys)) == keys


def test_plan_table(comparison: Comparison) -> None:
    plan = comparison.scenarios[0].plan
    text = printed(plan_table(plan, all_numbers=True))
    assert all(label in text for label, _ in all_rows(plan))
    text = printed(plan_table(plan), 80)
    assert len(main_rows(plan)) == 8
    assert all(label in text for label, _ in main_rows(plan))


def test_summary_table_shows_intervals_only_for_repeats(comparison: Comparison) -> None:
    summaries = comparison.cells[0].summaries
    assert "95% interval" in printed(summary_table(summaries, "two"))
    one = printed(summary_table(summaries[:1], "one"))
    assert "95% interval" not in one
    assert "E2E" in one


def test_facts_table_names_every_class() -> None:
    text = printed(facts_table(info(generate("three-types", n=60, seed=0)), "facts"))
    assert all(name in text for name in ("p20-d100", "p20-d200", "p20-d300", "requests"))
