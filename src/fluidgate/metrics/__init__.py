"""From the records of a run to its numbers: latencies, throughput, goodput, KV use, stability, intervals."""

from fluidgate.metrics.batches import BatchEntries, batch_entries, evictions
from fluidgate.metrics.goodput import Slo, parse_goodput
from fluidgate.metrics.in_system import number_in_system
from fluidgate.metrics.intervals import Interval, PairedDifference, aggregate, mean_interval, paired_difference
from fluidgate.metrics.objectives import Judged, Objective, judge_objectives, parse_objectives
from fluidgate.metrics.stability import StabilityVerdict, stability_verdict
from fluidgate.metrics.summarize import summarize
from fluidgate.metrics.summary import METRICS, PATIENCE_METRICS, SLO_METRICS, Metric, Summary
from fluidgate.metrics.timeline import Timeline, timeline

__all__ = [
    "METRICS",
    "PATIENCE_METRICS",
    "SLO_METRICS",
    "BatchEntries",
    "Interval",
    "Judged",
    "Metric",
    "Objective",
    "PairedDifference",
    "Slo",
    "StabilityVerdict",
    "Summary",
    "Timeline",
    "aggregate",
    "batch_entries",
    "evictions",
    "judge_objectives",
    "mean_interval",
    "number_in_system",
    "paired_difference",
    "parse_goodput",
    "parse_objectives",
    "stability_verdict",
    "summarize",
    "timeline",
]
