"""What a command prints and writes: tables, JSON, remarks, progress."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from fluidgate.output import check_writable, make_folder, write_text
from fluidgate.words import escaped

if TYPE_CHECKING:
    from rich.console import Console

NARROWEST, UNLIMITED = 60, 10_000
"""Characters of a line: fewer could not hold a table's fixed columns; a wide table takes what it needs."""
FIRST_LINE_S, LINES_APART_S = 5.0, 60.0


class Format(StrEnum):
    """What a command prints on stdout."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"


def console(output_format: Format = Format.TABLE) -> Console:
    """Where tables go: of the width of the terminal or `COLUMNS`, else 80 characters; a wide one has no limit."""
    from rich.console import Console

    width = UNLIMITED if output_format is Format.WIDE else None
    made = Console(width=width, markup=False, emoji=False)  # names from files are text, brackets and all
    made.width = max(made.width, NARROWEST)
    return made


def say(message: str) -> None:
    """A remark, on stderr, so that stdout holds only the result."""
    print(escaped(message), file=sys.stderr, flush=True)


def write_json(value: Any, path: Path | None = None) -> None:
    """JSON to a file, or to stdout."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    if path is None:
        print(text)
    else:
        write_text(path, text + "\n")
        say(f"wrote {path}")


def command_line() -> str:
    """The command as it was typed, for the files it writes."""
    return shlex.join(["fluidgate", *sys.argv[1:]])


def try_outputs(*paths: Path | None, folders: Iterable[Path | None] = ()) -> None:
    """Before any run: make the output folders, and refuse every path that could not be written afterwards."""
    for folder in folders:
        if folder is not None:
            make_folder(folder)
    check_writable(*paths)


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr while something long runs, or now and then a line where there is no terminal.

    Yields a function of (done, total).
    """
    if not sys.stderr.isatty():
        yield _ProgressLines(what)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


class _ProgressLines:
    """Progress for a log: nothing of what is soon over, then a line at growing intervals, up to a minute."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._begun = monotonic()
        self._next_s = FIRST_LINE_S

    def __call__(self, done: int, total: int) -> None:
        spent = monotonic() - self._begun
        if spent < self._next_s:
            return
        self._next_s = spent + min(spent, LINES_APART_S)
        say(f"{self._what}: {done:,} of {total:,} after {spent:.0f} s")
