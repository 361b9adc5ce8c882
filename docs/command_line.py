"""The reference of the command line, from the commands themselves, for the pages in `commands/` to include.

    python docs/command_line.py FOLDER

writes `FOLDER/commands/NAME.md`, the options of each command, and `FOLDER/cli.md`, the list of all. That list names a
page `commands/NAME.md` for every command, so the site does not build while one is missing.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path
from typing import NamedTuple

import click
from typer.main import get_command

from fluidgate.cli import command_line
from fluidgate.cli.help import Command, tidy


class Page(NamedTuple):
    """A command, the words that call it, and the name of its page."""

    words: tuple[str, ...]
    command: Command

    @property
    def name(self) -> str:
        return "-".join(self.words)


def pages() -> list[Page]:
    """Every command, those of groups one by one, in the order of `fluidgate --help`."""
    return list(_under((), get_command(command_line([]))))


def _under(words: tuple[str, ...], command: click.Command) -> Iterator[Page]:
    if isinstance(command, Command):
        yield Page(words, command)
        return
    for name, part in command.commands.items():  # type: ignore[attr-defined]
        yield from _under((*words, name), part)


def options_page(page: Page) -> str:
    """A command's purpose, and every option under its heading, as directives of Sphinx, which index them."""
    called = " ".join(("fluidgate", *page.words))
    context = click.Context(page.command, info_name=called)
    text = [*_paragraphs(page), f":::{{program}} {called}\n:::"]
    for heading, records in page.command.by_heading(context).items():
        shown = [(names, what) for names, what in records if "--help" not in names]
        text += [f"### {heading}"] if shown else []
        for names, what in shown:
            signature = tidy(names).replace(" / --", ", --")
            text.append(f":::{{option}} {signature}\n{_prose(tidy(what))}\n:::")
    return "\n\n".join(text) + "\n"


def list_page(found: list[Page]) -> str:
    """All commands with what they do, and the table of contents."""
    rows = [f"| [`{' '.join(p.words)}`](commands/{p.name}.md) | {_paragraphs(p)[0]} |" for p in found]
    contents = ["```{toctree}", ":hidden:", "", *(f"{' '.join(p.words)} <commands/{p.name}>" for p in found), "```"]
    return "\n".join(["| command | what it does |", "|---|---|", *rows, "", *contents]) + "\n"


def _paragraphs(page: Page) -> list[str]:
    """What the help says the command does, without its name in front."""
    first, *more = [part.replace("\n", " ") for part in cleandoc(page.command.help or "").split("\n\n")]
    first = re.sub(rf"^{page.words[-1]}: ", "", first, flags=re.IGNORECASE)
    return [_prose(part) for part in (first[:1].upper() + first[1:], *more)]


def _prose(text: str) -> str:
    """Names of options as code, lest their dashes become one."""
    return re.sub(r"`[^`]*`|(?<![\w-])--[a-z][a-z-]+", lambda found: f"`{found[0].strip('`')}`", text)


def main(folder: Path) -> None:
    """Write all."""
    (folder / "commands").mkdir(parents=True, exist_ok=True)
    found = pages()
    for page in found:
        (folder / "commands" / f"{page.name}.md").write_text(options_page(page), encoding="utf-8")
    (folder / "cli.md").write_text(list_page(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
