"""The fenced blocks of a page of documentation: which of them run, and how; for the tests and the tools.

An HTML comment on the line before a block says what is special about it:

- `<!-- not run: needs vLLM -->`: it cannot run everywhere, and why.
- `<!-- as printed -->`: a console block that shows each command with all it prints on standard output, 80 columns wide;
  `tools/update_docs_outputs.py` writes it, and a test compares it. `<!-- as printed, lines with: REGEX -->` shows only
  the matching lines, and `…` for the others; `<!-- as printed, notes too -->` shows standard error as well.
- `<!-- wide: one record a line -->`: its lines are longer than a page is wide, and why.

A Python block whose first line is `# name.py` is kept under that name, for later blocks to import or to name.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RUNNABLE = ("bash", "console", "python")
FENCE = re.compile(r"^(?P<before>[^\n]*)\n```(?P<language>[^\n`]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = re.compile(
    r"<!-- (?:not run: (?P<reason>.+)"
    r"|(?P<printed>as printed)(?P<notes>, notes too)?(?:, lines with: (?P<shown>.+))?"
    r"|wide: (?P<wide>.+)) -->"
)
COLUMNS = 80
"""Of the terminal whose output a page shows."""


@dataclass(frozen=True)
class Block:
    """One fenced block, with what its mark says: why it does not run, whether it is output, why it is wide."""

    line: int
    language: str
    text: str
    reason: str | None = None
    printed: bool = False
    notes: bool = False
    shown: str | None = None
    wide: str | None = None

    @property
    def runs(self) -> bool:
        """Whether it is a command or a program, and nothing keeps it from running."""
        return self.language in RUNNABLE and self.reason is None

    @property
    def script(self) -> str:
        """A console block's commands, without prompts and what they print."""
        if self.language != "console":
            return self.text
        return "\n".join(self.commands)

    @property
    def commands(self) -> list[str]:
        """A console block's commands, each with its continued lines."""
        found: list[str] = []
        continued = False
        for line in self.text.splitlines():
            if line.startswith("$ "):
                found.append(line.removeprefix("$ "))
            elif continued:
                found[-1] += f"\n{line}"
            continued = (line.startswith("$ ") or continued) and line.endswith("\\")
        return found


def blocks(page: Path) -> list[Block]:
    """All blocks of a page, in order."""
    text = "\n" + page.read_text(encoding="utf-8")
    return [_block(text, fence) for fence in FENCE.finditer(text)]


def _block(text: str, fence: re.Match[str]) -> Block:
    line = text.count("\n", 0, fence.start("language"))
    mark = MARK.fullmatch(fence["before"])
    said: dict[str, Any] = mark.groupdict() if mark else {}
    said |= {name: bool(said.get(name)) for name in ("printed", "notes")}
    return Block(line, fence["language"].split(" ")[0], fence["text"], **said)


def show_clone(folder: Path, root: Path) -> None:
    """Show in `folder` what a clone at `root` does to the commands of a page."""
    for shown in ("docs", "benchmarks", "examples"):
        (folder / shown).symlink_to(root / shown)


def run(
    block: Block, folder: Path, python: Path, environment: Mapping[str, str] = os.environ
) -> subprocess.CompletedProcess[str]:
    """Run a block in `folder`, with the programs beside `python` first on the path."""
    return _run(_command(block, folder, python), folder, python, environment)


def transcript(block: Block, folder: Path, python: Path) -> str:
    """What a console block's page should show: each command, and what it prints.

    Raises:
        RuntimeError: a command fails.
    """
    environment = {**os.environ, "COLUMNS": str(COLUMNS)}
    lines: list[str] = []
    for command in block.commands:
        script = f"exec 2>&1\n{command}" if block.notes else command
        done = _run(["bash", "-euo", "pipefail", "-c", script], folder, python, environment)
        if done.returncode:
            raise RuntimeError(f"{command}\n{done.stdout}{done.stderr}")
        printed = "\n".join(line.rstrip() for line in done.stdout.splitlines()).strip("\n").splitlines()
        lines += [f"$ {command}", *_shortened(printed, block.shown)]
    return "\n".join(lines) + "\n"


def _shortened(lines: list[str], shown: str | None) -> Iterator[str]:
    """The lines that a page shows, with `…` for others in a row."""
    left_out = False
    for line in lines:
        if shown is None or re.search(shown, line):
            yield line
            left_out = False
        elif not left_out:
            yield "…"
            left_out = True


def _run(
    words: list[str], folder: Path, python: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    path = f"{python.parent}{os.pathsep}{environment['PATH']}"
    return subprocess.run(
        words, cwd=folder, env={**environment, "PATH": path}, capture_output=True, text=True, check=False
    )


def _command(block: Block, folder: Path, python: Path) -> list[str]:
    if block.language != "python":
        return ["bash", "-euo", "pipefail", "-c", block.script]
    named = re.match(r"# (\w+\.py)\n", block.text)
    script = folder / (named[1] if named else f"line_{block.line}.py")
    script.write_text(block.text, encoding="utf-8")
    return [str(python), script.name]
