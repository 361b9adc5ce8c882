"""Prometheus metrics of the gate, on vLLM's own `/metrics`.

The scheduler runs in vLLM's engine process; its metrics reach the server's page through `prometheus_client`'s
multiprocess mode, that is, where PROMETHEUS_MULTIPROC_DIR names an empty folder before the server starts.
"""

from __future__ import annotations

import time
from functools import cache

from prometheus_client import Counter, Gauge

from fluidgate.serving.gate import Gate, empty_books

SECONDS_BETWEEN_UPDATES = 0.25

_COUNTERS = {
    "preempted": ("fluidgate_preemptions", "Residents that lost their KV."),
    "held_steps": ("fluidgate_held_steps", "Iterations in which the policy kept waiting requests out."),
    "held_s": ("fluidgate_held_seconds", "Time in which the policy kept waiting requests out."),
    "paused": ("fluidgate_paused", "Residents paused, once per iteration."),
    "computed_tokens": ("fluidgate_computed_tokens", "Tokens computed, recomputed ones included."),
    "recomputed_tokens": ("fluidgate_recomputed_tokens", "Tokens computed again after a preemption."),
}

FALLBACK_PLACES = ("probe", "start", "add_request", "decide", "book")

_ADMISSION_REASONS = {"admitted": "new", "resumed": "resumed", "forced": "idle"}


@cache
def gate_metrics() -> GateMetrics:
    """The metrics of this process: Prometheus knows each name once."""
    return GateMetrics()


class GateMetrics:
    """Counters and gauges, written a few times a second so that a step does not pay for them."""

    def __init__(self) -> None:
        admissions = Counter(
            "fluidgate_admissions", "Requests admitted: new, resumed, or forced on an idle engine.", ["reason"]
        )
        self.counters = {field: Counter(name, text) for field, (name, text) in _COUNTERS.items()}
        self.counters |= {field: admissions.labels(reason=reason) for field, reason in _ADMISSION_REASONS.items()}
        self.fallbacks = Counter("fluidgate_fallbacks", "Times the gate gave way to stock scheduling.", ["where"])
        for where in FALLBACK_PLACES:  # at 0 from the start, so that an alert sees the first one
            self.fallbacks.labels(where=where)
        gauges = {
            "held": ("fluidgate_held_requests", "Waiting requests that the policy keeps out now."),
            "paused": ("fluidgate_paused_residents", "Residents that the policy pauses now."),
            "tax": ("fluidgate_recompute_tax", "Recomputed tokens ÷ computed tokens since the start."),
            "silence": ("fluidgate_longest_silence_seconds", "Longest gap between two tokens of a stream so far."),
            "peak": ("fluidgate_predicted_peak_kv_share", "Predicted peak of the KV cache's use by the residents."),
        }
        self.gauges = {
            field: Gauge(name, text, multiprocess_mode="livemostrecent") for field, (name, text) in gauges.items()
        }
        self._next_s = 0.0

    def fell_back(self, where: str) -> None:
        """Count a return to stock scheduling."""
        self.fallbacks.labels(where=where).inc()
        for now in ("held", "paused", "peak"):  # nobody is held from here on
            self.gauges[now].set(0)

    def update(self, gate: Gate) -> None:
        """Write what has changed, at most every quarter of a second, and at once when the engine falls idle."""
        now_s = time.monotonic()
        if now_s < self._next_s and not empty_books(gate):
            return
        self._next_s = now_s + SECONDS_BETWEEN_UPDATES
        totals = gate.totals
        for field, counter in self.counters.items():
            counter.inc(getattr(totals, field) - getattr(gate.published, field))
            setattr(gate.published, field, getattr(totals, field))
        self.gauges["held"].set(gate.num_held)
        self.gauges["paused"].set(gate.num_paused)
        self.gauges["tax"].set(totals.recomputed_tokens / max(totals.computed_tokens, 1))
        self.gauges["silence"].set(totals.longest_silence_s)
        self.gauges["peak"].set(gate.predicted_peak_share())
