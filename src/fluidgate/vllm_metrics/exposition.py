"""Prometheus' text format, version 0.0.4, and OpenMetrics, which adds exemplars and an end: lines to samples."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import nan

from fluidgate.errors import InputError

# Possessive quantifiers (`++`, `*+`) give back nothing, so no line takes longer than its length allows.
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*+", re.ASCII)
_OPEN = re.compile(r"\s*+\{\s*+", re.ASCII)
_LABEL = re.compile(
    r'(?P<name>[a-zA-Z_][a-zA-Z0-9_]*+)\s*+=\s*+"(?P<value>(?:[^"\\]|\\.)*+)"\s*+(?:,\s*+|(?=\}))', re.ASCII
)
_VALUE = re.compile(r"\s++(?P<value>\S++)(?:\s++-?\d++(?:\.\d*+)?+(?:[eE][+-]?\d++)?+)?+\s*+", re.ASCII)
_EXEMPLAR = re.compile(r"# ?\{.*\} ?\S.*", re.ASCII)
_NUMBER = re.compile(r"[+-]?(?:\d++(?:\.\d*+)?+(?:[eE][+-]?\d++)?+|\.\d++(?:[eE][+-]?\d++)?+|[Ii]nf)", re.ASCII)
_ESCAPE = re.compile(r"\\(.)")
END = "# EOF"
_ESCAPED = {"n": "\n", "\\": "\\", '"': '"'}


@dataclass(frozen=True)
class Sample:
    """One line: a metric's name, its labels, its value, and the number of the line."""

    name: str
    labels: dict[str, str]
    value: float
    line: int


def parse(text: str, where: str) -> list[Sample]:
    """The samples of a page of metrics, in its order; comments and HELP and TYPE lines are left out.

    Raises:
        InputError: a line that is no sample; names `where` and the line.
    """
    return list(_samples(text, where))


def _samples(text: str, where: str) -> Iterator[Sample]:
    ended = 0
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped == END:
            ended = number
        if not stripped or stripped.startswith("#"):
            continue
        if ended:
            raise InputError(
                f"{where}, line {number}: follows the end of a page ({END!r} in line {ended}); give each page by itself"
            )
        sample = _sample(stripped, number)
        if sample is None:
            shown = stripped if len(stripped) <= 60 else stripped[:57] + "…"
            raise InputError(
                f"{where}, line {number}: {shown!r} is not a line of Prometheus metrics; "
                "save the server's page as it is: `curl http://HOST:8000/metrics > scrape.txt`"
            )
        yield sample


def _sample(line: str, number: int) -> Sample | None:
    name = _NAME.match(line)
    if name is None:
        return None
    labels, at = _labels(line, name.end())
    rest = _VALUE.match(line, at)
    if rest is not None and rest.end() < len(line) and not _EXEMPLAR.fullmatch(line, rest.end()):
        return None
    value = None if rest is None else _value(rest["value"])
    return None if labels is None or value is None else Sample(name[0], labels, value, number)


def _labels(line: str, at: int) -> tuple[dict[str, str] | None, int]:
    """The labels in braces, if there are any, and where they end; None in their place if they are malformed."""
    labels: dict[str, str] = {}
    opened = _OPEN.match(line, at)
    if opened is None:
        return labels, at
    at = opened.end()
    while label := _LABEL.match(line, at):
        if label["name"] in labels:
            return None, at
        labels[label["name"]] = _ESCAPE.sub(lambda mark: _ESCAPED.get(mark[1], mark[0]), label["value"])
        at = label.end()
    return (labels, at + 1) if line.startswith("}", at) else (None, at)


def _value(text: str) -> float | None:
    """Python's own `float` takes more than the format does, `1_000` for instance."""
    if text == "NaN":
        return nan
    return float(text) if _NUMBER.fullmatch(text) else None
