"""The page: well-formed, self-contained, complete, and safe against hostile names."""

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fluidgate.errors import InputError
from fluidgate.metrics import METRICS, Objective
from fluidgate.report import Deployment, ServeLine, write_figures, write_report
from fluidgate.runs import Cell, Comparison, frontier, side_by_side
from fluidgate.words import number

from .conftest import HARDWARE, Change
from .markup import assert_self_contained, parsed


@pytest.fixture(scope="module")
def text(comparison: Comparison, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    assert write_report(comparison, path, command="fluidgate compare --load 0.5") == path
    return path.read_text(encoding="utf-8")


def test_tags_are_balanced_and_the_page_is_accessible(text: str) -> None:
    page = parsed(text)
    assert text.lower().startswith("<!doctype html>")
    assert ("lang", "en") in page.attributes
    assert page.seen.count("h1") == 1
    assert page.seen.count("caption") == page.seen.count("table")
    assert {"svg", "table", "h2"} <= set(page.seen)


def test_nothing_is_loaded_from_elsewhere(text: str) -> None:
    assert_self_contained(text)
    assert len(text.encode()) < 3_000_000


def test_light_dark_and_phone(text: str) -> None:
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text


def test_every_policy_load_and_setting_is_there(text: str, comparison: Comparison) -> None:
    for cell in comparison.cells:
        assert cell.policy in text
    assert "Load 50%" in text
    assert "Load 120%" in text
    assert comparison.workload_digest in text
    assert "made up" in text  # the source of the hardware's numbers
    assert "fluidgate compare --load 0.5" in text


def test_the_busy_time_is_accounted_for(text: str) -> None:
    assert all(METRICS[key].label in text for key in ("fluid_efficiency", "recompute_loss", "underuse_loss"))


def test_names_are_escaped(comparison: Comparison, tmp_path: Path) -> None:
    hostile = '<script>alert("x")</script>&'
    changed = replace(
        comparison,
        workload_name=hostile,
        cells=tuple(replace(cell, policy=cell.policy + "<b>") for cell in comparison.cells),
        baseline="greedy<b>",
    )
    text = write_report(changed, tmp_path / "r.html", command=hostile).read_text(encoding="utf-8")
    page = parsed(text)
    assert page.seen.count("script") == 1  # the page's own
    assert "b" not in page.seen
    assert "&lt;script&gt;" in text


def test_what_was_not_looked_at_is_said(comparison: Comparison, text: str, tmp_path: Path) -> None:
    blind = replace(comparison, cells=tuple(replace(cell, timeline=None) for cell in comparison.cells))
    page = write_report(blind, tmp_path / "r.html").read_text(encoding="utf-8")
    parsed(page)
    assert "have no timelines" in page
    assert "have no timelines" not in text
    assert page.count("<svg") < text.count("<svg")


def test_batches_that_were_not_followed_are_said(comparison: Comparison, tmp_path: Path) -> None:
    def without_batch(cell: Cell) -> Cell:
        assert cell.timeline is not None
        return replace(cell, timeline=replace(cell.timeline, batch=[]))

    cells = tuple(map(without_batch, comparison.cells))
    page = write_report(replace(comparison, cells=cells), tmp_path / "r.html").read_text(encoding="utf-8")
    assert page.count("Batches were not recorded: a repeat has more than 20,000,000 output tokens") == 2
    assert "have no timelines" not in page


def test_stability_is_a_strip(with_numbers: Change, tmp_path: Path) -> None:
    mixed = {"greedy": [{"stable": True}, {"stable": True}], "watermark": [{"stable": False}, {"stable": False}]}
    unknown = {"concurrency-cap:cap=3": [{"stable": None}, {"stable": True}]}
    page = write_report(with_numbers(mixed | unknown), tmp_path / "r.html").read_text(encoding="utf-8")
    strips = re.findall(r'<td class="strip (\w+)"[^>]*>([^<]+)<', page)
    assert strips == [("yes", "stable"), ("no", "unstable"), ("unclear", "1 stable, 1 unclear")]


def test_objectives_are_a_table_with_their_verdicts(with_numbers: Change, tmp_path: Path) -> None:
    late, early = ([{"objectives": [value]}] * 2 for value in (3000.0, 1000.0))
    judged = replace(
        with_numbers({"greedy": late, "concurrency-cap:cap=3": early, "watermark": early}),
        objectives=(Objective("ttft", 99.0, 2000.0),),
    )
    page = write_report(judged, tmp_path / "judged.html").read_text(encoding="utf-8")
    assert 'href="#objectives"' in page
    assert "p99 TTFT of at most 2 s</th>" in page
    assert 'class="strip no">3 s, missed by 50%</td>' in page
    assert page.count('class="strip yes">1 s, met by 50%</td>') == 2
    without = write_report(with_numbers({}), tmp_path / "without.html").read_text(encoding="utf-8")
    assert "objectives" not in without.partition("<script")[0].partition("</style>")[2]


def test_of_several_workloads_every_figure_and_table_says_which(comparison: Comparison, tmp_path: Path) -> None:
    objectives = (Objective("ttft", 99.0, 2000.0),)
    cells = tuple(
        replace(cell, summaries=tuple(replace(summary, objectives=[1000.0]) for summary in cell.summaries))
        for cell in comparison.cells
    )
    one = replace(comparison, cells=cells, objectives=objectives)
    joined = side_by_side([replace(one, workload_name=name) for name in ("chat", "reasoning")])
    page = write_report(joined, tmp_path / "r.html").read_text(encoding="utf-8")
    labels = re.findall(r'<(?:svg|div)[^>]*? aria-label="([^"]*[Ll]oad (?:50|120)%[^"]*)"', page)
    assert len(labels) > 50
    assert not [label for label in labels if "chat" not in label and "reasoning" not in label]
    (overview,) = re.findall(r"<svg(?:(?!</svg>).)*against output throughput\. .*?</svg>", page)
    lines = re.findall(r'<path d="([^"]*)" fill="none"', overview)
    assert lines
    assert all(path.count("M") == 2 for path in lines), "no line leads from one workload to the other"


def test_stable_rates_stand_beside_the_boundary(comparison: Comparison, tmp_path: Path) -> None:
    found = frontier(
        "p512-d20", HARDWARE, ["greedy", "watermark"], requests=400, tolerance=0.05, config=comparison.config
    )
    text = write_report(comparison, tmp_path / "r.html", frontier=found).read_text(encoding="utf-8")
    assert "Largest stable rate" in text
    assert f"fluid boundary, {number(found.rates[0].boundary_rate)} req/s" in text
    for rate in found.rates:
        assert f"{rate.rate:.4g} req/s" in text
    assert "Largest stable rate" not in write_report(comparison, tmp_path / "without.html").read_text(encoding="utf-8")


def test_what_to_set_in_vllm(comparison: Comparison, tmp_path: Path) -> None:
    line = ServeLine("Stock", "vllm serve m --max-num-seqs 3", (("--max-num-seqs", "3", "seats, as <planned>"),))
    given = [Deployment((line,)), Deployment(note="vLLM cannot run this")]
    page = write_report(comparison, tmp_path / "r.html", deployments=given).read_text(encoding="utf-8")
    parsed(page)
    assert "vllm serve m --max-num-seqs 3" in page
    assert "seats, as &lt;planned&gt;" in page
    assert "vLLM cannot run this" in page


def test_figures_stand_alone(comparison: Comparison, tmp_path: Path) -> None:
    paths = write_figures(comparison, tmp_path / "new" / "figures")
    assert len(set(paths)) == len(paths)
    names = {path.name for path in paths}
    assert {
        "answer-load-50.svg",
        "throughput-latency.svg",
        "kv-load-120-greedy.svg",
        "ttft-load-50.svg",
        "busy-time-load-50.svg",
    } <= names
    for path in paths:
        root = ElementTree.parse(path).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert float(root.attrib["width"]) > 0
        text = path.read_text(encoding="utf-8")
        assert "var(" not in text
        assert "data-hover" not in text


def test_names_that_give_the_same_file_do_not_overwrite(comparison: Comparison, tmp_path: Path) -> None:
    twins = {"greedy": "a:x=1", "watermark": "a:x-1", "concurrency-cap:cap=3": "b"}
    cells = tuple(replace(cell, policy=twins[cell.policy]) for cell in comparison.cells)
    paths = write_figures(replace(comparison, baseline="a:x=1", cells=cells), tmp_path)
    assert {"kv-load-50-a-x-1.svg", "kv-load-50-a-x-1-2.svg"} <= {path.name for path in paths}
    assert all(path.is_file() for path in paths)


def test_a_folder_that_cannot_be_made_is_refused(comparison: Comparison, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file"):
        write_figures(comparison, tmp_path / "file" / "figures")


def test_only_sure_differences_are_coloured(with_numbers: Change, tmp_path: Path) -> None:
    def marks(repeats: list[dict[str, float]]) -> tuple[int, int]:
        page = write_report(with_numbers({"watermark": repeats}), tmp_path / "r.html").read_text(encoding="utf-8")
        body = page.split("</style>")[1]
        return body.count("note better"), body.count("note worse")

    assert marks([{}, {}]) == (0, 0)
    assert marks([{"mean_ttft_ms": 1e6}, {"mean_ttft_ms": 1e6}])[1] > 0
    assert marks([{"mean_ttft_ms": -1e6}, {"mean_ttft_ms": -1e6}])[0] > 0
    base = with_numbers({}).cells[0].summaries
    scattered = [{"mean_ttft_ms": base[0].mean_ttft_ms * 0.5}, {"mean_ttft_ms": base[1].mean_ttft_ms * 1.6}]
    assert marks(scattered) == (0, 0)


def test_a_difference_that_rounds_to_zero_has_no_sign(with_numbers: Change, tmp_path: Path) -> None:
    """Throughput is shown without decimals, its relative difference in whole percent."""

    def difference(throughput: float) -> str:
        repeats = {"greedy": [{"output_throughput": 1000.0}] * 2, "watermark": [{"output_throughput": throughput}] * 2}
        page = write_report(with_numbers(repeats), tmp_path / "r.html").read_text(encoding="utf-8")
        row = re.search(r"<tr><th[^>]*>Output throughput.*?</tr>", page)
        assert row is not None
        return re.findall(r"<span[^>]*>([^<]*)</span>", row[0])[0]

    assert difference(1000.2) == "▲ better 0 ±0 (0%)"
    assert difference(999.8) == "▼ worse 0 ±0 (0%)"
    assert difference(900.0) == "▼ worse −100 ±0 (−10%)"
    assert difference(1100.0) == "▲ better +100 ±0 (+10%)"


def test_policies_with_the_same_drawback_share_a_line(with_numbers: Change, tmp_path: Path) -> None:
    unfinished = [{"unfinished": 2}, {"unfinished": 2}]
    numbers = {"watermark": unfinished, "concurrency-cap:cap=3": unfinished}
    page = write_report(with_numbers(numbers), tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<li>watermark and concurrency-cap:cap=3: 4 requests unfinished</li>" in page


def test_unfinished_requests_are_seen(with_numbers: Change, tmp_path: Path) -> None:
    left = with_numbers({"watermark": [{"unfinished": 7}, {"unfinished": 4}]})
    assert re.search(r">\s*11\s*<", write_report(left, tmp_path / "r.html").read_text(encoding="utf-8"))


def test_a_place_that_cannot_be_written_is_refused(comparison: Comparison, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere"):
        write_report(comparison, tmp_path / "nowhere" / "r.html")
