"""What Prometheus reads of a gate is what its books say."""

from __future__ import annotations

import asyncio

from prometheus_client import CollectorRegistry, generate_latest

from fluidgate.adapters.entrance import Entrance
from fluidgate.adapters.metrics import GateMetrics, gate_metrics
from fluidgate.fleet import FleetGate, Replica


def test_the_page_shows_the_books_of_each_gate() -> None:
    async def run() -> str:
        entrance = Entrance(FleetGate(), lambda: 0.0)
        entrance.add(Replica("a", 400, 16, 4))
        entrance.lose("a")
        entrance.add(Replica("a", 400, 16, 4))  # it is shown once all the same
        entrance.add(Replica("gone", 400, 16, 4))
        entrance.lose("gone")
        for name in ("1", "2", "3", "4"):
            await entrance.enter(name, 64)
        waits = asyncio.ensure_future(entrance.enter("5", 64))
        await asyncio.sleep(0)
        entrance.fail("1")  # which lets "5" in
        entrance.retried = 1
        entrance.end("2", 9)
        entrance.leave("3")
        assert await waits == "a"
        waiting = [asyncio.ensure_future(entrance.enter(name, 64)) for name in ("6", "7", "8")]
        await asyncio.sleep(0)
        metrics, registry = GateMetrics(), CollectorRegistry()
        metrics.add("tiny", entrance)
        metrics.add("other", Entrance(FleetGate(), lambda: 0.0))
        registry.register(metrics)
        page = generate_latest(registry).decode()
        for task in waiting:
            task.cancel()
        return page

    lines = asyncio.run(run()).splitlines()
    for outcome, count in {"served": 1, "failed": 1, "left": 1, "refused": 0}.items():
        assert f'fluidgate_gate_requests_total{{gate="tiny",outcome="{outcome}"}} {count:.1f}' in lines
    assert 'fluidgate_gate_retried_total{gate="tiny"} 1.0' in lines
    assert 'fluidgate_gate_waiting{gate="tiny"} 1.0' in lines
    assert 'fluidgate_gate_in_flight{gate="tiny",replica="a"} 4.0' in lines
    assert not any('replica="gone"' in line for line in lines)
    (peak,) = (line for line in lines if line.startswith("fluidgate_gate_predicted_peak_kv_share{"))
    assert 0.0 < float(peak.rsplit(" ", 1)[1]) <= 1.0
    assert 'fluidgate_gate_requests_total{gate="other",outcome="served"} 0.0' in lines


def test_there_is_one_collector_a_process() -> None:
    assert gate_metrics() is gate_metrics()
