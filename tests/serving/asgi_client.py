"""A client that calls an ASGI app directly, a clock that the test moves, and what stands in for the engine and vLLM."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fluidgate.serving.admission import Admission
from fluidgate.serving.gate_state import GateState, StateReader, StateWriter

COMPLETIONS = "/v1/completions"
START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
CHUNKS = [b"data: one\n\n", b"data: two\n\n"]


@dataclass
class Clock:
    """Seconds that pass when the test says so."""

    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Reply:
    """What came back."""

    messages: list[Any] = field(default_factory=list)

    @property
    def status(self) -> int:
        """Of the answer's start."""
        return int(self.messages[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        """By name in lower case; each at most once."""
        pairs = [(name.decode(), value.decode("latin-1")) for name, value in self.messages[0]["headers"]]
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    @property
    def body(self) -> bytes:
        """All of it."""
        return b"".join(message.get("body", b"") for message in self.messages[1:])


async def settled() -> None:
    """Every task has had its turns; no time is waited for, which on a busy machine may be one turn or a thousand."""
    for _ in range(100):
        await asyncio.sleep(0)


async def until(true: Callable[[], bool]) -> None:
    """Wait for what takes time, as the middleware's own watch; after a minute it is a fault, not a slow machine."""
    async with asyncio.timeout(60.0):
        while not true():
            await asyncio.sleep(0.01)


def scope_of(
    path: str = COMPLETIONS, headers: Any = (), *, method: str = "POST", root_path: str = "", query: bytes = b""
) -> dict[str, Any]:
    """A request, as uvicorn announces it."""
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    given = [(name.lower().encode(), value if isinstance(value, bytes) else value.encode()) for name, value in pairs]
    route = {"method": method, "path": path, "root_path": root_path, "query_string": query}
    return {"type": "http", **route, "headers": given}


async def ask(
    app: Any, path: str = COMPLETIONS, headers: Any = (), *, gone: asyncio.Event | None = None, **more: Any
) -> Reply:
    """Send a request and wait for the end of its answer; `gone`: when its client goes."""
    reply, requests = Reply(), [{"type": "http.request", "body": b"{}", "more_body": False}]

    async def receive() -> Any:
        if requests:
            return requests.pop()
        await (gone or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        reply.messages.append(message)

    await app(scope_of(path, headers, **more), receive, send)
    return reply


class Vllm:
    """An app that streams two chunks, or answers at once, when it is told to, unless the client goes before.

    Attributes:
        scopes: of the requests that reached it.
        num_disconnected: requests whose client went before the first chunk.
    """

    def __init__(self, *, is_streamed: bool = True, holds: bool = False) -> None:
        self.is_streamed, self.may_answer = is_streamed, asyncio.Event()
        self.scopes: list[Any] = []
        self.num_disconnected = 0
        if not holds:
            self.may_answer.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        assert (await receive())["type"] == "http.request"
        start = START if self.is_streamed else {**START, "headers": [(b"content-type", b"application/json")]}
        if self.is_streamed:
            await send(start)
        gone = asyncio.ensure_future(receive())
        ready = asyncio.ensure_future(self.may_answer.wait())
        try:
            await asyncio.wait({gone, ready}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            ready.cancel()
        if not self.may_answer.is_set():
            self.num_disconnected += 1
            return
        if not self.is_streamed:
            await send(start)
        for chunk in CHUNKS:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


@dataclass
class Door:
    """The middleware before an app, and the engine's side of the channel."""

    admission: Admission
    writer: StateWriter
    clock: Clock
    written_s: float = 5000.0

    def tell(self, **facts: Any) -> None:
        """Write a state of the engine's, and let the middleware see it at its next look."""
        self.written_s += 0.25
        self.writer.write(gate_state(**{"written_s": self.written_s, **facts}))
        self.clock.now_s += 0.06

    async def ask(self, headers: Any = (), path: str = COMPLETIONS, **more: Any) -> Reply:
        """Send a request through the middleware."""
        return await ask(self.admission, path, headers, **more)


def door_to(app: Any, folder: Path, **limits: int) -> Door:
    """A middleware with a clock and a channel of its own."""
    clock = Clock()
    reader = StateReader(folder / "state", "t")
    admission = Admission(app, reader=reader, limits=limits, clock=clock)
    return Door(admission, StateWriter(0, folder / "state", "t"), clock)


def gate_state(**facts: Any) -> GateState:
    """A state of an engine that is this process: full, 120 waiting, 4 started per second, none after 20 s."""
    usual = {
        "policy": "fluid",
        "pid": os.getpid(),
        "written_s": 5000.0,
        "running": 16,
        "waiting": 120,
        "starts_per_s": 4.0,
        "boundary_per_s": 5.0,
        "arrivals_per_s": 6.0,
        "latest_start_s": {"": 20.0},
    }
    return GateState(**{**usual, **facts})
