"""A table that is a grid of labelled values per row on a phone.

Roles are said although the elements have them: browsers forget them where cells lie in a grid.
"""

from __future__ import annotations

from collections.abc import Sequence

from fluidgate.report.html import Html, head, table, tag


def grid_table(caption: str, heads: Sequence[Html], rows: Sequence[Html]) -> Html:
    """A table of `grid_head` and `grid_row`."""
    return table(caption, heads, rows, class_="decides", role="table")


def grid_head(*children: str, **attributes: str | None) -> Html:
    """A column heading."""
    return head(*children, role="columnheader", **attributes)


def grid_row(name: str, *cells: Html) -> Html:
    """A row with its heading, which may be markup, and its `grid_cell`s."""
    return tag("tr", tag("th", name, scope="row", role="rowheader"), *cells, role="row")


def grid_cell(label: str, *children: str, class_: str | None = None) -> Html:
    """A cell; `label` stands above it on a phone, where the headings are not to be seen."""
    return tag("td", *children, class_=class_, role="cell", data_label=label)
