"""The parts of ASGI that the middleware uses, and its own answers."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http import HTTPStatus
from typing import Any

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

STATE_PATH = "/fluidgate/state"


def route(scope: Scope) -> str:
    """The path below the root path, as Starlette matches it, whether a proxy has taken the root path off or not."""
    path, root = str(scope.get("path", "")), str(scope.get("root_path") or "")
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def encoded(headers: Iterable[tuple[str, str]]) -> Headers:
    """Headers as ASGI sends them."""
    return [(name.lower().encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers]


async def answer(send: Send, status: HTTPStatus, content: Any, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """Send a whole answer in JSON."""
    body = json.dumps(content).encode()
    standard = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": int(status), "headers": [*standard, *headers]})
    await send({"type": "http.response.body", "body": body})
