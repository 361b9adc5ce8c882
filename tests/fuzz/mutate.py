"""Damage to valid files: at the level of bytes, of tokens and of lines, with one random generator that repeats it."""

import re
from collections.abc import Callable, Sequence
from random import Random

_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_WORD = re.compile(r"[A-Za-z_][\w.-]*")
_PAIR = re.compile(r'"[^"\n]*"\s*:\s*(?:"[^"\n]*"|[^\s",\[\]{}]+|\[[^\[\]{}]*\])')

EXTREME = (
    *("0", "-0", "-1", "1", "2", "0.0", "-0.0", "0.5", "1e-9", "1e-300", "5e-324", "1e15", "1e16", "1e18", "1e300"),
    *("1e308", "-1e308", "1e309", "1e999", "nan", "NaN", "inf", "Infinity", "-Infinity", "null", "true", "", '""'),
    *("255", "65536", "65537", "2147483647", "2147483648", "4294967296", "9007199254740993", "9223372036854775807"),
    *("9223372036854775808", "18446744073709551616", "1" + "0" * 30, "1" + "0" * 400, "9" * 4300, "9" * 4301),
    *(
        "[]",
        "{}",
        "[[]]",
        "[1]",
        "[[1, 2], [3]]",
        '"1"',
        "0x10",
        "1_000",
        "1,000",
        ",,,",
        "+1",
        "१२",
        "１２",
        "1e",
        ".",
    ),
)
WORDS = (
    *("", " ", "name", "all", "nan", "\\", "\\\\", '\\"', "\\n", "\\u0000", "\\ud800", "\\u001b[31m", "a" * 5000),
    *("<script>alert(1)</script>", "[/bold]", "[red]", "{0}", "%s", "../../x", "é", "日本", "\x1b[31m", "\x1b]0;x\x07"),
    *("\x00", "\x07", "\x7f", "\x85", "\u2028", "\u202e", "\ufeff", "١٢", "\t", "\r", "'", '"', "`", "$(x)", ";"),
)
PLAUSIBLE = 0.55
"""Share of numbers that are replaced by one that may be right, so that what lies behind the first check is reached."""

Mutation = Callable[[Random, str], str]


def mutated(rng: Random, seeds: Sequence[str]) -> bytes:
    """One of the seeds, damaged in 0 to a few places."""
    text = rng.choice(seeds)
    for _ in range(rng.choice((0, 1, 1, 1, 1, 2, 2, 3, 5))):
        text = rng.choices(MUTATIONS, WEIGHTS)[0](rng, text)
    raw = text.encode("utf-8", "surrogatepass")
    return _bytes(rng, raw) if rng.random() < 0.15 else raw


def number(rng: Random, text: str) -> str:
    """Another number, likely or not, in the place of one."""
    found = _one(rng, _NUMBER, text)
    return text if found is None else text[: found.start()] + other_number(rng, found[0]) + text[found.end() :]


def other_number(rng: Random, old: str) -> str:
    """A number to put in the place of `old`."""
    if rng.random() >= PLAUSIBLE:
        return rng.choice(EXTREME)
    value = float(old)
    changes = (value + 1, value - 1, value * 2, value / 2, value * 10, value / 10, value * 1e3, 0.0, 1.0)
    new = rng.choice((*changes, float(rng.randint(0, 1000)), rng.random()))
    whole = not any(mark in old for mark in ".eE")
    return str(int(min(max(new, -(10**18)), 10**18))) if whole else repr(new)


def word(rng: Random, text: str) -> str:
    """Another word, or part of a text, in the place of one."""
    found = _one(rng, _WORD, text)
    return text if found is None else text[: found.start()] + rng.choice(WORDS) + text[found.end() :]


def pair(rng: Random, text: str) -> str:
    """A key and its value, of JSON: twice, gone, or in another's place."""
    found, other = _one(rng, _PAIR, text), _one(rng, _PAIR, text)
    if found is None or other is None:
        return text
    new = rng.choice((f"{found[0]}, {found[0]}", f"{found[0]}, {number(rng, found[0])}", "", other[0], f"[{found[0]}]"))
    return text[: found.start()] + new + text[found.end() :]


def line(rng: Random, text: str) -> str:
    """A line dropped, doubled, cut, joined with the next, put elsewhere, or a blank one."""
    lines = text.split("\n")
    at, to = rng.randrange(len(lines)), rng.randrange(len(lines))
    change = rng.randrange(7)
    if change == 0:
        del lines[at]
    elif change == 1:
        lines.insert(to, lines[at])
    elif change == 2:
        lines[at], lines[to] = lines[to], lines[at]
    elif change == 3:
        lines[at] = lines[at][: rng.randint(0, len(lines[at]))]
    elif change == 4:
        lines[at : at + 2] = [rng.choice(("", ",", " ")).join(lines[at : at + 2])]
    elif change == 5:
        lines.insert(at, rng.choice(("", " ", ",", "{}", "[]", "#", '"')))
    else:
        lines = lines[: rng.randint(1, len(lines))]
    return "\n".join(lines)


def characters(rng: Random, text: str) -> str:
    """A few characters gone, doubled or new."""
    at = rng.randint(0, len(text))
    until = min(len(text), at + rng.choice((0, 0, 1, 3, 12)))
    new = rng.choice(("", text[at:until] * 2, rng.choice(WORDS), rng.choice('{}[]",:;=0-+eE.\n\t %#')))
    return text[:at] + new + text[until:]


def nested(rng: Random, text: str) -> str:
    """A number within lists, many or few."""
    found = _one(rng, _NUMBER, text)
    depth = rng.choice((1, 2, 50, 100_000))
    return (
        text if found is None else f"{text[: found.start()]}{'[' * depth}{found[0]}{']' * depth}{text[found.end() :]}"
    )


MUTATIONS: tuple[Mutation, ...] = (number, word, pair, line, characters, nested)
WEIGHTS = (40, 15, 12, 15, 10, 2)


def _one(rng: Random, pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """A match near a random place: to list all of a long text takes too long."""
    start = rng.randint(0, len(text))
    return pattern.search(text, start) or pattern.search(text)


def _bytes(rng: Random, raw: bytes) -> bytes:
    at = rng.randint(0, len(raw))
    change = rng.randrange(4)
    if change == 0:
        return raw[:at]
    if change == 1:
        return raw[:at] + bytes((rng.randrange(256),)) + raw[at + 1 :]
    if change == 2:
        return raw[:at] + rng.choice((b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\r\n", b"\x1f\x8b", b"\x85")) + raw[at:]
    return raw[:at] + raw[at + rng.randint(1, 16) :]
