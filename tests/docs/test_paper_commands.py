"""The table of the WAIT paper's theorems, algorithms, figures and tables: every number is there, every command runs."""

from __future__ import annotations

import re
import shlex
import warnings
from pathlib import Path

import pytest

from fluidgate.cli import main
from fluidgate.studies.paper import PARTS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/paper.md").read_text(encoding="utf-8")
TABLE = PAGE[PAGE.index("## By number") : PAGE.index("## Setting")]
LINES = [line.strip("|").split("|") for line in TABLE.splitlines() if line.startswith("|")][2:]
COMMANDS = sorted({command for line in LINES for command in re.findall(r"`(fluidgate [^`]*)`", line[2])})


def in_full(command: str) -> list[str]:
    """Arguments of a command, with the words that the page abbreviates."""
    for word, meaning in re.findall(r"([A-Z]{2,})\s+(?:stands\s+)?for\s+`([^`]*)`", TABLE):
        command = re.sub(rf"\b{word}\b", meaning, command)
    return shlex.split(command)[1:]


def test_every_number_of_the_paper_has_a_line() -> None:
    named = " ".join(line[0] for line in LINES)
    for kind, last in (("Theorem", 4), ("Proposition", 5), ("Algorithm", 2), ("Table", 2)):
        assert all(f"{kind} {number}" in named for number in range(1, last + 1)), kind
    assert "Figures 1, 2, 4 to 6" in named
    assert all(f"Figure {number}" in named for number in (3, *range(7, 13)))


def test_a_line_without_a_command_is_open() -> None:
    for line in LINES:
        assert "`" in line[2] or "the same" in line[2] or "open" in line[3], line[0]


@pytest.mark.parametrize("command", [c for c in COMMANDS if "experiment" not in c])
def test_short_commands_run(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = in_full(command)
    if "--requests" in arguments:
        arguments[arguments.index("--requests") + 1] = "300"
    else:
        arguments += ["--requests", "300"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # which the command line sets
    monkeypatch.setattr("sys.argv", ["fluidgate", *arguments])
    with pytest.raises(SystemExit) as done:
        main()
    assert not done.value.code


def test_studies_have_the_parts_that_the_table_names() -> None:
    studies = [in_full(command) for command in COMMANDS if "experiment" in command]
    assert studies
    for arguments in studies:
        assert arguments[:2] == ["experiment", "paper"]
        assert set(arguments[3::2]) <= set(PARTS)
        assert set(arguments[2::2]) == {"--part"}
