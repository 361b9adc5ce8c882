"""Markup from plain calls: text is escaped unless it is already `Html`, its control characters written out."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.resources import files

from fluidgate.words import escaped

VOID = frozenset({"br", "col", "hr", "img", "input", "meta"})


class Html(str):
    """Text that is markup already; everything else that reaches a page is escaped."""

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
