"""A stand-in for LiteLLM's proxy, which calls the adapter's hooks in the order in which the real one does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from fluidgate.adapters.litellm import FluidGate


def needs_litellm() -> Any:
    """LiteLLM's httpx; skips the module where LiteLLM's proxy is not installed."""
    why = "LiteLLM's proxy is not installed here; `make test-vllm` runs these in an environment of their own"
    pytest.importorskip("litellm.proxy._types", reason=why)
    return pytest.importorskip("httpx", reason=why)


USAGE = {"prompt_tokens": 64, "completion_tokens": 3}


def deployment(server: str, model: str = "tiny") -> dict[str, Any]:
    return {
        "model_name": model,
        "litellm_params": {"api_base": f"http://{server}:8000/v1"},
        "model_info": {"id": server},
    }


A, B = deployment("a"), deployment("b")


class Proxy:
    """A stand-in for LiteLLM's proxy: it calls the hooks in the order in which the real one does."""

    def __init__(self, gate: FluidGate, state: SimpleNamespace) -> None:
        self.gate, self.state = gate, state

    async def ask(self, call: Callable[[Proxy], Coroutine[Any, Any, Any]], **data: Any) -> Any:
        """One request in a task of its own; `call` does what comes between its first hook and its last."""

        async def request() -> Any:
            body = {"model": "tiny", "messages": [{"role": "user", "content": "word " * 64}], **data}
            await self.gate.async_pre_call_hook(None, None, body, data.get("call_type", "acompletion"))
            try:
                return await asyncio.create_task(call(self))
            except Exception as error:
                await self.gate.async_post_call_failure_hook(body, error, None)
                raise

        return await asyncio.create_task(request())

    async def route(self, *among: dict[str, Any]) -> str:
        (left,) = await self.gate.async_filter_deployments("tiny", list(among or (A, B)), None, {})
        return str(left["model_info"]["id"])

    async def stream(self, chunks: AsyncIterator[Any]) -> list[Any]:
        return [chunk async for chunk in self.gate.async_post_call_streaming_iterator_hook(None, chunks, {})]


class Watched:
    """In place of the watch: servers answer at once."""

    def __init__(self, gate: FluidGate) -> None:
        self.gate, self.servers = gate, {}

    def set_servers(self, servers: dict[str, str]) -> None:
        for name in self.servers.keys() - servers.keys():
            self.gate.entrance.lose(name)
        for name in sorted(servers.keys() - self.servers.keys()):
            self.gate.entrance.add(self.gate._planned.replica(name))
        self.servers = servers


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def books(gate: FluidGate) -> dict[str, int]:
    """What is not 0 in the books, once they add up."""
    ledger, waiting = gate.entrance.ledger, gate.entrance.state().waiting
    assert ledger.came == waiting + len(gate.entrance.in_flight) + sum(
        getattr(ledger, outcome) for outcome in ("served", "failed", "left", "refused")
    )
    counts = vars(ledger) | {
        "retried": gate.entrance.retried,
        "waiting": waiting,
        "in_flight": len(gate.entrance.in_flight),
    }
    return {name: count for name, count in counts.items() if count and name != "came"}


async def chunks(count: int, error: Exception | None = None, hold: asyncio.Event | None = None) -> AsyncIterator[Any]:
    for k in range(count):
        if hold is not None and k == 1:
            await hold.wait()
        yield {"choices": [{"delta": {"content": "word"}}]}
    if error is not None:
        raise error
    yield {"choices": [], "usage": USAGE}


async def held(proxy: Proxy, *among: dict[str, Any]) -> tuple[asyncio.Event, asyncio.Task[Any]]:
    """A request that streams until the event is set."""
    end = asyncio.Event()

    async def call(proxy: Proxy) -> list[Any]:
        await proxy.route(*among)
        return await proxy.stream(chunks(3, hold=end))

    task = asyncio.ensure_future(proxy.ask(call))
    await settled()
    return end, task


def broken(kind: type[Exception]) -> Exception:
    """As LiteLLM hands it on: its own error, from the one of the connection."""
    error = RuntimeError("InternalServerError")
    error.__cause__ = ValueError("in between")
    error.__cause__.__context__ = kind("broken")
    return error
