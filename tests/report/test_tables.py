"""Tables for the terminal: complete, and within 120 characters."""

from rich.console import Console

from fluidgate.report import comparison_table, facts_table, plan_table, summary_table
from fluidgate.runs import Comparison
from fluidgate.workload import generate, info


def printed(table: object) -> str:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    return console.export_text()


def test_comparison_table(comparison: Comparison) -> None:
    text = printed(comparison_table(comparison))
    assert all(len(line) <= 120 for line in text.splitlines())
    for words in ("greedy", "watermark", "concurrency-cap:cap=3", "Load 50%", "Load 120%", "silence", "stable"):
        assert words in text


def test_plan_table(comparison: Comparison) -> None:
    plan = comparison.scenarios[0].plan
    text = printed(plan_table(plan))
    assert all(label in text for label, _ in plan.summary_rows())


def test_summary_table_shows_intervals_only_for_repeats(comparison: Comparison) -> None:
    summaries = comparison.cells[0].summaries
    assert "95% interval" in printed(summary_table(summaries, "two"))
    one = printed(summary_table(summaries[:1], "one"))
    assert "95% interval" not in one
    assert "E2E" in one


def test_facts_table_names_every_class() -> None:
    text = printed(facts_table(info(generate("three-types", n=60, seed=0)), "facts"))
    assert all(name in text for name in ("p20-d100", "p20-d200", "p20-d300", "requests"))
