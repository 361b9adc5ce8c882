"""Prometheus metrics of the gate, on vLLM's own `/metrics`.

The scheduler runs in vLLM's engine process; its metrics reach the server's page through `prometheus_client`'s
multiprocess mode, that is, where PROMETHEUS_MULTIPROC_DIR names an empty folder before the server starts.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache

from prometheus_client import Counter, Gauge

from fluidgate.serving.gate import Gate

SECONDS_BETWEEN_UPDATES = 0.25

_COUNTERS = {
    "preempted": ("fluidgate_preemptions", "Residents that lost their KV."),
    "shed": ("fluidgate_shed", "Requests that the policy gave up."),
    "held_steps": ("fluidgate_held_steps", "Iterations in which the policy kept waiting requests out."),
    "held_s": ("fluidgate_held_seconds", "Time in which the policy kept waiting requests out."),
    "paused": ("fluidgate_paused", "Residents paused, once per iteration."),
    "computed_tokens": ("fluidgate_computed_tokens", "Tokens computed, recomputed ones included."),
    "recomputed_tokens": ("fluidgate_recomputed_tokens", "Tokens computed again after a preemption."),
}

PLACES = ("add_request", "finish_requests", "decide", "book")
"""Where the gate's own code runs inside vLLM."""

_ADMISSION_REASONS = {"admitted": "new", "resumed": "resumed", "forced": "idle"}

_GAUGES = {
    "held": ("fluidgate_held_requests", "Waiting requests that the policy keeps out now."),
    "paused": ("fluidgate_paused_residents", "Residents that the policy pauses now."),
    "tax": ("fluidgate_recompute_tax", "Recomputed tokens ÷ computed tokens since the start."),
    "silence": ("fluidgate_longest_silence_seconds", "Longest gap between two tokens of a stream so far."),
    "peak": ("fluidgate_predicted_peak_kv_share", "Predicted peak of the KV cache's use by the residents."),
}


@dataclass(frozen=True)
class _Families:
    """The metrics of this process, each by the engine's rank."""

    counters: dict[str, Counter]
    gauges: dict[str, Gauge]
    admissions: Counter
    fallbacks: Counter
    rebuilds: Counter
    bad_hints: Counter
    unknown_classes: Counter


@cache
def _families() -> _Families:
    """Made once: Prometheus allows each name once."""
    labels = ["engine"]
    return _Families(
        counters={field: Counter(name, text, labels) for field, (name, text) in _COUNTERS.items()},
        gauges={
            field: Gauge(name, text, labels, multiprocess_mode="livemostrecent")
            for field, (name, text) in _GAUGES.items()
        },
        admissions=Counter(
            "fluidgate_admissions", "Requests admitted: new, resumed, or forced on an idle engine.", ["reason", *labels]
        ),
        fallbacks=Counter("fluidgate_fallbacks", "Times the gate gave way to stock scheduling.", ["where", *labels]),
        rebuilds=Counter("fluidgate_rebuilds", "Times the books were rebuilt from vLLM's queues.", ["where", *labels]),
        bad_hints=Counter("fluidgate_bad_hints", "Announced output lengths that were no good and ignored.", labels),
        unknown_classes=Counter("fluidgate_unknown_classes", "Requests of no class that the plan knows.", labels),
    )


@cache
def gate_metrics(rank: int = 0) -> GateMetrics:
    """The metrics of an engine of this process, by its data-parallel rank."""
    return GateMetrics(rank)


class GateMetrics:
    """Counters and gauges, written a few times a second so that a step does not pay for them."""

    def __init__(self, rank: int) -> None:
        families, engine = _families(), str(rank)
        self.counters = {field: counter.labels(engine=engine) for field, counter in families.counters.items()}
        self.counters |= {
            field: families.admissions.labels(reason=reason, engine=engine)
            for field, reason in _ADMISSION_REASONS.items()
        }
        self.gauges = {field: gauge.labels(engine=engine) for field, gauge in families.gauges.items()}
        self.bad_hints = families.bad_hints.labels(engine=engine)
        self.unknown_classes = families.unknown_classes.labels(engine=engine)
        # at 0 from the start, so that an alert sees the first one
        self.fallbacks = {
            where: families.fallbacks.labels(where=where, engine=engine) for where in ("probe", "start", *PLACES)
        }
        self.rebuilds = {where: families.rebuilds.labels(where=where, engine=engine) for where in PLACES}
        self._next_s = 0.0

    def fell_back(self, where: str) -> None:
        """Count a return to stock scheduling."""
        self.fallbacks[where].inc()
        for now in ("held", "paused", "peak"):  # no request is held from here on
            self.gauges[now].set(0)

    def rebuilt(self, where: str) -> None:
        """Count a rebuild of the books."""
        self.rebuilds[where].inc()

    def count_labels(self, *, bad_hint: bool, unknown_class: bool) -> None:
        """Count invalid hints and unknown classes in a request."""
        if bad_hint:
            self.bad_hints.inc()
        if unknown_class:
            self.unknown_classes.inc()

    def update(self, gate: Gate) -> None:
        """Write what has changed, at most every quarter of a second, and at once when the engine falls idle."""
        now_s = time.monotonic()
        if now_s < self._next_s and not gate.books.is_empty:
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
