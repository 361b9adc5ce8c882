"""Replicas that answer join, those that are gone leave, and what their pages say reaches the gate."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fluidgate.adapters import watch
from fluidgate.adapters.entrance import Entrance
from fluidgate.adapters.watch import Look, Watch, look_at
from fluidgate.fleet import FleetGate, Gauges, Replica
from fluidgate.vllm_metrics import Address

VLLM = Path(__file__).parents[1].joinpath("doctor", "data", "busy_later.txt").read_text(encoding="utf-8")
GAUGES = "num_requests_running|num_requests_waiting|kv_cache_usage_perc"
IDLE = re.sub(rf"(?m)^(vllm:(?:{GAUGES})\{{.*\}}) .*$", r"\1 0.0", VLLM)
SGLANG = """\
sglang:num_running_reqs{engine_type="unified",model_name="m"} 7.0
sglang:num_queue_reqs{engine_type="unified",model_name="m"} 2.0
sglang:token_usage{engine_type="unified",model_name="m"} 0.25
"""


@dataclass
class Server:
    """Answers these paths, and 404 to others."""

    pages: dict[str, str]
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def serving(pages: dict[str, str], port: int = 0) -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = pages.get(self.path)
            self.send_response(404 if page is None else 200)
            self.end_headers()
            self.wfile.write((page or "").encode())

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield Server(pages, server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def look(pages: dict[str, str]) -> Look | None:
    with serving(pages) as server:
        return look_at(Address.of(server.url), 5.0)


def test_gauges_of_vllm_and_the_size_of_its_cache() -> None:
    assert look({"/metrics": VLLM}) == Look(Gauges(25, 13, 1.0, 109, measured_s=5.0), 48)


def test_two_engines_behind_one_address_are_one_replica_of_both_sizes() -> None:
    lines = [line for line in VLLM.splitlines() if 'engine="0"' in line]
    second = "\n".join(lines).replace('engine="0"', 'engine="1"').replace("} 13.0", "} 3.0")
    both = f"{VLLM}{second}\n"
    both = both.replace('num_gpu_blocks="49"', 'num_gpu_blocks="98"')  # vLLM states the sum
    assert look({"/metrics": both}) == Look(Gauges(50, 16, 1.0, 218, measured_s=5.0), 96)


def test_gauges_of_sglang() -> None:
    told = look({"/metrics": SGLANG})
    assert told is not None
    assert told.total_blocks is None
    assert told.gauges is not None
    assert (told.gauges.waiting, told.gauges.running, told.gauges.kv_use) == (2, 7, 0.25)


def test_a_server_that_says_nothing_of_use_lives_if_it_is_healthy() -> None:
    assert look({"/health": ""}) == Look()
    assert look({"/metrics": "other_metric 1\n", "/health": ""}) == Look()
    assert look({}) is None


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60.0):
        while not true():
            await asyncio.sleep(0.01)


def watched(blocks: int = 48) -> tuple[Entrance, Watch]:
    entrance = Entrance(FleetGate())
    return entrance, Watch(entrance, lambda name, told: Replica(name, told or blocks, 32, 8), period_s=0.02)


def test_replicas_join_leave_and_come_again() -> None:
    async def run() -> None:
        entrance, watch = watched()
        with serving({"/metrics": IDLE}) as server:
            port = server.port
            watch.set_servers({"a": server.url})
            await until(lambda: "a" in entrance.replicas)
            assert await asyncio.wait_for(entrance.enter("1", 64), 60.0) == "a"
            await until(lambda: entrance.state().replicas[0].gauge_age_s < 60.0)
            entrance.suspend("a")
            await until(lambda: entrance.state().replicas[0].takes)  # it answers
        await until(lambda: "a" not in entrance.replicas)
        assert (entrance.ledger.failed, entrance.in_flight) == (1, {})
        waiting = asyncio.ensure_future(entrance.enter("2", 64))
        with serving({"/metrics": IDLE}, port):
            assert await asyncio.wait_for(waiting, 60.0) == "a"
            watch.set_servers({})
            assert list(entrance.replicas) == []

    asyncio.run(run())


def test_a_size_that_is_not_the_planned_one_is_said_and_used(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        entrance, watch = watched(blocks=1000)
        with serving({"/metrics": IDLE}) as server:
            watch.set_servers({"a": server.url})
            await until(lambda: "a" in entrance.replicas)
            watch.set_servers({})
        assert entrance._gate.books.fleet.table[0].capacity == 48 * 32

    asyncio.run(run())
    assert "a has 48 KV blocks and the plan says 1000" in caplog.text


def test_a_busy_replica_stays_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its port is open, and no answer comes in time."""
    monkeypatch.setattr(watch, "ANSWER_S", 0.05)
    silent: list[int] = []
    missed = Watch._missed

    def noted(self: Watch, name: str, address: Address, count: int, *, listens: bool) -> None:
        silent.append(count)
        assert listens
        missed(self, name, address, count, listens=listens)
        assert ("a" in self._entrance.replicas) == (count < watch.MOST_SILENT)

    monkeypatch.setattr(Watch, "_missed", noted)

    async def run() -> None:
        entrance, eye = watched()
        with serving({"/metrics": IDLE}) as server:
            eye.set_servers({"a": server.url})
            await until(lambda: "a" in entrance.replicas)
            server.pages.clear()
            await until(lambda: "a" not in entrance.replicas)
            eye.set_servers({})

    asyncio.run(run())
    assert silent == [1, 2, 3, 4, 5]
