"""`--help` of a command: every option by its whole name on a line of its own, and what it does beneath."""

from __future__ import annotations

import re
from collections.abc import Iterable
from inspect import cleandoc
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_CODE = re.compile(r"`([^`]+)`")
_OF_A_RANGE = re.compile(r" range(?=>)|(?<=x)<=\d{12,}")
"""What typer adds to the type of a number with bounds, and a bound that is only there for the machine."""
MARGIN = 2
"""Characters before a name; twice that and two more before what it does."""


class Command(TyperCommand):
    """A command with this help; typer's own puts names into a column, which cuts the long ones."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help; `formatter` is for help without colours and is not used."""
        from rich.console import Console

        out = Console(markup=False, emoji=False, highlight=False)
        out.print(f"\nUsage: {ctx.command_path} {' '.join(self.collect_usage_pieces(ctx))}\n", style="bold")
        for paragraph in cleandoc(self.help or "").split("\n\n"):
            out.print(_prose(paragraph.replace("\n", " ")), "\n", sep="")
        for heading, records in self.by_heading(ctx).items():
            _print_section(out, heading, records)
        if self.epilog:
            out.print(_prose(self.epilog), soft_wrap=True)

    def by_heading(self, ctx: Any) -> dict[str, list[tuple[str, str]]]:
        """Names and help of the parameters under their headings: arguments first, then those of no heading."""
        found: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                own = "Arguments" if parameter.param_type_name == "argument" else "Options"
                found.setdefault(getattr(parameter, "rich_help_panel", None) or own, []).append(record)
        return {heading: records for heading, records in found.items() if records}


def tidy(record: str) -> str:
    """Names or help of a parameter without what typer adds for a number with bounds."""
    return _OF_A_RANGE.sub("", record)


def _print_section(out: Console, heading: str, records: Iterable[tuple[str, str]]) -> None:
    from rich.padding import Padding
    from rich.text import Text

    out.print(f"{heading}:", style="bold")
    for name, what in records:
        out.print(Padding(Text(tidy(name), style="cyan"), (0, 0, 0, MARGIN), expand=False))
        out.print(Padding(_prose(tidy(what)), (0, 0, 0, 2 * MARGIN + 2), expand=False))
    out.print()


def _prose(text: str) -> Text:
    """Text whose `code` stands out."""
    from rich.text import Text

    made = Text()
    for place, part in enumerate(_CODE.split(text)):
        made.append(part, style="cyan" if place % 2 else "")
    return made
