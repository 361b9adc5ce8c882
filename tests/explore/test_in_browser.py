"""The page in headless Chromium, on the server as it runs: a move changes the numbers, and nothing leaves the machine.

Screenshots are left in build/screenshots, for people to look at.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import screenshots as shots

pytest.importorskip("starlette", reason="needs Starlette: pip install 'fluidgate[explore]'")
pytest.importorskip("uvicorn", reason="needs uvicorn: pip install 'fluidgate[explore]'")

SETTLED = "#answer[aria-busy=false]"

pytestmark = pytest.mark.xdist_group("browser")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The command itself, at a free port; Ctrl-C must end it."""
    words = [sys.executable, "-m", "fluidgate", "explore", "--no-open", "--port", "0", "--price", "2"]
    server = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert server.stderr is not None
    said = []
    for line in server.stderr:
        said.append(line)
        found = re.match(r"(http://127\.0\.0\.1:\d+/)", line)
        if found:
            break
    else:
        pytest.fail(f"no address: {said}")
    yield found[1]
    server.send_signal(signal.SIGINT)
    assert server.wait(60) in (0, 130)
    assert "Traceback" not in server.stderr.read()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The settled page on a desktop; at the end nothing may have gone wrong, or left."""
    with shots.opened(browser, address, shots.VIEWS["desktop"], SETTLED) as opened:
        yield opened.page
        assert opened.troubles == []
        parts = {url.removeprefix(address) for url in opened.requests if not url.startswith("data:")}
        assert parts == {"", "page.js", "page.css", "answer"}


def shown(page: Any) -> dict[str, str]:
    page.locator(SETTLED).wait_for()
    pairs = page.locator("#numbers div").all()
    return {pair.locator("dt").inner_text(): pair.locator("dd").inner_text() for pair in pairs}


def test_it_fits_every_screen(fits_screen: Callable[..., None], address: str) -> None:
    fits_screen(address, "explore", SETTLED)


def test_a_slider_moves_numbers_and_drawings_by_keyboard(page: Any) -> None:
    before, drawing = shown(page), page.locator("#kv svg").get_attribute("aria-label")
    slider = page.get_by_label("Rate, req/s, slider")
    slider.focus()
    for _ in range(40):
        page.keyboard.press("ArrowLeft")
    after = shown(page)
    rate = float(page.get_by_label("Rate, req/s", exact=True).input_value())
    assert 10 < rate < 20
    assert slider.get_attribute("aria-valuetext") == f"{rate:g}"
    assert float(after["Load"].rstrip("%")) < float(before["Load"].rstrip("%"))
    assert after["TTFT, p99"] != before["TTFT, p99"]
    assert page.locator("#kv svg").get_attribute("aria-label") != drawing
    assert f"{rate:.3g} req/s" in page.get_by_role("status").inner_text()


def test_many_moves_at_once_ask_little_and_end_at_the_last(page: Any) -> None:
    asked = []
    page.on("request", lambda made: asked.append(made.url))
    page.evaluate(
        """() => { const slider = document.getElementById("output_factor-slider");
             for (let place = 300; place <= 700; place += 1) {
               slider.value = place;
               slider.dispatchEvent(new Event("input", { bubbles: true }));
             } }"""
    )
    mean = shown(page)["Prompt / output, mean"]
    assert len(asked) <= 3
    assert page.get_by_label("Output length ×", exact=True).input_value() == "2.51"  # 0.1 × 100^0.7
    assert float(mean.split(" / ")[1].split()[0]) > 500


def test_choices_and_refusals(page: Any) -> None:
    before = shown(page)
    page.get_by_label("GPU", exact=True).select_option("l40s")
    after = shown(page)
    assert after["Stability boundary"] != before["Stability boundary"]
    assert "Overload" in page.get_by_role("status").inner_text()
    page.get_by_label("Model", exact=True).select_option("llama-3.1-70b")
    page.locator(SETTLED).wait_for()
    assert "does not fit" in page.get_by_role("status").inner_text()
    assert shown(page) == after  # the last numbers stay, faded
    page.get_by_label("Tensor-parallel GPUs").select_option("8")
    assert shown(page) != after
    assert "does not fit" not in page.get_by_role("status").inner_text()


def test_a_field_takes_any_value_and_refuses_what_is_none(page: Any) -> None:
    field = page.get_by_label("Rate, req/s", exact=True)
    field.fill("12.5")
    page.locator(SETTLED).wait_for()
    assert "12.5 req/s" in page.get_by_role("status").inner_text()
    field.fill("-3")
    page.locator(SETTLED).wait_for()
    assert page.get_by_role("status").inner_text().startswith("Rate, req/s: ")
