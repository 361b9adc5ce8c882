"""Draw docs/_static/report.png, a part of the report page: python tools/report_picture.py [FILE].

It needs the extra `[dev]` and Chromium. What it shows is the page of

    fluidgate compare --model llama-3.1-8b --gpu l40s --preset r1-reasoning --policy greedy --policy fluid --load 0.9 \
      --html report.html
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

import fluidgate as fg

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "_static" / "report.png"
WIDTH = 780
# What is left: the answer, and the figures of silence. Arial and its substitutes are equally wide.
HIDDEN = "nav, header p, footer, details, h3, section > p, main > :not([aria-label='Which policy to use'], #silence)"
STYLE = f"""
{HIDDEN} {{ display: none; }}
body {{ font-family: Arial, "Liberation Sans", sans-serif; padding-bottom: 1rem; }}
header {{ padding-top: 1rem; }}
h2 {{ margin-top: 1rem; padding-top: .6rem; }}
"""


def main() -> None:
    """Run the comparison, open its page and keep the picture."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.exit("the picture is taken with Chromium, which is not on the PATH; install it")
    hardware = fg.get_hardware("llama-3.1-8b", "l40s")
    comparison = fg.compare("r1-reasoning", hardware, ["greedy", "fluid"], loads=[0.9], timelines=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        report = fg.write_report(comparison, Path(folder) / "report.html")
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        view = {"width": WIDTH, "height": 400}
        page = browser.new_page(viewport=view, device_scale_factor=1.75, color_scheme="light")
        page.goto(report.as_uri())
        page.add_style_tag(content=STYLE)
        page.screenshot(path=target, full_page=True)
        browser.close()
    print(f"wrote {target} ({target.stat().st_size / 1000:.0f} kB)")


if __name__ == "__main__":
    main()
