"""Every way into the engine's queue: what is shed is no empty success there, and errors have the endpoint's shape."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fluidgate.serving.admission.endpoints import ENDPOINTS
from fluidgate.serving.admission.headers import TOTAL, TTFT

from .asgi_client import START, Door, Reply, Vllm, door_to, settled
from .live import needs_vllm

RESPONSES, MESSAGES, COHERE = "/v1/responses", "/v1/messages", "/cohere/v2/chat"
NOT_GENERATING = (
    r"/pooling|/classify|/v1/embeddings|/v2/embed|(/v1|/v2)?/(score|rerank)|.*/(render|derender|count_tokens|cancel)"
    r"|/(de)?tokenize|/ping|.*_lora_adapter|.*/abort_requests|/(start|stop)_profile|/fault_tolerance/apply|/reset_.*_cache"
    r"|/collective_rpc|/sleep|/wake_up|/release_kv_cache_memory|/.*scal(e|ing)_elastic_ep|/pause|/resume|/.*weight.*"
)
"""vLLM 0.32's other routes that take POST: pooling models, and what is no request for tokens."""


def event(kind: str, **content: Any) -> bytes:
    """As vLLM's stream of a response has them."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **content})}\n\n".encode()


def response(name: str = "resp_1", **facts: Any) -> dict[str, Any]:
    """The response in such an event, or the answer that is not streamed."""
    return {"id": name, "object": "response", "background": False, "output": [], **facts}


PREAMBLE = [
    event("response.created", response=response(), sequence_number=0),
    event("response.in_progress", response=response(), sequence_number=1),
]
TOKENS = [event("response.output_text.delta", delta=text, sequence_number=k + 2) for k, text in enumerate("ab")]
END = [event("response.output_text.done", text=""), event("response.completed", response=response(status="completed"))]


class Streams:
    """An app that sends the first chunks, and the rest when it is told to, unless the client goes before.

    Attributes:
        num_disconnected: requests whose client went before the rest.
    """

    def __init__(self, first: Sequence[bytes], rest: Sequence[bytes], *, is_streamed: bool = True) -> None:
        kind = b"text/event-stream; charset=utf-8" if is_streamed else b"application/json"
        self.start = {**START, "headers": [(b"content-type", kind)]}
        self.first, self.rest, self.may_go_on = first, rest, asyncio.Event()
        self.num_disconnected = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "http.request"
        if self.first:
            await send(self.start)
        for chunk in self.first:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        gone, ready = asyncio.ensure_future(receive()), asyncio.ensure_future(self.may_go_on.wait())
        await asyncio.wait({gone, ready}, return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        ready.cancel()
        self.num_disconnected += not self.may_go_on.is_set()
        if not self.first:
            await send(self.start)
        for k, chunk in enumerate(self.rest):
            await send({"type": "http.response.body", "body": chunk, "more_body": k < len(self.rest) - 1})


def reply_of(door: Door, app: Streams, path: str, headers: Any = (), *, shed: str = "", after_s: float = 0.06) -> Reply:
    """To a request that is shed, if at all, before the app goes on."""

    async def run() -> Reply:
        door.tell(waiting=2)
        asked = asyncio.create_task(door.ask(headers, path))
        await settled()
        if shed:
            door.tell(waiting=8, recent_sheds=[{"request_id": shed, "reason": "it is too late"}])
        door.clock.now_s += after_s - 0.06
        app.may_go_on.set()
        return await asked

    return asyncio.run(run())


@pytest.mark.parametrize("path", sorted(ENDPOINTS))
def test_errors_have_the_shape_of_their_api(tmp_path: Path, path: str) -> None:
    door = door_to(Vllm(), tmp_path)
    door.tell()
    replies = [asyncio.run(door.ask(headers, path)) for headers in ((), {TTFT: "soon"})]
    assert [reply.status for reply in replies] == [429, 400]
    for reply, anthropics in zip(replies, ("rate_limit_error", "invalid_request_error"), strict=True):
        content = json.loads(reply.body)
        if path == COHERE:
            assert set(content) == {"message"}
        elif path == MESSAGES:
            assert (content["type"], content["error"]["type"]) == ("error", anthropics)
        else:
            assert content["error"]["code"] == reply.status
    assert "x-request-id" in replies[0].headers


def test_a_response_that_is_shed_is_no_empty_success(tmp_path: Path) -> None:
    empty = json.dumps(response(status="completed", usage={"output_tokens": 0})).encode()
    app = Streams([], [empty], is_streamed=False)
    reply = reply_of(door_to(app, tmp_path), app, RESPONSES, shed="resp_1_0-0123abcd")
    assert reply.status == 503
    assert "it is too late" in json.loads(reply.body)["error"]["message"]
    assert int(reply.headers["retry-after"]) >= 1
    app = Streams([], [empty], is_streamed=False)
    assert reply_of(door_to(app, tmp_path / "2"), app, RESPONSES, shed="resp_2_0-0123abcd").body == empty


def test_a_streamed_response_that_is_shed_is_answered_before_its_first_token(tmp_path: Path) -> None:
    app = Streams(PREAMBLE, END)
    reply = reply_of(door_to(app, tmp_path), app, RESPONSES, shed="resp_1_0-0123abcd")
    assert (reply.status, len(reply.messages)) == (503, 2)
    app = Streams(PREAMBLE, [*TOKENS, *END])
    reply = reply_of(door_to(app, tmp_path / "2"), app, RESPONSES, shed="resp_2_0-0123abcd")
    assert (reply.status, reply.body) == (200, b"".join([*PREAMBLE, *TOKENS, *END]))


@pytest.mark.parametrize(("header", "status"), [(TTFT, 503), (TOTAL, 503)])
def test_a_streamed_response_expires_before_its_first_token(tmp_path: Path, header: str, status: int) -> None:
    app = Streams(PREAMBLE, [*TOKENS, *END])
    reply = reply_of(door_to(app, tmp_path), app, RESPONSES, {header: "2.5"}, after_s=3.0)
    assert reply.status == status
    app = Streams([*PREAMBLE, TOKENS[0]], [TOKENS[1], *END])
    assert reply_of(door_to(app, tmp_path / "2"), app, RESPONSES, {header: "2.5"}, after_s=3.0).status == 200


def test_a_response_in_the_background_is_known_at_once(tmp_path: Path) -> None:
    created = event("response.created", response=response(background=True), sequence_number=0)
    app = Streams([created], END)
    door = door_to(app, tmp_path)

    async def run() -> None:
        door.tell(waiting=8)
        asked = asyncio.create_task(door.ask((), RESPONSES))
        await settled()
        assert not door.admission._waiting  # its first byte is on its way
        app.may_go_on.set()
        await asked

    asyncio.run(run())


@pytest.mark.parametrize("path", sorted(ENDPOINTS))
def test_a_stream_that_is_shed_after_its_first_token_does_not_end_like_a_success(tmp_path: Path, path: str) -> None:
    first, end = {
        RESPONSES: ([*PREAMBLE, *TOKENS], END),
        MESSAGES: (
            [event("message_start"), event("content_block_delta")],
            [event("content_block_stop"), event("message_delta", delta={"stop_reason": None}), event("message_stop")],
        ),
        COHERE: (
            [b'data: {"type": "content-delta"}\n\n'],
            [b'data: {"type":"message-end","delta":{"finish_reason":"COMPLETE"}}\n\n', b"data: [DONE]\n\n"],
        ),
    }.get(path, ([b'data: {"choices":[{"text":"a"}]}\n\n'], [b'data: {"choices":[{"finish_reason":"abort"}]}\n\n']))
    app = Streams(first, end)
    endpoint = ENDPOINTS[path]
    name = endpoint.ids[0].format("resp_1" if path == RESPONSES else "a").replace("#", "0") + "-0123abcd"
    reply = reply_of(door_to(app, tmp_path), app, path, {"X-Request-Id": "a"}, shed=name)
    assert (reply.status, reply.body[: len(b"".join(first))]) == (200, b"".join(first))
    assert reply.messages[-1].get("more_body") is False
    last = reply.body[len(b"".join(first)) :]
    if endpoint.last_words is None:
        assert last == b"".join(end)
        return
    assert b"it is too late" in last
    assert not any(chunk in last for chunk in end[:1])
    if path == RESPONSES:
        content = json.loads(last.split(b"data: ")[1])
        assert last.startswith(b"event: error\n")
        assert content == {
            "type": "error",
            "code": "server_error",
            "message": "Given up by the engine: it is too late.",
            "param": None,
            "sequence_number": 4,
        }


@pytest.mark.parametrize("path", [RESPONSES, MESSAGES, COHERE])
def test_a_stream_that_is_not_shed_is_left_as_it_is(tmp_path: Path, path: str) -> None:
    chunks = [event("content_block_stop"), event("message_stop"), event("response.completed"), b'data: {"-end"}\n\n']
    app = Streams([b"data: one\n\n"], chunks)
    reply = reply_of(door_to(app, tmp_path), app, path, {"X-Request-Id": "a"}, shed="chatcmpl-b-0123abcd")
    assert reply.body == b"".join([b"data: one\n\n", *chunks])


def test_the_openai_client_reads_what_ends_a_response() -> None:
    types = pytest.importorskip("openai.types.responses", reason="vLLM brings OpenAI's client")
    words = ENDPOINTS[RESPONSES].last_words
    assert words is not None
    content = json.loads(words("it is too late.", 4).split(b"data: ")[1])
    read = types.ResponseErrorEvent.model_validate(content, strict=True)
    assert (read.message, read.sequence_number) == ("it is too late.", 4)


def test_two_with_one_id_at_a_time_are_told_apart(tmp_path: Path) -> None:
    app = Vllm(holds=True)
    door = door_to(app, tmp_path)
    door.tell(waiting=0)

    async def run() -> list[int]:
        asked = [asyncio.create_task(door.ask({"X-Request-Id": "a" * 200})) for _ in range(2)]
        await settled()
        names = [dict(scope["headers"])[b"x-request-id"].decode() for scope in app.scopes]
        assert names[0] == "a" * 200
        assert re.fullmatch(r"a{191}-[0-9a-f]{8}", names[1])
        door.tell(waiting=8, recent_sheds=[{"request_id": f"cmpl-{names[1]}-0-0123abcd", "reason": "late"}])
        door.admission.look()
        await settled()
        app.may_answer.set()
        return [reply.status for reply in await asyncio.gather(*asked)]

    assert asyncio.run(run()) == [200, 503]


@needs_vllm
def test_no_way_into_the_queue_is_missing() -> None:
    import vllm

    if not vllm.__version__.startswith("0.32"):
        pytest.skip("the list is that of vLLM 0.32")
    sources = Path(vllm.__file__).parent.glob("entrypoints/**/*.py")
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    routes = set(re.findall(r'router\.(?:post\(|add_api_route\()\s*"([^"]+)"', text))
    assert len(routes) > 50
    assert {route for route in routes if not re.fullmatch(NOT_GENERATING, route)} == set(ENDPOINTS)
