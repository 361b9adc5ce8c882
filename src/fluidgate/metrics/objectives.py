"""`Objective`: a bound on a statistic of all requests, such as a p99 TTFT of 2 s, and whether runs meet it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.engine import RunRecords
from fluidgate.errors import InputError, unknown
from fluidgate.jsonfile import plain
from fluidgate.metrics.goodput import Slo
from fluidgate.metrics.intervals import Interval, mean_interval
from fluidgate.metrics.per_request import e2el_s, meets, tpot_s, ttft_s
from fluidgate.words import number, percent

GOODPUT, MEAN = "goodput", "mean"
EXAMPLE = "p99:ttft:2000, mean:e2el:30000 or goodput:0.95"


def _silence_s(records: RunRecords) -> FloatArray:
    return np.where(records.finished, records.longest_gap_s, np.nan)


class _Quantity(NamedTuple):
    words: str
    seconds: Callable[[RunRecords], FloatArray]


QUANTITIES = {
    "ttft": _Quantity("TTFT", ttft_s),
    "tpot": _Quantity("TPOT", tpot_s),
    "e2el": _Quantity("E2E latency", e2el_s),
    "silence": _Quantity("longest silence", _silence_s),
}
"""What can be bounded; each a number of seconds per request, NaN where a request has none."""


@dataclass(frozen=True)
class Objective:
    """A bound on a statistic over all requests that the model takes.

    One that never got what is measured, because it was aborted or not finished, counts as infinitely late; one of a
    single token has a TPOT of 0. Those that are refused as too long miss a goodput, and are in no latency.

    Attributes:
        quantity: a key of `QUANTITIES`, or `goodput`, the share of requests that meet an `Slo`.
        percentile: above 0 and below 100; None: the mean.
        bound: the most, milliseconds; of goodput the least share.

    Raises:
        InputError: an unknown quantity, or a number that cannot be.
    """

    quantity: str
    percentile: float | None
    bound: float

    def __post_init__(self) -> None:
        if self.quantity == GOODPUT:
            if not (self.percentile is None and 0 < self.bound <= 1):
                raise InputError(f"{self}: a goodput is a share above 0 and at most 1, such as goodput:0.95")
            return
        if self.quantity not in QUANTITIES:
            raise unknown("quantity of an objective", self.quantity, [*QUANTITIES, GOODPUT])
        if self.percentile is not None and not 0 < self.percentile < 100:
            raise InputError(f"{self}: a percentile lies above 0 and below 100, such as p99")
        if not (math.isfinite(self.bound) and self.bound > 0):
            raise InputError(f"{self}: the bound must be a finite number of milliseconds above 0")

    def __str__(self) -> str:
        """As `parse_objectives` takes it."""
        if self.quantity == GOODPUT:
            return f"goodput:{self.bound:g}"
        return f"{MEAN if self.percentile is None else f'p{self.percentile:g}'}:{self.quantity}:{self.bound:g}"

    @property
    def words(self) -> str:
        """As a sentence has it."""
        if self.quantity == GOODPUT:
            return f"goodput of at least {percent(self.bound)}"
        statistic = MEAN if self.percentile is None else f"p{self.percentile:g}"
        return f"{statistic} {QUANTITIES[self.quantity].words} of at most {self.text(self.bound)}"

    def text(self, value: float) -> str:
        """A value of the statistic, with its unit."""
        if self.quantity == GOODPUT:
            return percent(value)
        if not math.isfinite(value):
            return "unbounded"
        return f"{number(value / 1e3)} s" if value >= 1e3 else f"{number(value)} ms"

    def value(self, records: RunRecords, slo: Slo | None) -> float:
        """The statistic of a run, in the unit of the bound; infinite where too many requests never got there."""
        if self.quantity == GOODPUT:
            return _goodput(records, slo)
        values_ms = _latencies_ms(records, self.quantity)
        return float(values_ms.mean()) if self.percentile is None else _quantile(values_ms, self.percentile / 100)

    def excess(self, records: RunRecords, slo: Slo | None) -> float:
        """How far a run is beyond the bound: its mean over runs is above 0 if and only if the objective is missed.

        Of a percentile the share of requests beyond the bound less the share that may be; of a mean, relative; of a
        goodput, the share that is missing.
        """
        if self.quantity == GOODPUT:
            return self.bound - _goodput(records, slo)
        values_ms = _latencies_ms(records, self.quantity)
        if self.percentile is None:
            return float(values_ms.mean()) / self.bound - 1.0
        return float((values_ms > self.bound).mean()) - (1.0 - self.percentile / 100)


def parse_objectives(items: Sequence[str], slo: Slo | None) -> tuple[Objective, ...]:
    """Objectives written as `p99:ttft:2000`, `mean:e2el:30000` (milliseconds) or `goodput:0.95`.

    Raises:
        InputError: one that is malformed or unknown, two of the same statistic, or a goodput without an `slo`.
    """
    objectives = tuple(_parsed(item) for item in items)
    statistics = [(objective.quantity, objective.percentile) for objective in objectives]
    for objective, statistic in zip(objectives, statistics, strict=True):
        if statistics.count(statistic) > 1:
            raise InputError(f"{objective}: this statistic is bounded twice; give one bound")
        if objective.quantity == GOODPUT and slo is None:
            raise InputError(f"{objective} needs --goodput ttft:MS tpot:MS, which says what a good request is")
    return objectives


def _parsed(item: str) -> Objective:
    parts = item.split(":")
    try:
        if len(parts) == 2 and parts[0] == GOODPUT:
            return Objective(GOODPUT, None, float(parts[1]))
        if len(parts) == 3 and (parts[0] == MEAN or parts[0].startswith("p")):
            percentile = None if parts[0] == MEAN else float(parts[0].removeprefix("p"))
            return Objective(parts[1], percentile, float(parts[2]))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
    raise InputError(f"objective {item!r}: write STATISTIC:LATENCY:MILLISECONDS, such as {EXAMPLE}")


@dataclass(frozen=True)
class Judged:
    """An objective over repeats.

    Attributes:
        value: mean and 95% interval of the statistic, in the unit of the bound.
        met: None where the interval contains the bound; with one repeat, whether that one meets it.
    """

    objective: Objective
    value: Interval
    met: bool | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; null where a value is not finite."""
        return {
            "objective": str(self.objective),
            "met": self.met,
            **plain({"mean": self.value.mean, "low": self.value.low, "high": self.value.high}, finite=True),
        }

    @property
    def words(self) -> str:
        """The objective, and its outcome."""
        return f"{self.objective.words}: {self.outcome}"

    @property
    def outcome(self) -> str:
        """The statistic, whether it is met or missed, and by how much."""
        value, bound = self.value.mean, self.objective.bound
        state = {True: "met", False: "missed", None: "undecided"}[self.met]
        room = (value - bound) / bound if self.objective.quantity == GOODPUT else (bound - value) / bound
        by = f" by {percent(abs(room))}" if math.isfinite(room) and self.met is not None else ""
        return f"{self.objective.text(value)}, {state}{by}"


