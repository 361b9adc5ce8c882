"""One request and its answer: the answer's start is held back until its first token, so that it can still be a 503."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from fluidgate.serving.admission.asgi import Headers, Message, Receive, Send, answer
from fluidgate.serving.admission.endpoints import Endpoint
from fluidgate.serving.admission.headers import Asked


class Exchange:
    """A request that was let through.

    Args:
        headers: what the answer says besides.
        now_s: when it came, by a clock that never jumps.

    Attributes:
        endpoint: where it was sent.
        asked: what its headers say.
        is_streamed: whether vLLM answers token by token; False until it has begun to.
        is_answered: whether the first byte has been sent.
        is_expired: whether it was ended here: with 503, or within its stream.
    """

    def __init__(
        self, receive: Receive, send: Send, endpoint: Endpoint, asked: Asked, headers: Headers, now_s: float
    ) -> None:
        self._receive, self._send, self._headers = receive, send, headers
        self.endpoint, self.asked = endpoint, asked
        self.came_s = now_s
        self.first_byte_due_s = None if asked.ttft_s is None else now_s + asked.ttft_s
        self.due_s = None if asked.total_s is None else now_s + asked.total_s
        self.is_streamed = self.is_answered = self.is_expired = False
        self._held: list[Message] = []
        self._num_events = 0
        self._receiving: asyncio.Future[Message] | None = None
        self._expiry: asyncio.Future[None] | None = None
        self._gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def receive(self) -> Message:
        """What the client sends; that it has gone, once the request has expired."""
        # not cancelled with this call: what it receives belongs to the next one
        receiving = self._receiving = self._receiving or asyncio.ensure_future(self._receive())
        either: set[asyncio.Future[Any]] = {receiving, self._gone}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if self._gone.done():
            return {"type": "http.disconnect"}
        if self._receiving is receiving:
            self._receiving = None
        return receiving.result()

    def holds_back(self, message: Message) -> bool:
        """Whether a message is not sent on now: all after an expiry, and what comes before the first token."""
        if self.is_expired:
            return True
        if self.is_answered:
            return False
        if message["type"] == "http.response.start":
            given = list(message.get("headers", ()))
            kinds = [value for name, value in given if name.lower() == b"content-type"]
            self.is_streamed = any(kind.startswith(b"text/event-stream") for kind in kinds)
            message = {**message, "headers": [*given, *self._headers]}
        elif not self._is_preamble(message):
            return False
        self._held.append(message)
        return True

    def _is_preamble(self, message: Message) -> bool:
        """Whether it says nothing yet. One that goes on in the background is known by it, and its client may leave."""
        body = message.get("body", b"")
        is_event = self.is_streamed and body.startswith(self.endpoint.preamble)
        return is_event and bool(message.get("more_body")) and not _response_of(body).get("background")

    def name_in(self, message: Message) -> str | None:
        """What the request is called in the engine, if this part of an answer says it."""
        name = _response_of(message.get("body", b"")).get("id")
        return name if isinstance(name, str) else None

    def may_end(self, message: Message) -> bool:
        """Whether a part of a stream that has begun may be the end that vLLM gives to what the engine has shed."""
        if not self.is_streamed:
            return False
        body = message.get("body", b"")
        return any(end in body for end in self.endpoint.ends)

    async def send(self, message: Message) -> None:
        """Send a message on, and before it what was held back."""
        self.is_answered = True
        held, self._held = self._held, []
        for one in (*held, message):
            if self.is_streamed:
                self._num_events += one.get("body", b"").count(b"\n\n")
            await self._send(one)

    def expire(self, reason: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Answer 503, and tell vLLM that the client has gone. Does nothing once there is a first byte."""
        if self.is_answered or self.is_expired:
            return
        status = HTTPStatus.SERVICE_UNAVAILABLE
        content = self.endpoint.error(status, f"Expired in the queue: {reason}")
        self._end(answer(self._send, status, content, [*self._headers, *headers]))

    def cut(self, reason: str) -> None:
        """End a stream that has begun with its endpoint's error, where vLLM's own end would look like success."""
        if self.is_expired or not self.is_streamed or self.endpoint.last_words is None:
            return
        body = self.endpoint.last_words(f"Given up by the engine: {reason}", self._num_events)
        self._end(self._send({"type": "http.response.body", "body": body, "more_body": False}))

    def _end(self, last: Any) -> None:
        self.is_expired = True
        self._held = []
        self._expiry = asyncio.ensure_future(last)
        self._gone.set_result(None)

    async def flush(self) -> None:
        """vLLM has ended its answer: send what was held back."""
        held, self._held = self._held, []
        for one in held:
            await self._send(one)

    async def close(self) -> None:
        """vLLM is done with it, well or badly: leave nothing behind."""
        for pending in (self._receiving, self._gone):
            if pending is not None and not pending.done():
                pending.cancel()
        if self._expiry is not None:
            await self._expiry


def _response_of(body: bytes) -> dict[str, Any]:
    """The response in an answer of /v1/responses, or in the event that begins its stream; empty: there is none."""
    with suppress(ValueError, RecursionError):  # it may have in it what the request had
        content = json.loads(body[body.index(b"data: ") + 6 :] if body.startswith(b"event: ") else body)
        response = content.get("response", content) if isinstance(content, dict) else {}
        return response if isinstance(response, dict) else {}
    return {}
