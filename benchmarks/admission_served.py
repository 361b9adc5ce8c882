"""What gate and middleware cost over HTTP: 10,000 refusals in overload, and requests below the boundary.

    make bench-admission-served     or, where vLLM is installed: python benchmarks/admission_served.py

Two `vllm serve` on this machine's CPU, with small Llamas of random weights; the client shares the cores with them.
Refusals are beside GET /version, the least that vLLM answers, of the same server under the same load; requests are
beside those of a stock server. The two of a pair take turns, and ratios compare the runs of one round.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
from admission import spread

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from e2e.plans import write_plan
from e2e.server import GATE, Server, served
from e2e.tiny_model import write_tiny_model
from fluidgate.hardware import StepTime

ROUNDS, REFUSALS, REQUESTS = 10, 1000, 200
"""Per round."""
SEATS, IN_LINE, LONG = 4, 20, 350
"""In overload so many requests run and so many more wait, at any time, of so many tokens."""
FLAGS = ["--max-num-seqs", str(SEATS), "--disable-uvicorn-access-log"]
ADMISSION = ["--middleware", "fluidgate.serving.admission.Admission"]
KEEP_S = 2.0
"""After which the client gives an idle connection up: before the server does, after 5 s."""
IMPATIENT = {"X-Request-Timeout": "0.001"}
STEP = StepTime(c0=0.004, c_tok=1e-4)

Ask = Callable[[], Awaitable[int]]


@contextmanager
def gated(model: Path, folder: Path) -> Iterator[Server]:
    """A server with gate and middleware, whose clients wait for a minute."""
    os.environ["FLUIDGATE_STATE_DIR"] = str(folder / "state")
    plan = write_plan(folder / "plan.json", "fluid:timeout_s=60", rate=5.0, step=STEP)
    with served(model, GATE, plan=plan, flags=[*FLAGS, *ADMISSION]) as server:
        yield server


async def timed(ask: Ask, count: int, status: int) -> list[float]:
    """Milliseconds of requests one after the other with that status; others, of which there may be a few, do not count.

    A request finds no queue, and passes, where the engine has been faster than the API server for a moment.
    """
    took_ms: list[float] = []
    for _ in range(2 * count):
        start_s = time.perf_counter()
        if await ask() == status:
            took_ms.append(1000 * (time.perf_counter() - start_s))
            if len(took_ms) == count:
                break
    assert len(took_ms) == count, f"{len(took_ms)} of {2 * count:,} requests ended with {status}"
    return took_ms


def asking(session: aiohttp.ClientSession, server: Server, tokens: int, headers: dict[str, str] | None = None) -> Ask:
    """A function that asks for a completion; its status."""
    body = {"model": server.model, "prompt": [5, 6, 7, 8], "max_tokens": tokens, "temperature": 0, "ignore_eos": True}

    async def ask() -> int:
        async with session.post(f"{server.url}/v1/completions", json=body, headers=headers) as answer:
            await answer.read()
            return answer.status

    return ask


async def refusals(server: Server) -> list[tuple[list[float], list[float]]]:
    """By round, the milliseconds of GET /version and of refusals, while the queue is never empty."""

    async def load(ask: Ask) -> None:
        while True:
            with suppress(aiohttp.ClientError):  # a connection that has just been closed
                await ask()

    async def version() -> int:
        async with session.get(f"{server.url}/version") as answer:
            await answer.read()
            return answer.status

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_S)) as session:
        loading = [asyncio.create_task(load(asking(session, server, LONG))) for _ in range(SEATS + IN_LINE)]
        refused = asking(session, server, LONG, IMPATIENT)
        while await refused() != 429:
            await asyncio.sleep(0.5)
        rounds = [(await timed(version, REFUSALS, 200), await timed(refused, REFUSALS, 429)) for _ in range(ROUNDS)]
        for task in loading:
            task.cancel()
        await asyncio.gather(*loading, return_exceptions=True)
    return rounds


async def requests(stock: Server, other: Server) -> list[tuple[list[float], list[float]]]:
    """By round, the milliseconds of requests at a stock server and at the other, one after the other."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(keepalive_timeout=KEEP_S)) as session:
        pair = [asking(session, server, 1) for server in (stock, other)]
        for ask in pair:
            await timed(ask, REQUESTS, 200)
        return [(await timed(pair[0], REQUESTS, 200), await timed(pair[1], REQUESTS, 200)) for _ in range(ROUNDS)]


def rows(names: tuple[str, str], rounds: list[tuple[list[float], list[float]]]) -> None:
    """Print the two of a pair."""
    for k, name in enumerate(names):
        means = [[sum(took) / len(took) for took in pair] for pair in rounds]
        tails = [[sorted(took)[len(took) * 99 // 100] for took in pair] for pair in rounds]
        cells: list[Any] = [spread([pair[k] for pair in means], 2), spread([pair[k] for pair in tails], 2)]
        if k:
            cells += [spread([own / other for other, own in kind], 2) for kind in (means, tails)]
        print(f"| {' | '.join([name, *cells, *[''] * (4 - len(cells))])} |", flush=True)


def main() -> None:
    print(f"Medians of {ROUNDS} rounds (min to max), of {REFUSALS:,} refusals and {REQUESTS:,} requests each")
    print("| request | mean, ms | p99, ms | mean ÷ the one above | p99 ÷ the one above |")
    print("|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with gated(write_tiny_model(folder / "heavier", layers=8, heads=8), folder) as server:
            rows(("GET /version in overload", "refused in overload"), asyncio.run(refusals(server)))
        tiny = write_tiny_model(folder / "tiny")
        with served(tiny, flags=FLAGS) as stock, gated(tiny, folder) as server:
            rows(("stock vLLM, one token", "gate and middleware, one token"), asyncio.run(requests(stock, server)))


if __name__ == "__main__":
    main()
