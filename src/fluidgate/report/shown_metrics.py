"""Which metrics are shown, and where; and when a difference counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from fluidgate.metrics import METRICS, Interval
from fluidgate.report.words import seconds, tenths
from fluidgate.runs import Comparison
from fluidgate.words import number

LATENCIES = {
    "ttft": "TTFT: time to the first token",
    "tpot": "TPOT: time per further token",
    "e2el": "E2E latency: arrival to last token",
}
"""The latencies a reader can choose between; `<key>_s` is the distribution in a `Timeline`."""


@dataclass(frozen=True)
class Shown:
    """A metric in the page's table of all numbers, and where else it is shown.

    Attributes:
        key: its name in a `Summary`.
        column: its two-line heading in the terminal's table, and the format there.
        bars: the name of the figure that shows it as bars.
        latency: the key in `LATENCIES` of which it is the mean; its bars are shown with that latency.
        part: its name and style as a part of the busy time.
        needs_slo: shown only if an SLO was given.
        needs_patience: shown only if clients give up.
    """

    key: str
    column: tuple[str, Callable[[float], str]] | None = None
    bars: str = ""
    latency: str = ""
    part: tuple[str, str] | None = None
    needs_slo: bool = False
    needs_patience: bool = False


SHOWN = (
    Shown("request_goodput", needs_slo=True),
    Shown("goodput_share", needs_slo=True),
    Shown("success_share", ("served", tenths), needs_patience=True),
    Shown("aborted", needs_patience=True),
    Shown("wasted_share", ("waste", tenths), needs_patience=True),
    Shown("wasted_tokens", needs_patience=True),
    Shown("mean_ttft_ms", ("TTFT\nmean s", seconds), bars="mean-ttft", latency="ttft"),
    Shown("p99_ttft_ms", ("TTFT\np99 s", seconds)),
    Shown("mean_tpot_ms", ("TPOT\nmean ms", number), bars="mean-tpot", latency="tpot"),
    Shown("p99_itl_ms", ("ITL\np99 ms", number)),
    Shown("mean_e2el_ms", ("E2E\nmean s", seconds), bars="mean-e2el", latency="e2el"),
    Shown("p99_e2el_ms"),
    Shown("output_throughput", ("output\ntok/s", number)),
    Shown("effective_throughput"),
    Shown("mean_longest_silence_s"),
    Shown("p99_longest_silence_s", ("silence\np99 s", number), bars="p99-silence"),
    Shown("preemptions", ("preemp-\ntions", number)),
    Shown("recompute_tax", ("recomp.\ntax", tenths), bars="recompute-tax"),
    Shown("mean_held_s", ("held\nmean s", number)),
    Shown("kv_peak"),
    Shown("kv_mean", ("KV\nmean", tenths)),
    Shown("kv_above_90"),
    Shown("fluid_efficiency", ("fluid\nbound", tenths), part=("fluid bound", "bound")),
    Shown("recompute_loss", part=("recomputation", "again")),
    Shown("underuse_loss", part=("under-use", "under")),
)
_NARROW = (
    "mean_e2el_ms",
    "p99_longest_silence_s",
    "preemptions",
    "output_throughput",
    "success_share",
    "wasted_share",
    "recompute_tax",
    "p99_ttft_ms",
    "mean_tpot_ms",
    "mean_ttft_ms",
    "kv_mean",
    "mean_held_s",
    "p99_itl_ms",
    "fluid_efficiency",
)
"""The columns of the terminal's table, those first that tell policies apart."""
LATENCY_BARS = tuple(metric for metric in SHOWN if metric.latency)
SILENCE_BARS = tuple(metric for metric in SHOWN if metric.bars and not metric.latency)
BUSY_TIME = {metric.key: metric.part for metric in SHOWN if metric.part}


def _shown(comparison: Comparison) -> list[Shown]:
    left_out = {"needs_slo": comparison.slo is None, "needs_patience": not comparison.gives_up}
    return [metric for metric in SHOWN if not any(out and getattr(metric, need) for need, out in left_out.items())]


def compared_metrics(comparison: Comparison) -> list[str]:
    """The keys of the page's table, in order."""
    return [metric.key for metric in _shown(comparison)]


def columns(comparison: Comparison) -> dict[str, tuple[str, Callable[[float], str]]]:
    """The columns of the terminal's table by key: heading and format."""
    return {metric.key: metric.column for metric in _shown(comparison) if metric.column}


def narrow_order(keys: Iterable[str]) -> list[str]:
    """The columns in the order in which a narrow table takes them in."""
    return sorted(keys, key=_NARROW.index)


def judge(key: str, difference: Interval) -> Literal["better", "worse"] | None:
    """Whether a metric differs from the baseline for better or worse; None if the interval includes zero."""
    direction = METRICS[key].better
    above, below = difference.low > 0, difference.high < 0
    if direction is None or not (above or below):
        return None
    return "better" if above == (direction == "higher") else "worse"
