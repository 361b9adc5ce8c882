"""The page in headless Chromium: no errors, every plot drawn, choices act, light, dark and phone fit.

Screenshots are left in build/screenshots, for people to look at.
"""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fluidgate.report import write_figures, write_report
from fluidgate.runs import Comparison

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'fluidgate[dev]'")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SCREENSHOTS = Path(__file__).resolve().parents[2] / "build" / "screenshots"
PATIENCE_MS = 600_000  # a busy machine must not fail a test
TWO_FRAMES = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
VIEWS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1200, "height": 900}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1200, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True},
}

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
    pytest.mark.xdist_group("browser"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=PATIENCE_MS)
        yield running
        running.close()


@pytest.fixture(scope="module")
def address(comparison: Comparison, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("browser") / "report.html"
    return write_report(comparison, path, command="fluidgate compare").as_uri()


@pytest.fixture
def page(browser: Any, address: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page in the view that the test asks for; at the end nothing may have gone wrong, or left the file."""
    context = browser.new_context(**getattr(request, "param", VIEWS["light"]))
    context.set_default_timeout(PATIENCE_MS)
    opened, troubles, requests = context.new_page(), [], []
    opened.on("console", lambda message: troubles.append(message.text))
    opened.on("pageerror", lambda error: troubles.append(str(error)))
    opened.on("request", lambda made: requests.append(made.url))
    opened.goto(address)
    yield opened
    assert troubles == []
    assert {url.split("#")[0] for url in requests} == {address}
    context.close()


def shown(page: Any, selector: str) -> list[str | None]:
    """The policies of the elements that are to be seen."""
    found = page.locator(selector).all()
    return [element.get_attribute("data-policy") for element in found if element.is_visible()]


@pytest.mark.parametrize(("page", "name"), [(VIEWS[name], name) for name in VIEWS], ids=VIEWS, indirect=["page"])
def test_it_fits_the_screen(page: Any, name: str) -> None:
    width = VIEWS[name]["viewport"]["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", background)[:3]))
    assert (brightness < 150) == (name == "dark")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"report-{name}.png", full_page=True)
    print(f"screenshot: {SCREENSHOTS / f'report-{name}.png'}")


def test_every_plot_is_drawn(page: Any) -> None:
    sizes = page.evaluate(
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
    for answer in answers.all():
        box = answer.bounding_box()
        assert box["y"] + box["height"] < 900


def test_policies_can_be_left_out(page: Any) -> None:
    for selector in ("#kv figure", "#queue svg g[data-policy]", "#comparison thead th[data-policy]", "#stability tr"):
        assert "1" in shown(page, selector)
    page.locator("input[name=policy][value='1']").uncheck()
    for selector in ("#kv figure", "#queue svg g[data-policy]", "#comparison thead th[data-policy]", "#stability tr"):
        left = shown(page, selector)
        assert "1" not in left
        assert {"0", "2"} <= set(left)
    page.locator("input[name=policy][value='1']").check()
    assert "1" in shown(page, "#kv figure")


def test_a_load_can_be_chosen(page: Any) -> None:
    heads = page.locator("#kv h3")
    assert [head.is_visible() for head in heads.all()] == [True, True]
    page.locator("input[name=load][value='1']").check()
    assert [head.is_visible() for head in heads.all()] == [False, True]
    page.locator("input[name=load][value=all]").check()
    assert [head.is_visible() for head in heads.all()] == [True, True]


def test_a_metric_can_be_chosen(page: Any) -> None:
    page.locator("input[name=metric][value=tpot]").check()
    seen = [f.get_attribute("data-metric") for f in page.locator("#latency .panels figure").all() if f.is_visible()]
    assert set(seen) == {"tpot"}


def test_the_pointer_reads_values(page: Any, comparison: Comparison) -> None:
    seen = comparison.cells[3].timeline  # greedy in overload
    assert seen is not None
    plot = page.locator("#kv [data-load='1'] figure svg").first
    plot.scroll_into_view_if_needed()
    page.evaluate(TWO_FRAMES)  # scrolling hides what the pointer reads
    box, hover = plot.bounding_box(), json.loads(plot.get_attribute("data-hover"))
    start, end = hover["start"], hover["rows"][0]["end"]  # the run may end before its neighbours' axis does
    width = page.evaluate("document.querySelector('#kv figure svg').viewBox.baseVal.width")
    page.mouse.move(box["x"] + box["width"] * (start + end) / 2 / width, box["y"] + box["height"] / 2)
    tip = page.locator("#tip")
    assert tip.is_visible()
    place = len(seen.kv_high) // 2
    near = [f"{value:.1%}" for value in seen.kv_high[place - 1 : place + 2]]
    assert f"{seen.kv_high[0]:.1%}" not in near  # or any place would do
    highest = re.search(r"max ([\d.]+%)", tip.inner_text())
    assert highest is not None
    assert highest[1] in near
    page.mouse.move(2, 2)
    assert not tip.is_visible()


def test_all_of_it_is_there_without_scripts(browser: Any, address: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert not page.locator("#controls").is_visible()
    assert all(figure.is_visible() for figure in page.locator("figure").all())
    assert page.locator("#kv h3").count() == 2
    context.close()


def test_figures_are_drawn_on_their_own(browser: Any, comparison: Comparison, tmp_path: Path) -> None:
    page = browser.new_page()
    for path in write_figures(comparison, tmp_path)[:4]:
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.getBoundingClientRect().width") > 300
    page.close()
