"""Numbers and verdicts as text, the same on the page and in the terminal."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite

from fluidgate.hardware import Hardware
from fluidgate.metrics import METRICS
from fluidgate.runs import Cell, Scenario
from fluidgate.runs.size import Sizing
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


def seconds(value_ms: float) -> str:
    """Milliseconds in seconds, without the unit."""
    return number(value_ms / 1e3)


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


def cost_text(sizing: Sizing, cost: float) -> str:
    """What a fleet costs, with the unit: money per hour, or GPUs where there are no prices."""
    return f"${cost:,.2f}/h" if sizing.priced else counted(round(cost), "GPU")


def capital(text: str) -> str:
    """With a capital first letter, unless it begins with a percentile: `Mean TTFT`, `p99 longest silence`."""
    return text if text[1:2].isdigit() else text[:1].upper() + text[1:]


def short(text: str, longest: int) -> str:
    """At most `longest` characters, with an ellipsis if need be."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def load_title(scenario: Scenario) -> str:
    """The load as a share of the boundary, and as a rate."""
    load = f"load {percent(scenario.load)}, {number(scenario.plan.mix.rate)} req/s"
    return f"{scenario.workload}, {load}" if scenario.workload else load.capitalize()


def load_name(scenario: Scenario) -> str:
    """The load as a share of the boundary, after the workload's name where there are several."""
    return f"{scenario.workload} at {percent(scenario.load)}" if scenario.workload else percent(scenario.load)


def at_load(scenario: Scenario) -> str:
    """The load in a sentence, with the workload's name where there are several: `at load 90% of chat`."""
    return load_of(scenario.load, scenario.workload)


def load_of(load: float, workload: str = "") -> str:
    """As `at_load`, without a scenario."""
    return f"at load {percent(load)}{f' of {workload}' if workload else ''}"


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
