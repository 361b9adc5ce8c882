"""Tables for the terminal that hold as many columns as fit: those first that matter most."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class Column:
    """A heading, and its text for each row."""

    heading: str
    texts: tuple[Text, ...]

    @property
    def width(self) -> int:
        """Characters of the widest line in it."""
        return max(*map(len, self.heading.split("\n")), *map(len, self.texts))

    @property
    def name(self) -> str:
        """The heading on one line."""
        return self.heading.replace("-\n", "").replace("\n", " ")


def fitting_columns(columns: Mapping[str, Column], order: Iterable[str], room: int | None) -> set[str]:
    """The keys of the columns that fit into so many characters, taken in `order`; None: all of them."""
    if room is None:
        return set(columns)
    fitting: set[str] = set()
    for key in order:
        if columns[key].width < room:
            room -= 1 + columns[key].width
            fitting.add(key)
    return fitting


def columns_table(title: str, first: str, width: int, columns: Sequence[Column]) -> Table:
    """A table without rows: a first column of this heading and width, then `columns`."""
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 0),
        pad_edge=False,
        show_edge=False,
        title=Text(title, style="bold"),
        title_justify="left",
    )
    table.add_column(first, overflow="fold", width=width)
    for column in columns:
        table.add_column(column.heading, justify="right", no_wrap=True, width=column.width)
    return table
