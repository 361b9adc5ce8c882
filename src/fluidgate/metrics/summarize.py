"""`summarize`: from the records of a run to its `Summary`."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from typing import Any

import numpy as np

from fluidgate.arrays import FloatArray, IntArray
from fluidgate.engine import RunRecords
from fluidgate.metrics.goodput import Slo
from fluidgate.metrics.losses import busy_shares
from fluidgate.metrics.objectives import Objective
from fluidgate.metrics.per_request import e2el_s, meets, tpot_s, ttft_s
from fluidgate.metrics.stability import stability_verdict
from fluidgate.metrics.summary import PATIENCE_METRICS, Summary

STALL_S = 1.0
PERCENTILES = {"median": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0}


def summarize(records: RunRecords, slo: Slo | None = None, objectives: Sequence[Objective] = ()) -> Summary:
    """The numbers of one run; without an `slo` its goodput is NaN. `Summary` says what each is taken over."""
    finished = records.finished
    verdict = stability_verdict(records)
    return Summary(
        **_latencies(records),
        **_rates(records, slo),
        **_silences(records),
        **_waits(records),
        **_engine(records),
        **busy_shares(records),
        **_given_up(records),
        offered=records.workload.offered,
        completed=int(finished.sum()),
        unfinished=int((~finished & ~records.dropped).sum()),
        refused=records.workload.offered - len(records),
        stable=verdict.stable,
        stability_reason=verdict.reason,
        objectives=[objective.value(records, slo) for objective in objectives],
    )


def gap_percentiles_s(counts: IntArray, edges_s: FloatArray, percentiles: list[float]) -> FloatArray:
    """Percentiles of histogrammed gaps, shape (len(percentiles),), seconds; NaN without a gap.

    Interpolates between order statistics as `numpy.percentile` does; each lies within its bin, so the error is
    at most the bins' relative width.
    """
    total = int(counts.sum())
    if total == 0:
        return np.full(len(percentiles), nan)
    position = np.asarray(percentiles) / 100 * (total - 1)
    below = np.floor(position)
    low, high = (_order_statistic(counts, edges_s, np.minimum(below + k, total - 1)) for k in (0, 1))
    return low + (position - below) * (high - low)


def _order_statistic(counts: IntArray, edges_s: FloatArray, rank: FloatArray) -> FloatArray:
    """The gap of each rank (from 0), as if gaps lay evenly in their bins."""
    cumulative = np.cumsum(counts)
    bins = np.searchsorted(cumulative, rank, side="right")
    inside = (rank - (cumulative[bins] - counts[bins]) + 0.5) / counts[bins]
    return np.asarray(edges_s[bins] + inside * (edges_s[bins + 1] - edges_s[bins]))


def _latencies(records: RunRecords) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, values_s in (("ttft", ttft_s(records)), ("tpot", tpot_s(records)), ("e2el", e2el_s(records))):
        has = values_s[~np.isnan(values_s)]
        out[f"mean_{name}_ms"] = 1e3 * _mean(has)
        for prefix, q in PERCENTILES.items():
            out[f"{prefix}_{name}_ms"] = 1e3 * _percentile(has, q)
    out["mean_itl_ms"] = 1e3 * _ratio(records.gap_sum_s, int(records.gap_counts.sum()))
    itl_s = gap_percentiles_s(records.gap_counts, records.gap_edges_s, list(PERCENTILES.values()))
    for prefix, value_s in zip(PERCENTILES, itl_s, strict=True):
        out[f"{prefix}_itl_ms"] = 1e3 * float(value_s)
    return out


def _rates(records: RunRecords, slo: Slo | None) -> dict[str, Any]:
    streamed = ~np.isnan(records.last_token_s)
    last_s = float(records.last_token_s[streamed].max()) if streamed.any() else nan
    duration_s = last_s - float(np.nanmin(records.arrival_s))

    def per_second(amount: float) -> float:
        return _ratio(amount, duration_s) if amount else 0.0  # nothing came: zero, over any time

    good = int(meets(records, slo).sum()) if slo is not None else nan
    return {
        "output_throughput": per_second(int(records.generated_tokens.sum())),
        "effective_throughput": per_second(int(records.generated_tokens[records.finished].sum())),
        "request_throughput": per_second(int(records.finished.sum())),
        "request_goodput": per_second(good),
        "goodput_share": good / records.workload.offered,
        "duration_s": duration_s,
    }


def _silences(records: RunRecords) -> dict[str, Any]:
    silence_s = records.longest_gap_s[records.last_token_s > records.first_token_s]
    return {
        "mean_longest_silence_s": _mean(silence_s),
        "p99_longest_silence_s": _percentile(silence_s, 99),
        "max_longest_silence_s": _percentile(silence_s, 100),
        "stalled_share": _ratio(int((silence_s > STALL_S).sum()), len(silence_s)),
    }


def _waits(records: RunRecords) -> dict[str, Any]:
    scheduled = ~np.isnan(records.first_scheduled_s)
    held_s = records.held_s[scheduled]
    prompt_tokens = int(records.workload.prompt_tokens[scheduled].sum())
    return {
        "mean_held_s": _mean(held_s),
        "p99_held_s": _percentile(held_s, 99),
        "mean_queued_s": _mean((records.first_scheduled_s - records.arrival_s)[scheduled]),
        "cached_share": _ratio(int(records.cached_tokens.sum()), prompt_tokens),
    }


def _given_up(records: RunRecords) -> dict[str, Any]:
    """What it costs that clients, or the policy, give up; NaN where nobody does."""
    dropped = records.dropped
    if records.spent_s is None or records.spent_tokens is None:
        return dict.fromkeys(PATIENCE_METRICS, nan)
    return {
        "aborted": int(records.aborted.sum()),
        "shed": int(records.shed.sum()),
        "success_share": int(records.finished.sum()) / records.workload.offered,
        "wasted_tokens": int(records.spent_tokens[dropped].sum()),
        "wasted_share": _ratio(float(records.spent_s[dropped].sum()), records.busy_s),
    }


def _engine(records: RunRecords) -> dict[str, Any]:
    recomputed = int(records.recomputed_tokens.sum())
    return {
        "preemptions": int(records.preemptions.sum()),
        "preempted_requests": int((records.preemptions > 0).sum()),
        "recomputed_tokens": recomputed,
        "computed_tokens": records.computed_tokens,
        "recompute_tax": _ratio(recomputed, records.computed_tokens),
        "kv_peak": records.peak_blocks / records.total_blocks,
        "kv_mean": records.mean_blocks / records.total_blocks,
        "kv_above_90": _ratio(records.nearly_full_s, records.busy_s),
        "iterations": records.iterations,
        "mean_iteration_ms": 1e3 * _ratio(records.busy_s, records.iterations),
        "busy_share": _ratio(records.busy_s, records.replicas * (records.end_s - float(np.nanmin(records.arrival_s)))),
        "end_s": records.end_s,
    }


def _mean(values: FloatArray) -> float:
    return float(values.mean()) if len(values) else nan


def _percentile(values: FloatArray, q: float) -> float:
    return float(np.percentile(values, q)) if len(values) else nan


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else nan
