"""Values of a metric in one unit, so that they can stand in a column, on an axis or beside their interval."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite

from fluidgate.metrics import METRICS, Interval
from fluidgate.report.words import or_dash, signed
from fluidgate.words import number


@dataclass(frozen=True)
class Scale:
    """A unit for values of one metric.

    Attributes:
        unit: as it is written; empty for counts.
        factor: the metric's own values times this are in the unit.
    """

    unit: str
    factor: float

    def text(self, value: float) -> str:
        """A value of the metric, three digits, without its unit."""
        return or_dash(self.factor * value, number)

    def titled(self, name: str) -> str:
        """A metric's name with the unit, as a chart's title: `TTFT, mean, s`."""
        return ", ".join(filter(None, (name, self.unit)))

    def with_unit(self, text: str) -> str:
        """A number as text, and the unit; percent signs follow without a space."""
        return text if text == "–" else f"{text}{'' if self.unit == '%' else ' '}{self.unit}".strip()


def is_share(key: str) -> bool:
    """Whether the metric is shown in percent."""
    return METRICS[key].format.endswith("%")


def scale_of(key: str, values: Iterable[float]) -> Scale:
    """Seconds where the largest of the values takes a second or more, else milliseconds; other metrics in their own."""
    largest = max((abs(value) for value in values if isfinite(value)), default=0.0)
    unit = METRICS[key].unit
    if unit in ("s", "ms"):
        in_ms = 1.0 if unit == "ms" else 1e3
        return Scale("s", in_ms / 1e3) if in_ms * largest >= 1e3 else Scale("ms", in_ms)
    return Scale("%", 100.0) if is_share(key) else Scale(unit, 1.0)


def difference_texts(key: str, difference: Interval) -> tuple[str, str]:
    """A difference with its sign and unit, and its interval in the same unit; empty where one repeat gives none."""
    ends = (difference.low, difference.high)
    scale = scale_of(key, (difference.mean, *ends))
    mean = signed(scale.text(difference.mean))
    written = f"{mean} points" if is_share(key) else scale.with_unit(mean)
    interval = f"[{', '.join(signed(scale.text(end)) for end in ends)}]" if all(map(isfinite, ends)) else ""
    return written, interval
