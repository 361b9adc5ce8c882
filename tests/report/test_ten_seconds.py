"""The demo's report in Chromium: the answers fit three phone screens, paper four pages, and the lines can be copied."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import screenshots as shots

pytestmark = pytest.mark.xdist_group("browser")


@pytest.fixture(scope="module")
def address(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of `fluidgate demo`, made only where there is a browser to see it in."""
    return shots.demo_report(tmp_path_factory.mktemp("demo")).as_uri()


def test_it_fits_every_screen(fits_screen: Callable[..., None], address: str) -> None:
    fits_screen(address, "demo")


def test_the_answers_take_less_than_three_phone_screens(browser: Any, address: str) -> None:
    measures = shots.photograph(browser, address, shots.PHONE)
    assert measures.above_fold is not None
    assert measures.above_fold < 3 * shots.PHONE["viewport"]["height"]


def test_it_prints_on_four_pages(browser: Any, address: str) -> None:
    shots.FOLDER.mkdir(parents=True, exist_ok=True)
    target = shots.FOLDER / "demo.pdf"
    assert 1 <= shots.printed_pages(browser, address, target) <= 4
    print(f"printed: {target}")


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    with shots.opened(browser, address, shots.VIEWS["desktop"]) as opened:
        yield opened.page
        assert opened.troubles == []


READ_CLIPBOARD = "() => navigator.clipboard.readText()"


@pytest.mark.parametrize("refused", [False, True], ids=["clipboard", "refused"])
def test_the_button_copies_the_line(page: Any, refused: bool) -> None:
    """With the keyboard; and where the browser refuses the clipboard to a file."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate("() => navigator.clipboard.writeText('something else')")
    if refused:
        page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('refused')); }")
    button = page.locator(".use button").last
    line = page.locator(".use code[id]").last.inner_text()
    assert "vllm serve" in line
    button.focus()
    page.keyboard.press("Enter")
    page.locator(".use [role=status]").last.filter(has_text="copied").wait_for()
    assert button.evaluate("(button) => button === document.activeElement")
    assert page.evaluate(READ_CLIPBOARD) == line


@pytest.mark.parametrize("way", ["link", "address"])
def test_links_open_what_they_lead_to(page: Any, address: str, way: str) -> None:
    assert not page.locator("#kv").is_visible()
    if way == "link":
        page.locator("nav a[href='#kv']").click()
    else:
        page.goto(f"{address}#kv")
    page.locator("#kv").wait_for()
    assert page.locator("#kv figure").first.is_visible()
    page.locator(".fold summary").filter(has_text="KV cache over time").click()
    assert not page.locator("#kv").is_visible()
    page.locator("nav a[href='#kv']").click()  # the address is already that
    assert page.locator("#kv").is_visible()


OVERLAPS = """() => [...document.querySelectorAll(".answers figure svg")].flatMap((svg) => {
  const boxes = (selector) => [...svg.querySelectorAll(selector)].map((e) => e.getBoundingClientRect());
  const cross = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
  const [names, marks] = [boxes(".name"), boxes("path")];
  const over = (name, k) => [...names.slice(k + 1), ...marks].filter((other) => cross(name, other));
  return names.flatMap(over).map(() => svg.ariaLabel);
})"""


def test_no_name_lies_over_another_as_drawn(page: Any) -> None:
    assert page.locator(".answers .name").count() >= 3
    assert page.evaluate(OVERLAPS) == []


def test_what_is_printed_is_opened_and_closed_again(page: Any) -> None:
    opened = "document.querySelector('#comparison').checkVisibility()"
    page.evaluate(f"() => addEventListener('beforeprint', () => {{ window.openedToPrint = {opened}; }})")
    page.pdf()
    assert page.evaluate("window.openedToPrint") is True
    assert not page.locator("#comparison").is_visible()