def judge_objectives(objectives: Sequence[Objective], by_repeat: Sequence[Sequence[float]]) -> tuple[Judged, ...]:
    """Every objective over repeats; `by_repeat` holds the values of each repeat, in the objectives' order."""
    return tuple(
        _judged(objective, [values[place] for values in by_repeat]) for place, objective in enumerate(objectives)
    )


def _judged(objective: Objective, values: list[float]) -> Judged:
    better = 1.0 if objective.quantity == GOODPUT else -1.0
    interval = mean_interval(values)
    if not math.isfinite(interval.mean):
        return Judged(objective, interval, False if interval.mean == math.inf else None)
    ends = [interval.mean] if interval.n == 1 else [interval.low, interval.high]
    room = [better * (end - objective.bound) for end in ends]
    return Judged(objective, interval, True if min(room) >= 0 else False if max(room) < 0 else None)


def _goodput(records: RunRecords, slo: Slo | None) -> float:
    if slo is None:
        raise InputError("a goodput needs an Slo, which says what a good request is")
    return float(meets(records, slo).sum()) / records.workload.offered


def _latencies_ms(records: RunRecords, quantity: str) -> FloatArray:
    """Per request, shape (n,), milliseconds; infinite where it never came."""
    values_ms = 1e3 * QUANTITIES[quantity].seconds(records)
    if quantity == "tpot":
        values_ms = np.where(records.finished & (records.workload.output_tokens == 1), 0.0, values_ms)
    return np.where(np.isnan(values_ms), np.inf, values_ms)


def _quantile(values: FloatArray, share: float) -> float:
    """As `numpy.quantile`, where values may be infinite."""
    ordered = np.sort(values)
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    low, high = ordered[below], ordered[min(below + 1, len(ordered) - 1)]
    return float(low if position == below or low == high else low + (position - below) * (high - low))
