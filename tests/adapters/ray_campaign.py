"""Streamed requests through Ray Serve: in peace, and with kill -9 of a replica and of the process with the router."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx

HANGS_S = 600.0
"""What takes ten minutes hangs."""

APP = Path(__file__).with_name("ray_app.py")


@dataclass(frozen=True)
class App:
    """The application while it runs."""

    port: int
    metrics_port: int
    process: subprocess.Popen[bytes]

    def answers(self) -> bool:
        """Whether there are books to look at."""
        assert self.process.poll() is None, "the application has ended"
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/books", timeout=5.0).status_code == 200
        except httpx.HTTPError:
            return False

    def metrics(self) -> dict[str, float]:
        """What Ray publishes of the gate, summed over all labels but the outcome."""
        page = httpx.get(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=30.0).text
        sums: Counter[str] = Counter()
        for line in page.splitlines():
            if "fluidgate_gate_" in line and not line.startswith("#"):
                name = line.split("{")[0].split("_gate_")[1]
                outcome = line.split('outcome="')[1].split('"')[0] if 'outcome="' in line else name
                sums[outcome] += float(line.rsplit(" ", 1)[1])
        return dict(sums)


@contextmanager
def running(plan: Path, *model: str) -> Iterator[App]:
    """The application, on ports of its own, stopped for sure at the end."""
    port, metrics_port = free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder, Path(folder, "log").open("w") as log:
        command = [sys.executable, str(APP), str(plan), str(port), str(metrics_port), *model]
        environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
        environment["RAY_raylet_start_wait_time_s"] = "600"  # on a busy machine
        environment |= {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            app = App(port, metrics_port, process)
            wait_until(app.answers)
            yield app
        except BaseException:
            print(Path(folder, "log").read_text(errors="replace")[-4000:])
            raise
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60.0)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(true: Callable[[], bool]) -> None:
    end_s = time.monotonic() + HANGS_S
    while not true():
        assert time.monotonic() < end_s, "waited for ten minutes"
        time.sleep(0.2)


@dataclass(frozen=True)
class Answer:
    """What a client got: its status (0: the connection broke), and the process of each token."""

    status: int
    pids: tuple[int, ...]
    wanted: int

    @property
    def is_whole(self) -> bool:
        """Whether it got all its tokens."""
        return self.status == 200 and len(self.pids) == self.wanted


class Client:
    """Sends requests, and looks at the books."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.http = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{app.port}", timeout=HANGS_S, limits=httpx.Limits(max_connections=500)
        )
        self.random = random.Random(1)
        self.pids: set[int] = set()  # processes that have sent a token
        self.num_tokens = 0

    def send(self, count: int) -> list[asyncio.Task[Answer]]:
        """So many requests at once."""
        return [asyncio.create_task(self._one()) for _ in range(count)]

    async def _one(self) -> Answer:
        tokens = self.random.randint(80, 200)
        pids: list[int] = []
        status = 0
        try:
            body = {"prompt": [7] * self.random.randint(20, 100), "tokens": tokens}
            async with self.http.stream("POST", "/generate", json=body) as reply:
                status = reply.status_code
                async for line in reply.aiter_lines():
                    if status == 200:
                        pids.append(int(line))
                        self.pids.add(pids[-1])
                        self.num_tokens += 1
        except httpx.HTTPError:
            status = 0
        return Answer(status, tuple(pids), tokens)

    async def books(self) -> dict[str, Any]:
        """Of the process that has the router, which add up at every look."""
        books = (await self.http.get("/books")).raise_for_status().json()
        ledger = dict(books["ledger"])
        assert ledger.pop("came") == sum(ledger.values()) + books["in_flight"] + books["waiting"]
        return dict(books)

    async def until(self, true: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The books as soon as they are so."""
        async with asyncio.timeout(HANGS_S):
            while True:
                assert self.app.process.poll() is None, "the application has ended"
                with suppress(httpx.HTTPError):  # the process is being started again
                    books = await self.books()
                    if true(books):
                        return books
                await asyncio.sleep(0.05)


async def calm(app: App) -> None:
    """60 requests, all of which get their tokens, and are in the books and the metrics."""
    client = Client(app)
    await client.until(lambda books: len(books["replicas"]) == 2)
    answers = await asyncio.gather(*client.send(60))
    assert all(answer.is_whole for answer in answers), Counter(answer.status for answer in answers)
    assert len(client.pids) == 2
    books = await client.until(lambda books: books["in_flight"] == 0)
    assert books["ledger"] == {"came": 60, "served": 60, "failed": 0, "left": 0, "refused": 0}
    wait_until(lambda: {"served": 60, "waiting": 0, "in_flight": 0}.items() <= app.metrics().items())
    await client.http.aclose()


async def campaign(app: App, seats: int) -> None:
    """330 requests of which none is lost in the books, whatever is killed."""
    client = Client(app)
    await client.until(lambda books: len(books["replicas"]) == 2)

    requests = client.send(240)
    await client.until(lambda books: books["ledger"]["served"] > 20 and books["waiting"] > 0 and len(client.pids) == 2)
    victim = min(client.pids)
    os.kill(victim, signal.SIGKILL)
    answers = await asyncio.gather(*requests)
    whole = sum(answer.is_whole for answer in answers)
    assert all(set(answer.pids) <= {victim} for answer in answers if not answer.is_whole)
    assert 240 - seats <= whole < 240, Counter((answer.status, answer.is_whole) for answer in answers)
    books = await client.until(lambda books: books["in_flight"] == 0)
    expected = {"came": 240, "served": whole, "failed": 240 - whole, "left": 0, "refused": 0}
    assert books["ledger"] == expected, (books, expected)
    told = {"served": whole, "failed": 240 - whole, "waiting": 0, "in_flight": 0}
    wait_until(lambda: told.items() <= app.metrics().items())

    await client.until(lambda books: len(books["replicas"]) == 2)  # it was started again
    assert victim not in {answer.pids[0] for answer in await asyncio.gather(*client.send(20))}
    assert len(client.pids) == 3

    router = books["pid"]
    before, requests = client.num_tokens, client.send(60)
    async with asyncio.timeout(HANGS_S):
        while client.num_tokens == before:
            await asyncio.sleep(0.001)
    os.kill(router, signal.SIGKILL)
    broken = [answer for answer in await asyncio.gather(*requests) if not answer.is_whole]
    assert broken
    books = await client.until(lambda books: books["pid"] != router and len(books["replicas"]) == 2)
    assert all(answer.is_whole for answer in await asyncio.gather(*client.send(10)))
    books = await client.until(lambda books: books["in_flight"] == 0)
    assert books["ledger"]["served"] >= 10  # those that Ray Serve sent to it again, too
    assert books["ledger"]["failed"] == 0
    await client.http.aclose()
