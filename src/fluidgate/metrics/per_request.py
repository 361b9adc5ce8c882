"""Latencies of each request of a run, and whether it met an SLO."""

from __future__ import annotations

from math import nan

import numpy as np

from fluidgate.arrays import BoolArray, FloatArray
from fluidgate.engine import RunRecords
from fluidgate.metrics.goodput import Slo


def ttft_s(records: RunRecords) -> FloatArray:
    """Arrival to first token, with the hardware's overhead, shape (n,), seconds; NaN without a first token."""
    return records.first_token_s - records.arrival_s + records.hardware.overhead_s


def e2el_s(records: RunRecords) -> FloatArray:
    """Arrival to last token, with the hardware's overhead, shape (n,), seconds; NaN for unfinished requests."""
    return np.where(records.finished, records.last_token_s - records.arrival_s + records.hardware.overhead_s, nan)


def tpot_s(records: RunRecords) -> FloatArray:
    """Time per output token after the first, shape (n,), seconds; NaN for unfinished and one-token requests."""
    gaps = records.workload.output_tokens - 1
    has = records.finished & (gaps > 0)
    streaming_s = records.last_token_s - records.first_token_s
    return np.asarray(np.divide(streaming_s, gaps, out=np.full(len(records), nan), where=has))


def meets(records: RunRecords, slo: Slo) -> BoolArray:
    """Whether each request finished within the bounds, shape (n,)."""
    good = records.finished.copy()
    for bound_ms, values_s in (
        (slo.ttft_ms, ttft_s(records)),
        (slo.tpot_ms, np.nan_to_num(tpot_s(records), nan=0.0)),  # one token: no time per further token, as in vLLM
        (slo.e2el_ms, e2el_s(records)),
    ):
        if bound_ms is not None:
            good &= 1e3 * values_s <= bound_ms
    return good
