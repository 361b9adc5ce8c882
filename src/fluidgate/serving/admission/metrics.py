"""Prometheus metrics of the middleware, on the API server's own `/metrics`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from prometheus_client import Counter, Gauge, Histogram

OUTCOMES = ("passed", "refused", "expired", "bad_header", "limit", "channel_down")
_WAITS_S = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600)
_ERRORS_S = (-120, -60, -30, -10, -5, -2, -1, -0.5, -0.2, 0, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120)


@dataclass(frozen=True)
class AdmissionMetrics:
    """The metrics of this process."""

    requests: Counter
    predicted_wait: Histogram
    prediction_error: Histogram
    in_flight: Gauge

    def count(self, class_name: str, outcome: str) -> None:
        """Count a request, by its class and what became of it."""
        self.requests.labels(class_name, outcome).inc()


@cache
def admission_metrics() -> AdmissionMetrics:
    """Made once: Prometheus allows each name once."""
    return AdmissionMetrics(
        requests=Counter(
            "fluidgate_admission_requests",
            "Requests by what became of them at the door; those that passed may expire later, and then count again.",
            ["class", "outcome"],
        ),
        predicted_wait=Histogram(
            "fluidgate_admission_predicted_wait_seconds",
            "Predicted wait until the engine starts a request, refused ones included.",
            buckets=_WAITS_S,
        ),
        prediction_error=Histogram(
            "fluidgate_admission_prediction_error_seconds",
            "First byte of a streamed answer, after the request came, minus the predicted wait.",
            buckets=_ERRORS_S,
        ),
        in_flight=Gauge(
            "fluidgate_admission_in_flight",
            "Requests let through and not ended.",
            ["class"],
            multiprocess_mode="livesum",
        ),
    )
