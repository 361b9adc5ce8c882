"""Every command and every Python block of the README and the site runs, page by page, in the order of the page."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from page_blocks import RUNNABLE, blocks, run, show_clone, transcript

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if "_build" not in page.parts),
]
SHOWN = ("text", "json", "toctree", "{toctree}", "{include}", "{eval-rst}")
WIDEST = 88
"""Characters of a line of code that fit a page on a screen 1,280 px wide."""
REASONS = {
    "downloads or installs": ("installs packages", "needs a network"),
    "is not everywhere": ("needs vLLM", "needs PyTorch and a GPU", "needs the Azure trace"),
    "takes long": ("takes minutes",),
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_run(page: Path, tmp_path: Path) -> None:
    """In a folder that shows what a clone does; a page's files are there for its later blocks."""
    show_clone(tmp_path, ROOT)
    for block in blocks(page):
        if block.printed:
            remedy = f"run python tools/update_docs_outputs.py {page.relative_to(ROOT)}"
            assert transcript(block, tmp_path, Path(sys.executable)) == block.text, f"line {block.line}: {remedy}"
        elif block.runs:
            done = run(block, tmp_path, Path(sys.executable))
            assert done.returncode == 0, f"{page.name}, line {block.line}:\n{block.text}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_says_what_it_is(page: Path) -> None:
    """A fence without a language, or with an unknown one, would be run by nobody and missed by nobody."""
    found = blocks(page)
    assert len(found) == len(re.findall(r"^```", page.read_text(encoding="utf-8"), re.MULTILINE)) / 2
    for block in found:
        assert block.language in RUNNABLE + SHOWN, f"{page.name}, line {block.line}: ```{block.language}"
        assert block.language not in RUNNABLE or block.script.strip(), f"{page.name}, line {block.line}: no command"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_output_that_is_shown_is_compared(page: Path) -> None:
    """A console block that runs shows commands alone, unless it is marked `as printed`."""
    for block in blocks(page):
        if block.language == "console" and block.runs and not block.printed:
            commands = "".join(f"$ {command}\n" for command in block.commands)
            assert block.text == commands, f"{page.name}, line {block.line}: output without the mark `as printed`"


def test_blocks_that_do_not_run_are_few_and_say_why() -> None:
    every = [block for page in PAGES for block in blocks(page) if block.language in RUNNABLE]
    marked = [block for block in every if block.reason is not None]
    assert {block.reason for block in marked} <= {reason for reasons in REASONS.values() for reason in reasons}
    assert len(marked) <= len(every) / 3
    marks = sum(len(re.findall("<!-- not run", page.read_text(encoding="utf-8"))) for page in PAGES)
    assert marks == len(marked), "a mark must stand on the line before its block"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_fits_the_page(page: Path) -> None:
    """Except what is generated, and what a command prints in long lines to be copied, which the page wraps."""
    if page.stem.endswith("-results") or not page.is_relative_to(ROOT / "docs"):
        return
    for block in blocks(page):
        if not block.wide:
            text = block.script if block.printed else block.text
            wide = [line for line in text.splitlines() if len(line) > WIDEST]
            assert not wide, f"{page.name}, block at line {block.line}:\n{wide[0]}"


def test_the_readme_and_the_tutorial_run_the_main_commands() -> None:
    """The pages a newcomer reads first must show, and so test, the way from a plan to a server."""
    ran = [b.script for page in PAGES if page.stem in ("README", "tutorial") for b in blocks(page) if b.reason is None]
    for name in ("plan", "simulate", "compare", "serve-args", "trace generate"):
        assert any(f"fluidgate {name} " in script for script in ran), name
