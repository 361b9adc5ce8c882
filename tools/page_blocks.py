"""The fenced blocks of a page of documentation: which of them run, and how; for the tests and `try_wheel.py`.

A block that cannot run everywhere says why in an HTML comment on the line before it: `<!-- not run: needs vLLM -->`. A
Python block whose first line is `# name.py` is kept under that name, for later blocks to import or to name.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

RUNNABLE = ("bash", "console", "python")
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
    def runs(self) -> bool:
        """Whether it is a command or a program, and nothing keeps it from running."""
        return self.language in RUNNABLE and self.reason is None

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
    """All blocks of a page, in order."""
    text = "\n" + page.read_text(encoding="utf-8")
    found = []
    for fence in FENCE.finditer(text):
        mark = MARK.fullmatch(fence["before"])
        line = text.count("\n", 0, fence.start("language"))
        found.append(Block(line, fence["language"].split(" ")[0], fence["text"], mark and mark["reason"]))
    return found


def run(
    block: Block, folder: Path, python: Path, environment: Mapping[str, str] = os.environ
) -> subprocess.CompletedProcess[str]:
    """Run a block in `folder`, with the programs beside `python` first on the path."""
    path = f"{python.parent}{os.pathsep}{environment['PATH']}"
    return subprocess.run(
        _command(block, folder, python),
        cwd=folder,
        env={**environment, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def _command(block: Block, folder: Path, python: Path) -> list[str]:
    if block.language != "python":
        return ["bash", "-euo", "pipefail", "-c", block.script]
    named = re.match(r"# (\w+\.py)\n", block.text)
    script = folder / (named[1] if named else f"line_{block.line}.py")
    script.write_text(block.text, encoding="utf-8")
    return [str(python), script.name]
