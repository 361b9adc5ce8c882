"""What is compared of a run: its metrics, measured and predicted, and the step time on the batches that ran."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine import Served
from fluidgate.engine import RunRecords
from fluidgate.metrics import summarize

METRICS = (
    "mean_ttft_ms",
    "mean_tpot_ms",
    "mean_e2el_ms",
    "p99_longest_silence_s",
    "preemptions",
    "output_throughput",
    "completed",
    "iterations",
)


def numbers(records: RunRecords) -> dict[str, Any]:
    """The metrics that are compared."""
    summary = summarize(records).to_dict()
    return {key: summary[key] for key in METRICS}


def step_time_error(served: Served) -> dict[str, float]:
    """How far the fitted step time is off on the very batches that ran."""
    steps = served.records.steps
    assert steps is not None
    measured_s = steps.end_s - steps.start_s
    ran = measured_s > 0
    ratio = served.predicted_step_s[ran] / measured_s[ran]
    return {
        "mean_absolute": float(np.abs(ratio - 1).mean()),
        "total_predicted_over_measured": float(served.predicted_step_s.sum() / measured_s.sum()),
    }
