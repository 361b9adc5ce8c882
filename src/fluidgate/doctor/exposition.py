"""Prometheus' text format, version 0.0.4: lines to samples, strictly."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import nan

from fluidgate.errors import InputError

_SAMPLE = re.compile(
    r"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?:\{(?P<labels>.*)\})?\s+(?P<value>\S+)(?:\s+-?\d+)?\s*", re.ASCII
)
_LABEL = re.compile(r'\s*(?P<name>[a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"(?P<value>(?:[^"\\]|\\.)*)"\s*(?:,|$)', re.ASCII)
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?|[Ii]nf)", re.ASCII)
_ESCAPE = re.compile(r"\\(.)")
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
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _SAMPLE.fullmatch(line.strip())
        labels = None if found is None else _labels(found["labels"] or "")
        value = None if found is None else _value(found["value"])
        if found is None or labels is None or value is None:
            shown = line.strip()
            shown = shown if len(shown) <= 60 else shown[:57] + "…"
            raise InputError(
                f"{where}, line {number}: {shown!r} is not a line of Prometheus metrics; "
                "save the server's page as it is: `curl http://HOST:8000/metrics > scrape.txt`"
            )
        yield Sample(found["name"], labels, value, number)


def _labels(text: str) -> dict[str, str] | None:
    labels: dict[str, str] = {}
    at = 0
    while at < len(text) and text[at:].strip():
        found = _LABEL.match(text, at)
        if found is None or found["name"] in labels:
            return None
        labels[found["name"]] = _ESCAPE.sub(lambda mark: _ESCAPED.get(mark[1], mark[0]), found["value"])
        at = found.end()
    return labels


def _value(text: str) -> float | None:
    """Python's own `float` takes more than the format does, `1_000` for instance."""
    if text == "NaN":
        return nan
    return float(text) if _NUMBER.fullmatch(text) else None
