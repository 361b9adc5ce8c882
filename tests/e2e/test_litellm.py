"""LiteLLM's real proxy with the gate before two real servers, one of which is killed, and the proxy after it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fluidgate import StepTime

from .litellm_proxy import Books, Proxy, Told, ask, look, looks, proxied
from .plans import write_plan
from .server import SEATS, Server, free_port, served

TEMPLATE = ["--chat-template", "{% for m in messages %}{{ m.content }}{% endfor %}"]
PROMPT = " ".join(f"w{k}" for k in range(10, 60))
CHAT = [{"role": "user", "content": PROMPT}]
PATHS: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": PROMPT, "max_tokens": 20},
    "/v1/chat/completions": {"messages": CHAT, "max_tokens": 20},
    "/v1/responses": {"input": PROMPT, "max_output_tokens": 20},
    "/v1/messages": {"messages": CHAT, "max_tokens": 20},
}


@dataclass
class Fleet:
    """Two servers, by name, with what starts a server again where it was."""

    servers: list[Server]
    model: Path
    stack: ExitStack

    def start(self, port: int) -> Server:
        return self.stack.enter_context(served(self.model, flags=TEMPLATE, port=port))


@pytest.fixture(scope="module")
def python() -> str:
    """The Python of the proxy's environment."""
    if "LITELLM_PYTHON" not in os.environ:
        pytest.skip(
            "LITELLM_PYTHON does not name the Python of an environment with LiteLLM's proxy; `make test-vllm` does"
        )
    return os.environ["LITELLM_PYTHON"]


@pytest.fixture(scope="module")
def fleet(python: str, model: Path) -> Iterator[Fleet]:
    """Two stock servers with small caches."""
    with ExitStack() as stack:
        fleet = Fleet([], model, stack)
        with ThreadPoolExecutor(2) as starts:
            fleet.servers += starts.map(fleet.start, [free_port(), free_port()])
        yield fleet


def name_of(server: Server) -> str:
    return f"127.0.0.1:{server.port}"


def stream(tokens: int = 60, **headers: str) -> Told:
    more = {"max_tokens": tokens, "stream": True, "ignore_eos": True, "temperature": 0}
    return Told({"model": "tiny", "messages": CHAT, **more}, "/v1/chat/completions", headers)


@asynccontextmanager
async def clients(proxy: Proxy) -> AsyncIterator[Any]:
    import httpx

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=proxy.url, timeout=600.0, limits=limits) as client:
        yield client


async def until_ended(client: Any, told: Iterable[asyncio.Task[Told]]) -> list[Told]:
    """All answers; meanwhile the books add up at every look, and at the end nothing is open."""
    tasks = list(told)
    async for books in looks(client):
        if all(task.done() for task in tasks) and not books.open:
            break
    return [task.result() for task in tasks]


async def seen(client: Any, wanted: Any) -> Books:
    """The first look at which something is so."""
    async for books in looks(client):
        if wanted(books):
            return books
    raise AssertionError


def test_no_request_is_lost_whatever_dies(python: str, fleet: Fleet, tmp_path: Path) -> None:
    plan = write_plan(tmp_path / "plan.json", "fluid", rate=20.0, step=StepTime(c0=0.003, c_tok=5e-5))
    port = free_port()
    with proxied(python, tmp_path, fleet.servers, plan, port) as proxy:
        asyncio.run(_replica_dies(proxy, fleet))
        asyncio.run(_every_path(proxy, fleet))
        asyncio.run(_clients_go_and_are_refused(proxy))
        asyncio.run(_proxy_dies(proxy))
    with proxied(python, tmp_path, fleet.servers, plan, port) as proxy:
        asyncio.run(_all_are_served(proxy, fleet))


