"""Requests made to do harm: nothing is lost or logged, none is another's trouble, and no clock can be moved."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fluidgate.serving.admission.endpoints import ENDPOINTS
from fluidgate.serving.admission.headers import CLASS, REQUEST_ID, RETRY_COUNT, TOTAL, TTFT

from .asgi_client import COMPLETIONS, Vllm, door_to, gate_state, settled
from .test_admission_endpoints import END, PREAMBLE, RESPONSES, TOKENS, Streams, response

SECRET = "what-nobody-else-may-read"
HEADERS = st.sampled_from([CLASS, TTFT, TOTAL, REQUEST_ID, RETRY_COUNT])
ODD = st.one_of(
    st.binary(max_size=300),
    st.floats().map(lambda number: str(number).encode()),
    st.sampled_from([b"9" * 2**20, b"a" * 2**20, "٣".encode(), b"1e999", b"\x00", b"a\r\nx: y", b"30", b"-1"]),
)
IDS = st.one_of(
    st.text(st.characters(max_codepoint=255, exclude_categories=["Cc"]), min_size=1, max_size=200).map(str.strip),
    st.from_regex(r"(a|0_|1_chatcmpl-|cmpl-)(a|-0|_0|-[0-9a-f]{8}|-[0-9a-f]{32}-beam-1){0,3}", fullmatch=True),
).filter(lambda text: 0 < len(text.encode("latin-1", "replace")) <= 200)


@settings(max_examples=200, deadline=None)
@given(
    pairs=st.lists(st.tuples(HEADERS, ODD), max_size=6), path=st.sampled_from(sorted(ENDPOINTS)), waits=st.booleans()
)
def test_each_request_ends_once_whatever_its_headers_say(
    pairs: list[tuple[str, bytes]], path: str, waits: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    door = door_to(app := Vllm(), tmp_path_factory.mktemp("door"))
    door.tell(waiting=120 if waits else 0)
    reply = asyncio.run(door.ask(pairs, path))
    starts = [message for message in reply.messages if message["type"] == "http.response.start"]
    assert len(starts) == 1
    assert reply.status in ((400, 429) if waits else (200, 400))
    assert len(app.scopes) == (reply.status == 200)
    for scope in app.scopes:
        ids = [value for name, value in scope["headers"] if name.lower() == b"x-request-id"]
        assert 0 < len(ids[0].strip()) <= 200
    if reply.status != 200:
        assert len(reply.body) < 700
        json.loads(reply.body)
    report = json.loads(asyncio.run(door.ask(path="/fluidgate/state", method="GET")).body)
    assert report["in_flight"] == {}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(names=st.lists(IDS, min_size=2, max_size=4, unique=True), data=st.data())
def test_whatever_an_id_is_its_own_request_is_told(
    names: list[str], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Of requests of one kind at a time, as vLLM calls them in the engine."""
    path, form = data.draw(
        st.sampled_from(
            [(COMPLETIONS, "cmpl-{}-0"), ("/v1/chat/completions", "chatcmpl-{}"), ("/v1/messages", "chatcmpl-{}")]
        )
    )
    door = door_to(app := Vllm(holds=True), tmp_path_factory.mktemp("door"))
    door.tell(waiting=0)

    async def run() -> list[int]:
        asked = [asyncio.create_task(door.ask([(REQUEST_ID, name.encode("latin-1"))], path)) for name in names]
        await settled()
        assert len(app.scopes) == len(names)
        door.writer.write(
            gate_state(recent_sheds=[{"request_id": f"{form.format(names[0])}-89abcdef", "reason": "late"}])
        )
        door.admission.look(at_once=True)
        app.may_answer.set()
        return [reply.status for reply in await asyncio.gather(*asked)]

    assert asyncio.run(run()) == [503, *[200] * (len(names) - 1)]


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_no_answer_of_a_response_is_an_error_and_none_is_changed(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Of requests that nobody has shed, however their answers are cut into parts; others have been."""
    odd = st.one_of(st.binary(max_size=60), st.sampled_from([*PREAMBLE, *TOKENS, *END, b"event: response.created\n"]))
    deep = b'event: response.created\ndata: {"response":' + b"[" * 100_000
    chunks = data.draw(st.lists(st.one_of(odd, st.just(deep), st.just(json.dumps(response()).encode())), min_size=1))
    cut = data.draw(st.integers(0, len(chunks) - 1))
    app = Streams(chunks[:cut], chunks[cut:], is_streamed=data.draw(st.booleans()))
    door = door_to(app, tmp_path_factory.mktemp("door"))
    door.tell(waiting=0, recent_sheds=[{"request_id": "resp_2_0-0123abcd", "reason": "late"}])
    app.may_go_on.set()
    reply = asyncio.run(door.ask((), RESPONSES))
    assert (reply.status, reply.body) == (200, b"".join(chunks))


def test_nothing_of_a_request_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    door = door_to(Vllm(), tmp_path)
    secret = SECRET.encode()
    with caplog.at_level(logging.DEBUG):
        for waiting in (0, 120):
            door.tell(waiting=waiting)
            for headers in ({"Authorization": secret, REQUEST_ID: secret}, {CLASS: secret + b"!"}, {TTFT: secret}):
                asyncio.run(door.ask(headers, query=secret))
        for path in tmp_path.rglob("*.json"):
            path.unlink()
        door.clock.now_s += 10.0
        asyncio.run(door.ask({REQUEST_ID: secret}))
    assert SECRET not in caplog.text
    assert [record.name for record in caplog.records if record.name != "asyncio"] == ["vllm.fluidgate"]  # it is down


@pytest.mark.parametrize("jump_s", [86_400.0, -86_400.0])
def test_no_clock_of_the_wall_decides(tmp_path: Path, jump_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """It jumps by a day, each time that anybody looks at it."""
    wall, seen = time.time(), []

    def jumping() -> float:
        seen.append(wall + jump_s * len(seen))
        return seen[-1]

    def statuses(folder: Path) -> list[Any]:
        door = door_to(Vllm(), folder, batch=1)
        found = []
        for k in range(40):
            door.tell(waiting=0 if k % 3 else 120, written_s=max(time.time(), 0.0))
            reply = asyncio.run(door.ask({REQUEST_ID: str(k % 5), TOTAL: "30"}))
            found.append((reply.status, reply.headers.get("retry-after")))
            door.clock.now_s += 1.0
        return found

    steady = statuses(tmp_path / "steady")
    monkeypatch.setattr(time, "time", jumping)
    assert statuses(tmp_path / "jumping") == steady
    assert len(seen) >= 40
    assert {status for status, _ in steady} == {200, 429}
