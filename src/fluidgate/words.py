"""Words for people: numbers as they are printed, and text from outside, in which nothing steers a terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final

_CONTROL: Final = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Categories of Unicode: controls, format characters (of no width, or that turn the direction of reading), halves of
characters that no encoding can write, separators of lines and paragraphs."""
_JOINERS: Final = "\u200c\u200d"
"""Invisible, but scripts and emoji are spelt with them."""

LONGEST_SHOWN = 60


def escaped(text: str) -> str:
    r"""`text` with control and format characters written out, such as `\x1b`; tabs and line feeds stay."""
    if text.isprintable():
        return text
    return "".join(
        letter.encode("unicode_escape").decode() if _is_control(letter) and letter not in "\t\n" else letter
        for letter in text
    )


def has_control(text: str) -> bool:
    """Whether `text`, which should be a name on one line, holds a control or format character."""
    return not text.isprintable() and any(map(_is_control, text))


def _is_control(letter: str) -> bool:
    return unicodedata.category(letter) in _CONTROL and letter not in _JOINERS


def shown(value: object) -> str:
    """A value as an error message quotes it: shortened where it is long."""
    if isinstance(value, int) and value.bit_length() > 14_000:  # Python writes no number of thousands of digits
        return f"a number of about {int(value.bit_length() * 0.30103):,} digits"
    text = repr(value)
    if isinstance(value, int) and len(text) > LONGEST_SHOWN // 2:
        return f"{text[:12]}… ({len(text)} digits)"
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 20]}… ({len(text)} characters)"


def number(value: float) -> str:
    """Three significant digits; whole with thousands separators from 1,000 on."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    import numpy as np  # `fluidgate --help` needs no numpy

    return str(np.format_float_positional(value, precision=3, fractional=False, trim="-"))


def percent(share: float) -> str:
    """A share as a percentage."""
    return f"{number(100.0 * share)}%"


def nearest(name: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    """The known name that is spelt most like `name`; None if none is like it.

    Args:
        likeness: from 0, anything, to 1, only the name itself; as `difflib.SequenceMatcher.ratio`.
    """
    from difflib import get_close_matches  # only a refusal needs it

    return next(iter(get_close_matches(name, list(known), n=1, cutoff=likeness)), None)


def listed(names: Sequence[str], last: str = "and") -> str:
    """`a, b and c`."""
    return f" {last} ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
