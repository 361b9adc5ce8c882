"""The top of the page: names that cover nothing, lines that coincide, the axis that decides, why, the six numbers."""

import random
import re
from html import unescape
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from fluidgate.metrics import Interval
from fluidgate.report import Deployment, ServeLine, recommend, write_report
from fluidgate.report.alike import Points, groups, together
from fluidgate.report.amounts import difference_texts
from fluidgate.report.deciding_chart import deciding_chart, separating
from fluidgate.report.labels import Box, around, place
from fluidgate.report.svg import Axis, tick_text
from fluidgate.report.why import why
from fluidgate.runs import Comparison

from .conftest import Change, both

FRAME = Box(50.0, 30.0, 400.0, 210.0)


def reason(comparison: Comparison) -> str:
    scenario = comparison.scenarios[0]
    return why(comparison, scenario, recommend(comparison, scenario))


@pytest.mark.parametrize("seed", range(20))
def test_no_name_lies_over_another_or_over_a_mark(seed: int) -> None:
    draw = random.Random(seed)
    crowded = draw.random()  # from all over the plot to one heap
    marks = [
        (225 + 160 * crowded * draw.uniform(-1, 1), 120 + 80 * crowded * draw.uniform(-1, 1))
        for _ in range(draw.randint(1, 12))
    ]
    texts = ["x" * draw.randint(3, 24) for _ in marks]
    labels = place(marks, texts, FRAME)
    assert labels == place(marks, texts, FRAME)
    placed = [label for label in labels if label is not None]
    assert placed
    assert all(FRAME.holds(label.box) for label in placed)
    assert not any(a.box.overlaps(b.box) for a, b in combinations(placed, 2))
    assert not any(label.box.overlaps(around(mark)) for label in placed for mark in marks)
    for one, other in combinations(placed, 2):
        assert not (one.leader and other.box.crossed_by(*one.leader))
        assert not (other.leader and one.box.crossed_by(*other.leader))


def test_a_name_stands_beside_its_mark_and_off_the_lines_where_there_is_room() -> None:
    (beside,) = place([(200.0, 100.0)], ["greedy"], FRAME)
    assert beside is not None
    assert (beside.anchor, beside.leader) == ("start", None)
    (off,) = place([(200.0, 100.0)], ["greedy"], FRAME, lines=[Box(200.0, 99.0, 300.0, 101.0)])
    assert off is not None
    assert off.anchor == "end"


def test_what_finds_no_place_is_said() -> None:
    assert place([(200.0, 100.0)], ["x" * 100], FRAME) == [None]


def curve(*values: float) -> Points:
    return np.column_stack([np.linspace(0.0, 1.0, len(values)), values])


def test_lines_that_coincide_are_one() -> None:
    rising = np.linspace(0.0, 1.0, 100)
    apart = rising + 0.05
    short = np.where(np.arange(100) < 80, rising, np.nan)
    spike = rising + 0.5 * (np.arange(100) == 50)
    lines = [curve(*values) for values in (rising, rising + 0.01, apart, short, spike, apart - 0.01)]
    assert groups(lines) == [[0, 1], [2, 5], [3], [4]]


def test_a_line_without_values_is_like_no_other() -> None:
    assert groups([curve(*np.zeros(10)), curve(*np.full(10, np.nan))]) == [[0], [1]]


def test_what_coincides_is_named_together() -> None:
    assert together(["a"]) == "a"
    assert together(["a", "b"]) == "a, b (2 alike)"
    assert together(list("abcdefg")) == "a, b, … (7 alike)"
    assert together(["a" * 20, "b" * 20], 34) == f"{'a' * 20}, … (2 alike)"
    assert len(together(["a" * 90, "b" * 90], 34)) == 34


def test_seven_lines_that_coincide_are_drawn_once(with_numbers: Change) -> None:
    same = with_numbers({})
    drawing = deciding_chart(same, same.scenarios[0])
    assert "greedy, … (3 alike)" in drawing or "greedy, watermark, … (3 alike)" in drawing
    assert drawing.count("<path") == 1


@pytest.mark.parametrize(
    ("key", "factor"), [("p99_longest_silence_s", 50.0), ("mean_e2el_ms", 3.0), ("mean_ttft_ms", 40.0)]
)
def test_the_chart_shows_what_separates_the_policies(with_numbers: Change, key: str, factor: float) -> None:
    base = getattr(with_numbers({}).cells[0].summaries[0], key)
    changed = with_numbers({"watermark": both(**{key: factor * max(base, 1.0)})})
    assert separating(changed, changed.scenarios[0]).metric == key


def throughput_ticks(comparison: Comparison) -> list[float]:
    drawing = deciding_chart(comparison, comparison.scenarios[0])
    texts = re.findall(r'<text x="[\d.]+" y="226"[^>]*>([\d,.]+)</text>', drawing)
    return [float(text.replace(",", "")) for text in texts]


