"""Markup from function calls: text is escaped, control characters included, unless it is already `Html`."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template

from fluidgate.version import version
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


def document(
    title: str,
    sections: Sequence[Html],
    subtitle: str = "",
    links: Sequence[tuple[str, str]] = (),
    *,
    scripted: bool = True,
) -> str:
    """A whole page, self-contained.

    Args:
        links: at the top, name and anchor.
        scripted: with the page's script.
    """
    contents = [tag("a", name, href=f"#{anchor}") for name, anchor in links]
    return Template(asset("page.html")).substitute(
        title=join([title]),
        subtitle=join([subtitle]),
        style=asset("page.css") + asset("chart.css"),
        version=version(),
        contents=tag("nav", *contents, aria_label="Contents") if links else "",
        sections="\n".join(sections),
        script=asset("page.js") if scripted else "",
    )


def _attribute(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.6g}"


def fold(anchor: str, title: str, inside: str, *parts: Html, printed: bool = False) -> Html:
    """A section of the page, closed at first; its anchor lies inside, so that following a link opens it.

    Args:
        inside: what it holds, which is read before it is opened.
        printed: whether the page's script opens it for printing.
    """
    summary = tag("summary", tag("h2", title, id=f"{anchor}-title"), tag("span", inside, class_="soft"))
    body = tag("div", *parts, id=anchor)
    details = tag("details", summary, body, data_print="" if printed else None)
    return tag("section", details, aria_labelledby=f"{anchor}-title", class_="fold")


def table(caption: str, heads: Sequence[Html], rows: Sequence[Html], **attributes: str) -> Html:
    """A table that scrolls sideways if it is wider than the screen."""
    head = [tag("thead", tag("tr", *heads))] if heads else []
    body = tag("table", tag("caption", caption), *head, tag("tbody", *rows), **attributes)
    return tag("div", body, class_="scroll", tabindex="0", role="region", aria_label=caption)


def head(*children: str, **attributes: str | None) -> Html:
    """A column heading."""
    return tag("th", *children, scope="col", **attributes)


def row(name: str, *cells: Html, **attributes: str) -> Html:
    """A table row with its heading, which may be markup."""
    return tag("tr", tag("th", name, scope="row"), *cells, **attributes)
