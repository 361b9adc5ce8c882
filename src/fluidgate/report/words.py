"""Numbers in words, the same on the page and in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from fluidgate.metrics import METRICS
from fluidgate.runs import Cell, Scenario
from fluidgate.words import number, percent


def measured(key: str, value: float) -> str:
    """A metric's value with its unit; milliseconds turn into seconds from 1,000 on."""
    metric = METRICS[key]
    if metric.unit in ("ms", "s") and isfinite(value):
        return duration(value / 1e3 if metric.unit == "ms" else value)
    return f"{metric.text(value)} {metric.unit}".strip()


def duration(value_s: float) -> str:
    """Seconds to three digits; milliseconds below one second."""
    if not isfinite(value_s):
        return "–"
    return f"{number(value_s)} s" if abs(value_s) >= 1.0 else f"{number(1e3 * value_s)} ms"


def listed(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def short(text: str, longest: int) -> str:
    """At most `longest` characters, with an ellipsis if need be."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def load_title(scenario: Scenario) -> str:
    """The load as a share of the boundary, and as a rate."""
    return f"Load {percent(scenario.load)}, {number(scenario.plan.mix.rate)} req/s"


def stability(cell: Cell) -> str:
    """`stable` or `unstable` if all repeats say so, otherwise how many of them say what."""
    verdicts = [summary.stable for summary in cell.summaries]
    counts = [(verdicts.count(True), "stable"), (verdicts.count(False), "unstable"), (verdicts.count(None), "unclear")]
    seen = [(count, word) for count, word in counts if count]
    return seen[0][1] if len(seen) == 1 else ", ".join(f"{count} {word}" for count, word in seen)


def unfinished(cell: Cell) -> int:
    """Requests left over in all repeats together."""
    return sum(summary.unfinished for summary in cell.summaries)
