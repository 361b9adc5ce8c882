"""The page in headless Chromium: no errors, every plot drawn, choices act, light, dark and phone fit.

Screenshots are left in build/screenshots, for people to look at.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import screenshots as shots
from fluidgate.report import write_figures, write_report
from fluidgate.runs import Comparison

TWO_FRAMES = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"

pytestmark = pytest.mark.xdist_group("browser")


@pytest.fixture(scope="module")
def address(comparison: Comparison, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("browser") / "report.html"
    return write_report(comparison, path, command="fluidgate compare").as_uri()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The page on a desktop; at the end nothing may have gone wrong, or left the file."""
    with shots.opened(browser, address, shots.VIEWS["desktop"]) as opened:
        yield opened.page
        assert opened.troubles == []
        assert {url.split("#")[0] for url in opened.requests} == {address}


@pytest.fixture
def unfolded(page: Any) -> Any:
    """The page with every section open."""
    page.evaluate("document.querySelectorAll('details').forEach((details) => (details.open = true))")
    return page


def shown(page: Any, selector: str) -> list[str]:
    """The policies of the elements that are to be seen; one element may stand for several."""
    found = page.locator(selector).all()
    return " ".join(e.get_attribute("data-policy") or "" for e in found if e.is_visible()).split()


def test_it_fits_every_screen(fits_screen: Callable[..., None], address: str) -> None:
    fits_screen(address, "report")


def test_every_plot_is_drawn(unfolded: Any) -> None:
    sizes = unfolded.evaluate(
        """() => [...document.querySelectorAll("figure > svg")].map((svg) => {
             const marks = [...svg.querySelectorAll("path, rect")].map((mark) => mark.getBBox());
             return [svg.getBoundingClientRect().width, Math.max(...marks.map((box) => box.width + box.height))];
           })"""
    )
    assert len(sizes) > 20
    assert all(width > 200 and largest > 20 for width, largest in sizes)


def test_the_answer_is_on_the_first_screen(page: Any) -> None:
    answers = page.locator(".answer")
    assert answers.count() == 2
    first = page.locator(".answer-card").first
    for part in ("h2", ".answer", "table", "figure svg", ".use"):
        box = first.locator(part).bounding_box()
        assert box["y"] + box["height"] < 900
    assert answers.last.bounding_box()["y"] < 2 * 900


def test_policies_can_be_left_out(unfolded: Any) -> None:
    for selector in ("#kv figure", "#queue svg g[data-policy]", "#comparison thead th[data-policy]", "#stability tr"):
        assert "1" in shown(unfolded, selector)
    unfolded.locator("input[name=policy][value='1']").uncheck()
    for selector in ("#kv figure", "#queue svg g[data-policy]", "#comparison thead th[data-policy]", "#stability tr"):
        left = shown(unfolded, f"{selector}:not([data-policy*=' '])")
        assert "1" not in left
        left += shown(unfolded, selector)
        assert {"0", "2"} <= set(left)
    unfolded.locator("input[name=policy][value='1']").check()
    assert "1" in shown(unfolded, "#kv figure")


def test_a_load_can_be_chosen(unfolded: Any) -> None:
    heads = unfolded.locator("#kv h3")
    assert [head.is_visible() for head in heads.all()] == [True, True]
    unfolded.locator("input[name=load][value='1']").check()
    assert [head.is_visible() for head in heads.all()] == [False, True]
    unfolded.locator("input[name=load][value=all]").check()
    assert [head.is_visible() for head in heads.all()] == [True, True]


def test_a_metric_can_be_chosen(unfolded: Any) -> None:
    unfolded.locator("input[name=metric][value=tpot]").check()
    seen = [f.get_attribute("data-metric") for f in unfolded.locator("#latency .panels figure").all() if f.is_visible()]
    assert set(seen) == {"tpot"}


def test_the_pointer_reads_values(unfolded: Any, comparison: Comparison) -> None:
    seen = comparison.cells[3].timeline  # greedy in overload
    assert seen is not None
    plot = unfolded.locator("#kv [data-load='1'] figure svg").first
    plot.scroll_into_view_if_needed()
    unfolded.evaluate(TWO_FRAMES)  # scrolling hides what the pointer reads
    box, hover = plot.bounding_box(), json.loads(plot.get_attribute("data-hover"))
    start, end = hover["start"], hover["rows"][0]["end"]  # the run may end before its neighbours' axis does
    width = unfolded.evaluate("document.querySelector('#kv figure svg').viewBox.baseVal.width")
    unfolded.mouse.move(box["x"] + box["width"] * (start + end) / 2 / width, box["y"] + box["height"] / 2)
    tip = unfolded.locator("#tip")
    assert tip.is_visible()
    place = len(seen.kv_high) // 2
    near = [f"{value:.1%}" for value in seen.kv_high[place - 1 : place + 2]]
    assert f"{seen.kv_high[0]:.1%}" not in near  # or any place would do
    highest = re.search(r"max ([\d.]+%)", tip.inner_text())
    assert highest is not None
    assert highest[1] in near
    unfolded.mouse.move(2, 2)
    assert not tip.is_visible()


def test_all_of_it_is_there_without_scripts(browser: Any, address: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert not page.locator("#controls").is_visible()
    assert all(figure.is_visible() for figure in page.locator(".answers figure").all())
    assert not page.locator("#kv").is_visible()
    for summary in page.locator(".fold > details > summary").all():
        summary.click()
    assert all(figure.is_visible() for figure in page.locator("figure").all())
    assert page.locator("#kv h3").count() == 2
    context.close()


def test_figures_are_drawn_on_their_own(browser: Any, comparison: Comparison, tmp_path: Path) -> None:
    page = browser.new_page()
    for path in write_figures(comparison, tmp_path)[:4]:
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.getBoundingClientRect().width") > 300
    page.close()
