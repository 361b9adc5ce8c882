"""Requests whose time is over, or which the engine has shed, end in a 503 and are aborted; others are left alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fluidgate.serving.admission.endpoints import ENDPOINTS
from fluidgate.serving.admission.headers import TOTAL, TTFT
from fluidgate.serving.admission.waiting import forms_of

from .asgi_client import CHUNKS, START, Door, Reply, Vllm, ask, door_to, scope_of, settled, until


def shed(request_id: str) -> dict[str, Any]:
    """A state that tells of it."""
    return {
        "waiting": 8,
        "recent_sheds": [{"request_id": request_id, "reason": "20 s of work are left, and 5 s of time"}],
    }


def errors_of(path: str, status: int, message: str) -> dict[str, Any]:
    """As the API that the path belongs to shapes them."""
    if path == "/v1/messages":
        return {"type": "error", "error": {"type": "overloaded_error", "message": message}}
    if path == "/cohere/v2/chat":
        return {"message": message}
    kind = {503: "ServiceUnavailableError"}[status]
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


async def begun(door: Door, headers: Any = (), **more: Any) -> asyncio.Task[Reply]:
    """A request that has reached vLLM."""
    asked = asyncio.create_task(door.ask(headers, **more))
    await settled()
    return asked


async def looked(door: Door, after_s: float = 0.06) -> None:
    """The middleware looks, after so much time."""
    door.clock.now_s += after_s
    door.admission.look()
    await settled()


@pytest.mark.parametrize(
    ("header", "is_streamed", "expires"),
    [(TTFT, True, True), (TTFT, False, False), (TOTAL, True, True), (TOTAL, False, True)],
)
def test_a_request_whose_time_is_over_is_aborted(tmp_path: Path, header: str, is_streamed: bool, expires: bool) -> None:
    app = Vllm(is_streamed=is_streamed, holds=True)
    door = door_to(app, tmp_path)
    door.tell(waiting=0)

    async def run() -> Reply:
        asked = await begun(door, {header: "2.5"})
        await looked(door, 2.4)
        assert app.num_disconnected == 0
        await looked(door, 0.2)
        assert app.num_disconnected == expires
        app.may_answer.set()
        return await asked

    reply = asyncio.run(run())
    assert reply.status == (503 if expires else 200)
    if expires:
        assert len(reply.messages) == 2
        message = json.loads(reply.body)["error"]["message"]
        assert message == f"Expired in the queue: no token came within the 2.5 s of {header}."


@pytest.mark.parametrize("expires", [True, False])
def test_a_streaming_response_of_starlettes(tmp_path: Path, expires: bool) -> None:
    pytest.importorskip("starlette", reason="needs Starlette: pip install 'fluidgate[explore]'")
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    first, ended = asyncio.Event(), asyncio.Event()

    async def tokens() -> AsyncIterator[bytes]:
        try:
            await first.wait()
            for chunk in CHUNKS:
                yield chunk
        finally:
            ended.set()

    async def complete(request: Request) -> StreamingResponse:
        assert await request.json() == {}
        return StreamingResponse(tokens(), media_type="text/event-stream")

    app = Starlette(routes=[Route("/v1/completions", complete, methods=["POST"])])
    door = door_to(app, tmp_path)
    door.tell(waiting=0)

    async def run() -> tuple[Reply, Reply | None]:
        asked = await begun(door, {TTFT: "1"})
        await looked(door, 2.0 if expires else 0.5)
        assert ended.is_set() == expires
        first.set()
        return await asked, None if expires else await ask(app)

    reply, bare = asyncio.run(run())
    assert reply.status == (503 if expires else 200)
    if bare is not None:
        ours = {"x-fluidgate-position": "0", "x-fluidgate-expected-wait": "0.000"}
        assert (reply.messages[1:], reply.headers) == (bare.messages[1:], bare.headers | ours)


def test_a_stream_that_begins_only_after_its_time_has_expired(tmp_path: Path) -> None:
    told = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "http.request"
        await told.wait()
        await send(START)
        assert (await receive())["type"] == "http.disconnect"

    door = door_to(app, tmp_path)

    async def run() -> Reply:
        asked = await begun(door, {TTFT: "1"})
        await looked(door, 2.0)
        told.set()
        return await asked

    assert asyncio.run(run()).status == 503


def test_nothing_expires_after_the_first_token(tmp_path: Path) -> None:
    second = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send({"type": "http.response.body", "body": CHUNKS[0], "more_body": True})
        await second.wait()
        await send({"type": "http.response.body", "body": CHUNKS[1], "more_body": False})

    door = door_to(app, tmp_path)
    door.tell(waiting=0)

    async def run() -> Reply:
        asked = await begun(door, {TTFT: "1", TOTAL: "2", "X-Request-Id": "a"})
        door.tell(**shed("cmpl-a-0-0123abcd"))
        await looked(door, 5.0)
        second.set()
        return await asked

    reply = asyncio.run(run())
    assert (reply.status, reply.body) == (200, b"".join(CHUNKS))


@pytest.mark.parametrize(
    ("path", "engine_id"),
    [
        ("/v1/completions", "cmpl-a-1-0-0123abcd"),
        ("/v1/completions", "1_cmpl-a-1-0-0123abcd"),
        ("/v1/chat/completions", "chatcmpl-a-1-0123abcd"),
        ("/v1/chat/completions", "3_chatcmpl-a-1-0123abcd"),
        ("/v1/chat/completions/batch", "chatcmpl-a-1_2-0123abcd"),
        ("/v1/messages", "chatcmpl-a-1-0123abcd"),
        ("/inference/v1/generate", "generate-tokens-a-1-0123abcd"),
        ("/cohere/v2/chat", "chatcmpl-a-1-0123abcd"),
        ("/invocations", "chatcmpl-a-1-0123abcd"),
        ("/invocations", "cmpl-a-1-0-0123abcd"),
        ("/v1/audio/transcriptions", "transcribe-a-1-0123abcd"),
        ("/v1/audio/translations", "translate-a-1-3-0123abcd"),
        ("/v1/systemone", "decision-a-1-0-0123abcd"),
        ("/generative_scoring", "generative-scoring-a-1-12-0123abcd"),
        ("/v1/completions", f"cmpl-a-1-0-{'a' * 32}-beam-3-0123abcd"),
    ],
)
def test_what_the_engine_sheds_hears_why(tmp_path: Path, path: str, engine_id: str) -> None:
    app = Vllm(is_streamed=False, holds=True)
    door = door_to(app, tmp_path)
    door.tell(waiting=0)

    async def run() -> list[Reply]:
        asked = [await begun(door, {"X-Request-Id": name}, path=path) for name in ("a", "a-1", "b")]
        door.tell(**shed(engine_id))
        await looked(door)
        app.may_answer.set()
        return await asyncio.gather(*asked)

    replies = asyncio.run(run())
    assert [reply.status for reply in replies] == [200, 503, 200]
    message = "Expired in the queue: 20 s of work are left, and 5 s of time; come again in 1 s."
    assert json.loads(replies[1].body) == errors_of(path, 503, message)
    assert app.num_disconnected == 1


def test_what_the_engine_sheds_may_come_again(tmp_path: Path) -> None:
    app = Vllm(is_streamed=False, holds=True)
    door = door_to(app, tmp_path)
    door.tell(waiting=0)

    async def run() -> tuple[Reply, list[Reply]]:
        asked = await begun(door, {"X-Request-Id": "a"})
        door.tell(**(shed("cmpl-a-0-0123abcd") | {"waiting": 120}))
        await looked(door)
        told = await asked
        app.may_answer.set()
        door.clock.now_s += int(told.headers["retry-after"])
        door.tell(waiting=74)  # as many as may wait
        return told, [await door.ask({"X-Request-Id": name}) for name in ("b", "a")]

    told, replies = asyncio.run(run())
    assert (told.status, told.headers["x-request-id"]) == (503, "a")
    assert 13 <= int(told.headers["retry-after"]) <= 14  # 46 too many, 4 start a second
    assert [reply.status for reply in replies] == [429, 200]


def test_what_the_engine_sheds_is_known_before_its_answer_goes_out(tmp_path: Path) -> None:
    app = Vllm(holds=True)
    door = door_to(app, tmp_path)
    door.tell(waiting=0)

    async def run() -> Reply:
        asked = await begun(door, {"X-Request-Id": "a"})
        door.tell(**shed("cmpl-a-0-0123abcd"))
        door.clock.now_s -= 0.06  # no look is due
        app.may_answer.set()  # vLLM answers with what there is: nothing
        return await asked

    assert asyncio.run(run()).status == 503


def test_an_old_shed_is_not_of_a_new_request_with_the_same_id(tmp_path: Path) -> None:
    app = Vllm(holds=True)
    door = door_to(app, tmp_path)
    door.tell(**shed("cmpl-a-0-0123abcd"))

    async def run() -> Reply:
        await looked(door)
        asked = await begun(door, {"X-Request-Id": "a"})
        door.tell(**shed("cmpl-a-0-0123abcd"))
        await looked(door)
        app.may_answer.set()
        return await asked

    assert asyncio.run(run()).status == 200


def test_the_engines_ids_are_found_whatever_clients_call_theirs() -> None:
    for request_id in ("a", "a-0", "a_1", "0_a", "cmpl-a", "a-0123abcd", "-", "é", "x" * 200):
        for path, form in (
            ("/v1/completions", "cmpl-{}-12"),
            ("/v1/chat/completions", "chatcmpl-{}"),
            ("/v1/chat/completions/batch", "chatcmpl-{}_12"),
        ):
            known = {form.format(request_id) for form in ENDPOINTS[path].ids}
            for child in ("", "2_"):
                assert known & set(forms_of(f"{child}{form.format(request_id)}-89abcdef")), (request_id, path)


def test_the_watch_ends_with_the_last_request(tmp_path: Path) -> None:
    app = Vllm(holds=True)
    door = door_to(app, tmp_path)
    door.tell(waiting=0)

    async def run() -> int:
        asked = await begun(door, {TOTAL: "1"})
        door.clock.now_s += 2.0
        reply = await asked  # nobody looks but the watch itself
        await until(lambda: len(asyncio.all_tasks()) == 1)
        return reply.status

    assert asyncio.run(run()) == 503


def test_a_client_that_goes_is_reported_to_vllm(tmp_path: Path) -> None:
    app = Vllm(holds=True)
    door = door_to(app, tmp_path)

    async def run() -> None:
        gone = asyncio.Event()
        asked = await begun(door, gone=gone)
        gone.set()
        assert (await asked).body == b""

    asyncio.run(run())
    assert app.num_disconnected == 1
    assert json.loads(asyncio.run(door.ask(path="/fluidgate/state", method="GET")).body)["in_flight"] == {}


@pytest.mark.parametrize("after", ["nothing", "the start", "a chunk"])
def test_errors_of_the_app_are_its_own(tmp_path: Path, after: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if after != "nothing":
            await send(START)
        if after == "a chunk":
            await send({"type": "http.response.body", "body": CHUNKS[0], "more_body": True})
        raise ZeroDivisionError

    door = door_to(app, tmp_path)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(door.ask())
    assert json.loads(asyncio.run(door.ask(path="/fluidgate/state", method="GET")).body)["in_flight"] == {}


def test_a_cancelled_request_leaves_nothing(tmp_path: Path) -> None:
    door = door_to(Vllm(holds=True), tmp_path)

    async def run() -> None:
        asked = await begun(door)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        await until(lambda: len(asyncio.all_tasks()) == 1)

    asyncio.run(run())


def test_an_answer_of_a_start_alone_goes_out(tmp_path: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)

    assert asyncio.run(door_to(app, tmp_path).ask()).messages == [START]


def test_a_body_in_parts_is_received_in_order(tmp_path: Path) -> None:
    heard: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(3):
            waiting = asyncio.ensure_future(receive())
            await asyncio.sleep(0)
            waiting.cancel()  # as Starlette does when it no longer listens
        heard.extend([await receive() for _ in range(3)])
        await send(START)

    door = door_to(app, tmp_path)
    parts = [{"type": "http.request", "body": b"%d" % i, "more_body": i < 2} for i in range(3)]

    async def run() -> None:
        left = list(parts)

        async def receive() -> Any:
            await asyncio.sleep(0.005)
            return left.pop(0)

        async def send(message: Any) -> None: ...

        await door.admission(scope_of(), receive, send)

    asyncio.run(run())
    assert heard == parts
