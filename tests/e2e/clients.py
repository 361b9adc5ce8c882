"""Clients that wait only so long: requests at given times, whatever becomes of the earlier ones, and how each ended."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import aiohttp

SERVED, GAVE_UP, LOST = 200, "gave up", "lost"
"""How a request ends, beside the statuses of errors: with its whole answer, by its client's timeout, and otherwise."""


@dataclass(frozen=True)
class Wish:
    """A request, when it comes, in seconds from the start, and how long its client waits."""

    at_s: float
    body: Mapping[str, Any]
    timeout_s: float
    headers: Mapping[str, str] = field(default_factory=dict)
    path: str = "/v1/completions"


@dataclass(frozen=True)
class Ending:
    """How a try ended: SERVED, GAVE_UP, LOST or the status of an error; `headers` by name in lower case."""

    how: int | str
    after_s: float
    text: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    def tokens(self) -> list[int]:
        """Of a completion that is not streamed."""
        return [token for choice in json.loads(self.text)["choices"] for token in choice["token_ids"]]


def ask_all(url: str, wishes: Sequence[Wish], *, tries: int = 1) -> list[list[Ending]]:
    """The endings of every try of every request; who is told when to come again does so, `tries` times in all."""
    return asyncio.run(_ask_all(url, wishes, tries))


async def _ask_all(url: str, wishes: Sequence[Wish], tries: int) -> list[list[Ending]]:
    import aiohttp  # vLLM brings it

    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2.0)  # the server's is 5 s: none closes under a request
    async with aiohttp.ClientSession(url, connector=connector) as session:
        start_s = time.perf_counter()
        return await asyncio.gather(*(_ask(session, wish, start_s, tries) for wish in wishes))


async def _ask(session: aiohttp.ClientSession, wish: Wish, start_s: float, tries: int) -> list[Ending]:
    await asyncio.sleep(start_s + wish.at_s - time.perf_counter())
    endings = [await _try(session, wish, {})]
    while "retry-after" in endings[-1].headers and len(endings) < tries:
        told = endings[-1].headers
        await asyncio.sleep(int(told["retry-after"]))
        endings.append(await _try(session, wish, {"X-Request-Id": told["x-request-id"]}))
    return endings


async def _try(session: aiohttp.ClientSession, wish: Wish, more: Mapping[str, str]) -> Ending:
    import aiohttp

    came_s, headers = time.perf_counter(), {**wish.headers, **more}
    try:
        async with asyncio.timeout(wish.timeout_s), session.post(wish.path, json=wish.body, headers=headers) as answer:
            text = await answer.text()
    except TimeoutError:
        return Ending(GAVE_UP, time.perf_counter() - came_s)
    except aiohttp.ClientError as problem:
        return Ending(LOST, time.perf_counter() - came_s, repr(problem))
    given = {name.lower(): value for name, value in answer.headers.items()}
    return Ending(answer.status, time.perf_counter() - came_s, text, given)
