"""Pictures and measures of the report and the site's front page: python tools/screenshots.py [FOLDER] [--report FILE].

Without `--report` it makes the report that `fluidgate demo` writes. `--docs` also draws docs/_static/report.png, the
answer for the last load. It needs the extra `[dev]` and Chromium; without them it says so and does nothing.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "screenshots"
COLOURS = 128
"""Of the picture in the docs."""
DOCS_PICTURE = ROOT / "docs" / "_static" / "report.png"
SITE = ROOT / "docs" / "_build" / "html" / "index.html"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE_MS = 120_000
"""A busy machine must not fail."""
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "device_scale_factor": 2}
VIEWS: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone": PHONE,
}
FOLD = """() => {
  const fold = document.querySelector(".fold");
  return fold && fold.getBoundingClientRect().top + scrollY;
}"""


BRIGHTNESS = """() => {
  const [red, green, blue] = getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number);
  return (red + green + blue) / 3 / 255;
}"""


@dataclass(frozen=True)
class Opened:
    """A page that is open, and what went on since.

    Attributes:
        troubles: errors of scripts and messages of the console.
        requests: addresses that were asked for, its own included.
    """

    page: Any
    troubles: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Measures:
    """A page in one view.

    Attributes:
        above_fold: pixels before the first folded section; None where there is none.
        height: of the whole page, pixels.
        overflow: pixels by which it is wider than the screen.
        brightness: of its background, from 0, black, to 1, white.
        troubles: errors of scripts, messages of the console, requests to elsewhere.
    """

    above_fold: float | None
    height: float
    overflow: float
    brightness: float
    troubles: tuple[str, ...]


def missing() -> str | None:
    """What is missing for pictures, in words; None if nothing is."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "playwright is missing: pip install 'fluidgate[dev]'"
    return None if CHROMIUM else "Chromium is not on the PATH: apt-get install chromium"


def launch(driver: Any) -> Any:
    """A headless Chromium of Playwright's `driver`."""
    return driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=PATIENCE_MS)


@contextmanager
def opened(browser: Any, address: str, view: dict[str, Any], settled: str = "body") -> Iterator[Opened]:
    """The page in a view, from when it has an element of the selector `settled`; closed at the end."""
    context = browser.new_context(**view)
    context.set_default_timeout(PATIENCE_MS)
    found = Opened(context.new_page())
    found.page.on("console", lambda message: found.troubles.append(message.text))
    found.page.on("pageerror", lambda error: found.troubles.append(str(error)))
    found.page.on("request", lambda made: found.requests.append(made.url))
    try:
        found.page.goto(address)
        found.page.locator(settled).wait_for()
        yield found
    finally:
        context.close()


def photograph(
    browser: Any, address: str, view: dict[str, Any], picture: Path | None = None, settled: str = "body"
) -> Measures:
    """Open the page in a view, keep its picture if asked for, and measure it."""
    with opened(browser, address, view, settled) as found:
        page = found.page
        height, width = (page.evaluate(f"document.documentElement.scroll{side}") for side in ("Height", "Width"))
        above, brightness = page.evaluate(FOLD), page.evaluate(BRIGHTNESS)
        if picture is not None:
            page.screenshot(path=picture, full_page=True)
        elsewhere = [url for url in found.requests if url.startswith("http") and not url.startswith(address)]
        overflow = max(0, width - view["viewport"]["width"])
        return Measures(above, height, overflow, brightness, (*found.troubles, *elsewhere))


def printed_pages(browser: Any, address: str, target: Path) -> int:
    """Print the page as A4 to `target`; how many pages it takes."""
    page = browser.new_page()
    page.goto(address)
    page.pdf(path=target, format="A4", prefer_css_page_size=True)
    page.close()
    return len(re.findall(rb"/Type\s*/Page\b", target.read_bytes()))


def picture_for_docs(browser: Any, address: str) -> None:
    """The last answer, in a font that is as wide everywhere; a clone carries it, so it has few colours."""
    from PIL import Image

    page = browser.new_page(viewport={"width": 960, "height": 800}, device_scale_factor=1.5, color_scheme="light")
    page.goto(address)
    page.add_style_tag(content='body { font-family: Arial, "Liberation Sans", sans-serif; }')
    page.locator(".answer-card").last.screenshot(path=DOCS_PICTURE)
    page.close()
    picture = Image.open(DOCS_PICTURE).convert("RGB")
    picture.quantize(COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(DOCS_PICTURE, optimize=True)


def demo_report(folder: Path) -> Path:
    """The page of `fluidgate demo`, in the folder."""
    target = folder / "report.html"
    command = [sys.executable, "-m", "fluidgate", "demo", "--html", str(target)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise RuntimeError(f"fluidgate demo failed: {made.stderr or made.stdout}")
    return target


def main() -> None:
    """Take the pictures, print the measures and keep them in measures.json."""
    parser = argparse.ArgumentParser(description="Pictures and measures of the report and of the site's front page.")
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, help="where to write them")
    parser.add_argument("--report", type=Path, help="a report that exists; else that of fluidgate demo is made")
    parser.add_argument("--docs", action="store_true", help=f"also draw {DOCS_PICTURE.relative_to(ROOT)}")
    options = parser.parse_args()
    lacking = missing()
    if lacking:
        print(f"no screenshots: {lacking}")
        return
    from playwright.sync_api import sync_playwright

    options.folder.mkdir(parents=True, exist_ok=True)
    pages = {"report": options.report or demo_report(options.folder)}
    if SITE.exists():
        pages["site"] = SITE
    else:
        print("no picture of the site: it is not built; make docs builds it")
    measures: dict[str, Any] = {}
    with sync_playwright() as driver:
        browser = launch(driver)
        for name, path in pages.items():
            address = path.resolve().as_uri()
            for view, settings in VIEWS.items():
                picture = options.folder / f"{name}-{view}.png"
                measures[picture.stem] = asdict(photograph(browser, address, settings, picture))
        printed = printed_pages(browser, pages["report"].resolve().as_uri(), options.folder / "report.pdf")
        measures["report-print"] = {"pages": printed}
        if options.docs:
            picture_for_docs(browser, pages["report"].resolve().as_uri())
        browser.close()
    (options.folder / "measures.json").write_text(json.dumps(measures, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(measures, indent=2))
    print(f"pictures and measures are in {options.folder}")


if __name__ == "__main__":
    main()