async def _replica_dies(proxy: Proxy, fleet: Fleet) -> None:
    victim = fleet.servers[0]
    async with clients(proxy) as client:
        tasks = [asyncio.ensure_future(ask(client, stream())) for _ in range(100)]
        at_the_kill = await seen(
            client, lambda b: b.outcomes["served"] >= 30 and b.in_flight.get(name_of(victim), 0) > 2
        )
        assert at_the_kill.waiting > 0
        victim.kill()
        told = await until_ended(client, tasks)
        books = await look(client)
        broken = [one for one in told if not one.served]
        assert books.outcomes == {
            "served": 100 - len(broken),
            "failed": len(broken) + books.retried,
            "left": 0,
            "refused": 0,
        }
        assert 0 < len(broken) + books.retried <= SEATS
        assert {one.answer["x-litellm-model-api-base"] for one in broken} <= {f"{victim.url}/v1"}
        assert name_of(victim) not in books.in_flight
        again = asyncio.create_task(asyncio.to_thread(fleet.start, victim.port))
        fleet.servers[0] = await again
        await seen(client, lambda b: name_of(victim) in b.in_flight)
        told = await until_ended(client, [asyncio.ensure_future(ask(client, stream())) for _ in range(80)])
        assert all(one.served for one in told)
        assert fleet.servers[0].metrics()["vllm:request_success_total"] > 10  # it gets its part again
        assert (await look(client)).outcomes["served"] == books.outcomes["served"] + 80


async def _every_path(proxy: Proxy, fleet: Fleet) -> None:
    async with clients(proxy) as client:
        before = (await look(client)).outcomes
        wishes = [
            Told({"model": "tiny", "ignore_eos": True, "temperature": 0, **body, "stream": streamed}, path)
            for path, body in PATHS.items()
            for streamed in (False, True)
        ]
        told = await until_ended(client, [asyncio.ensure_future(ask(client, one)) for one in wishes])
        assert [(one.path, one.body["stream"], one.text) for one in told if not one.served] == []
        assert (await look(client)).outcomes == {**before, "served": before["served"] + len(wishes)}


async def _clients_go_and_are_refused(proxy: Proxy) -> None:
    async with clients(proxy) as client:
        before = (await look(client)).outcomes
        assert (await ask(client, stream(400), most_characters=400)).status == 200
        await seen(client, lambda b: b.outcomes["left"] == before["left"] + 1)
        came = (await look(client)).came
        busy = [asyncio.ensure_future(ask(client, stream())) for _ in range(120)]
        await seen(client, lambda b: b.came == came + 120)
        waits = asyncio.ensure_future(ask(client, stream()))
        await seen(client, lambda b: b.came == came + 121)
        waits.cancel()
        at_once = await ask(client, stream(**{"X-Request-Timeout": "0.01"}))
        assert at_once.status == 429, at_once
        assert int(at_once.answer["retry-after"]) >= 1
        assert '"type":"rate_limit_error"' in at_once.text
        await seen(client, lambda b: b.outcomes["left"] == before["left"] + 2)
        told = await until_ended(client, busy)
        assert all(one.served for one in told)
        after = (await look(client)).outcomes
        assert (after["refused"], after["left"]) == (before["refused"] + 1, before["left"] + 2)


async def _proxy_dies(proxy: Proxy) -> None:
    async with clients(proxy) as client:
        before = (await look(client)).outcomes["served"]
        told = [stream() for _ in range(60)]
        tasks = [asyncio.ensure_future(ask(client, one)) for one in told]
        await seen(client, lambda b: b.outcomes["served"] >= before + 10)
        proxy.kill()
        await asyncio.gather(*tasks)
        assert sum(one.served for one in told) >= 10
        assert all(one.served or one.lost for one in told)


async def _all_are_served(proxy: Proxy, fleet: Fleet) -> None:
    async with clients(proxy) as client:
        told = await until_ended(client, [asyncio.ensure_future(ask(client, stream())) for _ in range(60)])
        assert all(one.served for one in told)
        books = await look(client)
        assert books.outcomes == {"served": 60, "failed": 0, "left": 0, "refused": 0}
        assert set(books.in_flight) == {name_of(one) for one in fleet.servers}
