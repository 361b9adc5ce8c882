"""Words for people: numbers as they are printed, and text from outside, in which nothing steers a terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Controls but tab and line feed, line separators, marks that turn the direction of reading, and halves of characters
# that no encoding can write.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_BREAK = re.compile("[\t\n]")

LONGEST_SHOWN = 60


def escaped(text: str) -> str:
    r"""`text` with control characters written out, such as `\x1b`; tabs and line feeds stay."""
    return _CONTROL.sub(lambda control: control[0].encode("unicode_escape").decode(), text)


def has_control(text: str) -> bool:
    """Whether `text`, which should be a name on one line, holds a control character."""
    return _CONTROL.search(text) is not None or _BREAK.search(text) is not None


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


def listed(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