def test_axes_are_zoomed_to_the_marks(with_numbers: Change) -> None:
    numbers = {"greedy": both(output_throughput=1000.0), "watermark": both(output_throughput=1040.0)}
    ticks = throughput_ticks(with_numbers(numbers | {"concurrency-cap:cap=3": both(output_throughput=1020.0)}))
    assert ticks
    assert min(ticks) >= 990
    assert max(ticks) <= 1050


def test_axes_are_not_zoomed_to_less_than_two_margins(with_numbers: Change) -> None:
    """The margin of throughput is 1%: two are 20 of 1,000, of which the outermost ticks leave little."""
    policies = ("greedy", "watermark", "concurrency-cap:cap=3")
    close = {name: both(output_throughput=1000.0 + 0.1 * k) for k, name in enumerate(policies)}
    ticks = throughput_ticks(with_numbers(close))
    assert max(ticks) - min(ticks) >= 15


def test_ticks_differ_in_writing() -> None:
    axis = Axis(1139.0, 1141.5, 0.0, 100.0)
    written = [tick_text(axis)(tick) for tick in axis.ticks()]
    assert len(set(written)) == len(written) > 2


def test_why_is_the_difference_from_the_baseline(with_numbers: Change) -> None:
    changed = with_numbers(
        {
            "greedy": both(p99_longest_silence_s=9.0, mean_ttft_ms=1000.0),
            "watermark": both(p99_longest_silence_s=2.0, mean_ttft_ms=1500.0),
            "concurrency-cap:cap=3": both(p99_longest_silence_s=9.0, mean_ttft_ms=1000.0),
        }
    )
    assert reason(changed) == (
        "Beside greedy, watermark has p99 longest silence −7 s [−7, −7], but mean TTFT +500 ms [+500, +500]. "
        "The other policy: concurrency-cap:cap=3 worse."
    )


def test_why_says_that_nothing_differs(with_numbers: Change) -> None:
    assert "and greedy gave the same numbers in every repeat." in reason(with_numbers({}))


def test_why_says_what_no_number_says(with_numbers: Change) -> None:
    unstable = [{"stable": False, "stability_reason": "the queue grows"}] * 2
    assert reason(with_numbers({"greedy": unstable})).startswith("greedy: unstable in 2 of 2 repeats. ")


@pytest.mark.parametrize(
    ("key", "ends", "texts"),
    [
        ("mean_ttft_ms", (-138.0, -210.0, -66.0), ("−138 ms", "[−210, −66]")),
        ("mean_ttft_ms", (138.0, -900.0, 1176.0), ("+0.138 s", "[−0.9, +1.18]")),
        ("p99_longest_silence_s", (-0.05, -0.06, -0.04), ("−50 ms", "[−60, −40]")),
        ("recompute_tax", (0.01, 0.0, 0.02), ("+1 points", "[0, +2]")),
        ("preemptions", (3.0, float("nan"), float("nan")), ("+3", "")),
    ],
)
def test_a_difference_and_its_interval_share_a_unit(
    key: str, ends: tuple[float, float, float], texts: tuple[str, str]
) -> None:
    assert difference_texts(key, Interval(*ends, 3)) == texts


def test_the_table_has_six_numbers_with_differences(with_numbers: Change, tmp_path: Path) -> None:
    silent = {"watermark": both(p99_longest_silence_s=9.0)}
    text = unescape(write_report(with_numbers(silent), tmp_path / "r.html").read_text(encoding="utf-8"))
    table = re.search(r'<table class="decides".*?</table>', text, re.DOTALL)
    assert table is not None
    assert table[0].count('scope="col"') == 7
    rows = re.findall(r'<tr role="row">.*?</tr>', table[0])
    assert [re.sub(r"<small.*?</small>|<[^>]+>", "", re.split("</th>", row)[0]) for row in rows] == [
        "greedy, concurrency-cap:cap=3",
        "watermark",
    ]
    assert [row.count("<td") for row in rows] == [6, 6]
    assert rows[1].count('class="note worse"') == 1


def test_the_line_to_serve_with_is_at_the_top(comparison: Comparison, tmp_path: Path) -> None:
    lines = tuple(ServeLine(name, f"vllm serve {name}", (), note=f"needs {name}") for name in ("plugin", "stock"))
    given = [Deployment(lines, first=1), Deployment(lines)]
    text = write_report(comparison, tmp_path / "r.html", deployments=given).read_text(encoding="utf-8")
    top = text.partition('class="fold"')[0]
    assert re.findall(r'<code id="serve-\d">([^<]+)', top) == ["vllm serve stock", "vllm serve plugin"]
    assert re.findall(r"needs (\w+)", top) == ["stock", "plugin"]
    assert top.count('href="#use-') == 2
