"""What the admission middleware costs: refusals, and requests that pass, beside the bare app behind it.

    make bench-admission  or: python benchmarks/admission.py

The app reads the request and answers a few bytes; all are called in one process, without a socket. The engine's state
is rewritten as the clock goes on, every 50 ms, with its usual list of shed requests. The three take turns, and ratios
compare the runs of one round.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from fluidgate.serving.admission import Admission
from fluidgate.serving.gate_state import RECENT_SHEDS, SECONDS_BETWEEN_READS, GateState, StateReader, StateWriter

REQUESTS, ROUNDS = 10_000, 7
HEADERS = [(b"content-type", b"application/json"), (b"x-fluidgate-class", b"chat"), (b"x-request-timeout", b"30")]
SHEDS = [{"request_id": f"chatcmpl-{i:032x}-0123abcd", "reason": "there is no time left"} for i in range(RECENT_SHEDS)]
BARE, PASSED, REFUSED = "the bare app", "let through", "refused"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer a request."""
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def one(called: Callable[..., Awaitable[None]]) -> tuple[float, int]:
    """Seconds and status of a request."""
    statuses = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        statuses.append(message.get("status"))

    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": list(HEADERS)}
    start = time.perf_counter()
    await called(scope, receive, send)
    return time.perf_counter() - start, int(statuses[0] or 0)


async def run(called: Callable[..., Awaitable[None]], status: int, write: Callable[[], None]) -> list[float]:
    """Seconds of each of many requests, which all get that status."""
    seconds, next_s = [], 0.0
    for _ in range(REQUESTS):
        if time.monotonic() >= next_s:
            write()
            next_s = time.monotonic() + SECONDS_BETWEEN_READS
        took_s, got = await one(called)
        assert got == status, got
        seconds.append(took_s)
    return seconds


def state(waiting: int) -> GateState:
    """Of an engine that starts four requests a second, and sheds those that wait longer than 20 s."""
    return GateState("fluid", os.getpid(), time.time(), 16, waiting, 4.0, 5.0, 9.0, {"chat": 20.0}, 900, SHEDS)


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        writer = StateWriter(0, Path(folder, "state"), "bench")
        admission = Admission(app, reader=StateReader(Path(folder, "state"), "bench"), limits={})
        cases = {BARE: (app, 200, 0), PASSED: (admission, 200, 0), REFUSED: (admission, 429, 1000)}
        rounds = []
        for _ in range(ROUNDS):
            runs = {}
            for name, (called, status, waiting) in cases.items():
                time.sleep(2 * SECONDS_BETWEEN_READS)
                runs[name] = asyncio.run(run(called, status, lambda waiting=waiting: writer.write(state(waiting))))
            rounds.append(runs)
    table = Table(title=f"A request, median of {ROUNDS} rounds of {REQUESTS:,} (min to max)")
    table.add_column("request")
    for column in ("mean µs", "p99 µs", "mean ÷ the bare app"):
        table.add_column(column, justify="right")
    for name in cases:
        means = [1e6 * sum(runs[name]) / REQUESTS for runs in rounds]
        tails = [1e6 * sorted(runs[name])[REQUESTS * 99 // 100] for runs in rounds]
        ratios = [sum(runs[name]) / sum(runs[BARE]) for runs in rounds]
        table.add_row(name, spread(means, 0), spread(tails, 0), spread(ratios, 1))
    Console(width=100).print(table)


def spread(values: list[float], digits: int) -> str:
    """Median, least and most."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


if __name__ == "__main__":
    main()
