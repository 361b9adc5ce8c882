"""Every command and every Python block of the README and the site runs, page by page, in the order of the page.

A block that cannot run here says why in an HTML comment on the line before it: `<!-- not run: needs vLLM -->`. A Python
block whose first line is `# name.py` is kept under that name, for later blocks to import or to name.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(page for page in (ROOT / "docs").rglob("*.md") if "_build" not in page.parts)]
RUNNABLE = ("bash", "console", "python")
SHOWN = ("text", "json", "toctree", "{toctree}", "{include}", "{eval-rst}")
REASONS = {
    "downloads or installs": ("installs packages", "needs a network"),
    "is not everywhere": ("needs vLLM", "needs PyTorch and a GPU", "needs the Azure trace"),
    "takes long": ("takes minutes",),
}
FENCE = re.compile(r"^(?P<before>[^\n]*)\n```(?P<language>[^\n`]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!-- not run: (?P<reason>.+) -->")


@dataclass(frozen=True)
class Block:
    """One fenced block; `reason` says why it does not run."""

    line: int
    language: str
    text: str
    reason: str | None

    @property
    def script(self) -> str:
        """A console block's commands, without prompts and what they print."""
        if self.language != "console":
            return self.text
        wanted, lines = False, []
        for line in self.text.splitlines():
            wanted = line.startswith("$ ") or (wanted and bool(lines) and lines[-1].endswith("\\"))
            if wanted:
                lines.append(line.removeprefix("$ "))
        return "\n".join(lines)


def blocks(page: Path) -> list[Block]:
    text = "\n" + page.read_text(encoding="utf-8")
    found = []
    for fence in FENCE.finditer(text):
        mark = MARK.fullmatch(fence["before"])
        line = text.count("\n", 0, fence.start("language"))
        found.append(Block(line, fence["language"].split(" ")[0], fence["text"], mark and mark["reason"]))
    return found


def command(block: Block, folder: Path) -> list[str]:
    if block.language != "python":
        return ["bash", "-euo", "pipefail", "-c", block.script]
    named = re.match(r"# (\w+\.py)\n", block.text)
    script = folder / (named[1] if named else f"line_{block.line}.py")
    script.write_text(block.text, encoding="utf-8")
    return [sys.executable, script.name]


def run(block: Block, folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command(block, folder),
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_run(page: Path, tmp_path: Path) -> None:
    """In a folder that shows what a clone does; a page's files are there for its later blocks."""
    for shown in ("docs", "benchmarks", "examples"):
        (tmp_path / shown).symlink_to(ROOT / shown)
    for block in blocks(page):
        if block.language in RUNNABLE and block.reason is None:
            done = run(block, tmp_path)
            assert done.returncode == 0, f"{page.name}, line {block.line}:\n{block.text}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_says_what_it_is(page: Path) -> None:
    """A fence without a language, or with an unknown one, would be run by nobody and missed by nobody."""
    found = blocks(page)
    assert len(found) == len(re.findall(r"^```", page.read_text(encoding="utf-8"), re.MULTILINE)) / 2
    for block in found:
        assert block.language in RUNNABLE + SHOWN, f"{page.name}, line {block.line}: ```{block.language}"
        assert block.language not in RUNNABLE or block.script.strip(), f"{page.name}, line {block.line}: no command"


def test_blocks_that_do_not_run_are_few_and_say_why() -> None:
    every = [block for page in PAGES for block in blocks(page) if block.language in RUNNABLE]
    marked = [block for block in every if block.reason is not None]
    assert {block.reason for block in marked} <= {reason for reasons in REASONS.values() for reason in reasons}
    assert len(marked) <= len(every) / 3
    marks = sum(len(re.findall("<!-- not run", page.read_text(encoding="utf-8"))) for page in PAGES)
    assert marks == len(marked), "a mark must stand on the line before its block"


def test_the_readme_and_the_tutorial_run_the_main_commands() -> None:
    """The pages a newcomer reads first must show, and so test, the way from a plan to a server."""
    ran = [b.script for page in PAGES if page.stem in ("README", "tutorial") for b in blocks(page) if b.reason is None]
    for name in ("plan", "simulate", "compare", "serve-args", "trace generate"):
        assert any(f"fluidgate {name} " in script for script in ran), name
