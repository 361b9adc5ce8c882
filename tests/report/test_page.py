"""The page: well-formed, self-contained, complete, and safe against hostile names."""

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fluidgate.errors import InputError
from fluidgate.experiments import Comparison
from fluidgate.metrics import METRICS
from fluidgate.report import write_report
from fluidgate.report.html import VOID

Change = Callable[[dict[str, list[dict[str, Any]]]], Comparison]


class Balanced(HTMLParser):
    """Fails on a tag that is closed but not open, and keeps the text and the attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag


def parsed(text: str) -> Balanced:
    page = Balanced()
    page.feed(text)
    page.close()
    assert page.open == []
    return page


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
    page = parsed(text)
    assert "script" not in page.seen
    assert not any(name in ("src", "href") for name, _ in page.attributes)
    assert set(re.findall(r"https?://[^\"' <]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert "url(" not in text
    assert len(text.encode()) < 1_000_000


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
    assert "script" not in page.seen
    assert "b" not in page.seen
    assert "&lt;script&gt;" in text


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


def test_unfinished_requests_are_seen(with_numbers: Change, tmp_path: Path) -> None:
    left = with_numbers({"watermark": [{"unfinished": 7}, {"unfinished": 4}]})
    assert re.search(r">\s*11\s*<", write_report(left, tmp_path / "r.html").read_text(encoding="utf-8"))


def test_a_place_that_cannot_be_written_is_refused(comparison: Comparison, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere"):
        write_report(comparison, tmp_path / "nowhere" / "r.html")
