"""`gate_metrics`: the books of gates before the servers, for Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cache

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from fluidgate.adapters.entrance import Entrance


class GateMetrics:
    """A collector of what entrances know, each under a name. It reads them where it is asked: in their event loop."""

    def __init__(self) -> None:
        self._entrances: dict[str, Entrance] = {}

    def add(self, gate: str, entrance: Entrance) -> None:
        """Show an entrance; one of the same name is shown no more."""
        self._entrances[gate] = entrance

    def collect(self) -> Iterable[Metric]:
        """All metrics, as they are now."""
        requests = CounterMetricFamily(
            "fluidgate_gate_requests",
            "Requests that have come to the gate, by what became of them; one that is tried again comes again.",
            labels=["gate", "outcome"],
        )
        retried = CounterMetricFamily(
            "fluidgate_gate_retried",
            "Requests that failed and were tried again.",
            labels=["gate"],
        )
        waiting = GaugeMetricFamily("fluidgate_gate_waiting", "Requests that wait at the gate.", labels=["gate"])
        in_flight = GaugeMetricFamily(
            "fluidgate_gate_in_flight", "Requests let in and not ended, by replica.", labels=["gate", "replica"]
        )
        peak = GaugeMetricFamily(
            "fluidgate_gate_predicted_peak_kv_share",
            "Largest share of a replica's KV cache that the forecast expects, with its margin.",
            labels=["gate", "replica"],
        )
        for gate, entrance in self._entrances.items():
            ledger, state = entrance.ledger, entrance.state()
            for outcome in ("served", "failed", "left", "refused"):
                requests.add_metric([gate, outcome], getattr(ledger, outcome))
            retried.add_metric([gate], entrance.retried)
            waiting.add_metric([gate], state.waiting)
            held = Counter(entrance.in_flight.values())
            for name in sorted({*entrance.replicas, *held}):
                in_flight.add_metric([gate, name], held[name])
            shares = {replica.name: replica.peak_share for replica in state.replicas}  # who came back is there twice
            for name in sorted(entrance.replicas):
                peak.add_metric([gate, name], shares[name])
        return [requests, retried, waiting, in_flight, peak]


@cache
def gate_metrics() -> GateMetrics:
    """Those of this process, on the page that `prometheus_client` serves: it allows each name once."""
    metrics = GateMetrics()
    REGISTRY.register(metrics)
    return metrics
