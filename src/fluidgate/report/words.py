"""Numbers and verdicts as text, the same on the page and in the terminal."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite

from fluidgate.hardware import Hardware
from fluidgate.metrics import METRICS
from fluidgate.runs import Cell, Scenario
from fluidgate.words import number, percent


def measured(key: str, value: float) -> str:
    """A metric's value with its unit; 1,000 milliseconds and more are given in seconds."""
    metric = METRICS[key]
    if metric.unit in ("ms", "s") and isfinite(value):
        return duration(value / 1e3 if metric.unit == "ms" else value)
    return f"{metric.text(value)} {metric.unit}".strip()


def or_dash(value: float, text: Callable[[float], str]) -> str:
    """The text of a value, or a dash where there is none."""
    return text(value) if isfinite(value) else "–"


def duration(value_s: float) -> str:
    """Seconds to three digits; milliseconds below one second."""
    return or_dash(value_s, lambda v: f"{number(v)} s" if abs(v) >= 1.0 or v == 0 else f"{number(1e3 * v)} ms")


def whole_percent(share: float) -> str:
    """A share in whole percent."""
    return f"{share:.0%}"


def tenths(share: float) -> str:
    """A share in percent, to a tenth."""
    return or_dash(share, lambda s: percent(round(s, 3)))


def signed(text: str) -> str:
    """A difference that was formatted without a plus, with its sign; what was rounded to zero has none."""
    digits = text.removeprefix("-")
    if not digits.strip("0.%"):
        return digits
    return f"{'−' if text.startswith('-') else '+'}{digits}"


def counted(count: int, one: str, many: str = "") -> str:
    """`1 load`, `2 loads`."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def short(text: str, longest: int) -> str:
    """At most `longest` characters, with an ellipsis if need be."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def load_title(scenario: Scenario) -> str:
    """The load as a share of the boundary, and as a rate."""
    return f"Load {percent(scenario.load)}, {number(scenario.plan.mix.rate)} req/s"


def stability(cell: Cell) -> str:
    """`stable`, `unstable` or `unclear` if all repeats agree, otherwise a count of each."""
    verdicts = [summary.stable for summary in cell.summaries]
    counts = {"stable": verdicts.count(True), "unstable": verdicts.count(False), "unclear": verdicts.count(None)}
    for word, count in counts.items():
        if count == len(verdicts):
            return word
    return ", ".join(f"{count} {word}" for word, count in counts.items() if count)


def unfinished(cell: Cell) -> int:
    """Requests that never finished, over all repeats."""
    return sum(summary.unfinished for summary in cell.summaries)


def outside_engine(hardware: Hardware) -> str:
    """What to append to a title where latencies hold more than the engine's own; empty where they do not."""
    return f", with {number(1e3 * hardware.overhead_s)} ms outside the engine" if hardware.overhead_s else ""
