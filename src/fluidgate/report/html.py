"""Markup from function calls: text is escaped, control characters included, unless it is already `Html`."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.resources import files

from fluidgate.words import escaped

VOID = frozenset({"br", "col", "hr", "img", "input", "meta"})


class Html(str):
    """Text that is already markup; all other text is escaped before it reaches a page."""

    __slots__ = ()


def asset(name: str) -> str:
    """A file of this package: the page's template, style or script."""
    return files("fluidgate.report").joinpath(name).read_text(encoding="utf-8")


def tag(name: str, /, *children: str, **attributes: str | float | None) -> Html:
    """`<name attributes>children</name>`.

    Args:
        children: escaped unless `Html`.
        attributes: names with `_` for `-` and without a trailing `_` (`class_`, `stroke_width`); None leaves one out.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(escaped(_attribute(value)))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(children)}</{name}>")


def join(parts: Sequence[str]) -> Html:
    """The parts end to end, escaped unless `Html`."""
    return Html("".join(part if isinstance(part, Html) else escape(escaped(part)) for part in parts))


def _attribute(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.6g}"


def section(anchor: str, title: str, *parts: Html) -> Html:
    """A section of the page with an anchor."""
    return tag("section", tag("h2", title, id=f"{anchor}-title"), *parts, id=anchor, aria_labelledby=f"{anchor}-title")


def table(caption: str, heads: Sequence[Html], rows: Sequence[Html]) -> Html:
    """A table that scrolls sideways if it is wider than the screen."""
    head = [tag("thead", tag("tr", *heads))] if heads else []
    body = tag("table", tag("caption", caption), *head, tag("tbody", *rows))
    return tag("div", body, class_="scroll", tabindex="0", role="region", aria_label=caption)


def head(*children: str, **attributes: str | None) -> Html:
    """A column heading."""
    return tag("th", *children, scope="col", **attributes)


def row(name: str, *cells: Html, **attributes: str) -> Html:
    """A table row with its heading, which may be markup."""
    return tag("tr", tag("th", name, scope="row"), *cells, **attributes)
