"""The middleware in front of an app: who passes, who is told when to come again, and what it leaves alone."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from fluidgate.errors import InputError
from fluidgate.serving.admission.endpoints import ENDPOINTS
from fluidgate.serving.admission.headers import CLASS, TOTAL, TTFT
from fluidgate.serving.admission.limits import class_limits

from .asgi_client import CHUNKS, COMPLETIONS, START, Vllm, ask, door_to, scope_of, settled

OURS = {"x-fluidgate-position", "x-fluidgate-expected-wait"}


def counted(name: str, **labels: str) -> float:
    """A metric's value in this process, to which other tests contribute."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


def outcomes(outcome: str, class_name: str = "default") -> float:
    """Requests of that outcome so far."""
    return counted("fluidgate_admission_requests_total", outcome=outcome, **{"class": class_name})


def test_a_request_that_could_start_too_late_is_told_when_to_come_again(tmp_path: Path) -> None:
    door = door_to(app := Vllm(), tmp_path)
    door.tell(waiting=120, starts_per_s=4.0, latest_start_s={"": 20.0})
    reply = asyncio.run(door.ask())
    # 80 starts in 20 s, less its own and half their standard deviation: behind 74.5; 45.5 must go, 4 a second, and 1 s
    assert (reply.status, reply.headers["retry-after"]) == (429, "13")
    assert (reply.headers["x-fluidgate-position"], reply.headers["x-fluidgate-expected-wait"]) == ("120", "30.000")
    error = json.loads(reply.body)["error"]
    assert (error["code"], error["param"]) == (429, None)
    assert "within 20 s, for which 74 at most may be before it; come again in 13 s." in error["message"]
    assert app.scopes == []


def test_a_request_in_time_passes_and_hears_its_place(tmp_path: Path) -> None:
    door = door_to(app := Vllm(), tmp_path)
    door.tell(waiting=120, starts_per_s=4.0, latest_start_s={"": 40.0})
    reply = asyncio.run(door.ask())
    assert (reply.status, reply.body) == (200, b"".join(CHUNKS))
    assert (reply.headers["x-fluidgate-position"], reply.headers["x-fluidgate-expected-wait"]) == ("120", "30.000")
    assert len(app.scopes) == 1


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ({}, True),
        ({TTFT: "32"}, True),
        ({TTFT: "29"}, False),
        ({TOTAL: "29"}, False),
        ({TOTAL: "32"}, True),
        ({CLASS: "chat"}, False),
        ({CLASS: "chat", TTFT: "60"}, False),  # the engine would shed it all the same
        ({CLASS: "batch"}, True),
        ({CLASS: "batch", TTFT: "29"}, False),
        ({CLASS: "nobody-knows-it"}, True),
    ],
)
def test_the_shortest_of_class_and_headers_counts(tmp_path: Path, headers: dict[str, str], passes: bool) -> None:
    door = door_to(Vllm(), tmp_path)
    door.tell(waiting=120, starts_per_s=4.0, latest_start_s={"chat": 20.0, "batch": None})
    assert asyncio.run(door.ask(headers)).status == (200 if passes else 429)


def test_a_request_of_no_class_may_be_of_the_most_patient(tmp_path: Path) -> None:
    door = door_to(Vllm(), tmp_path)
    door.tell(waiting=120, starts_per_s=4.0, latest_start_s={"chat": 20.0, "batch": 40.0})
    assert [asyncio.run(door.ask({CLASS: name})).status for name in ("chat", "batch", "other")] == [429, 200, 200]
    door.tell(waiting=160, starts_per_s=4.0, latest_start_s={"chat": 20.0, "batch": 40.0, "": 30.0})
    assert asyncio.run(door.ask()).status == 429


def test_without_a_rate_or_a_deadline_all_pass(tmp_path: Path) -> None:
    door = door_to(Vllm(), tmp_path)
    for facts in ({"starts_per_s": 0.0}, {"latest_start_s": {"": None}}, {"latest_start_s": {}}):
        door.tell(waiting=10_000, **facts)
        assert asyncio.run(door.ask()).status == 200


def test_of_thousands_between_two_writes_as_many_pass_as_can_be_started(tmp_path: Path) -> None:
    door = door_to(app := Vllm(holds=True), tmp_path)
    door.tell(running=0, waiting=0, starts_per_s=4.0, latest_start_s={"": 20.0})

    async def burst() -> list[int]:
        asked = [asyncio.ensure_future(door.ask()) for _ in range(2000)]
        await settled()
        app.may_answer.set()
        return [reply.status for reply in await asyncio.gather(*asked)]

    assert asyncio.run(burst()).count(200) == 74 + 1  # of 80 starts, as above


def test_free_seats_are_no_queue(tmp_path: Path) -> None:
    door = door_to(app := Vllm(holds=True), tmp_path)
    door.tell(running=100, waiting=3)
    door.tell(running=40, waiting=0, starts_per_s=1.0, latest_start_s={"": 6.0})

    async def burst() -> list[int]:
        await ask(door.admission, "/fluidgate/state", method="GET")
        asked = [asyncio.ensure_future(door.ask()) for _ in range(70)]
        await settled()
        app.may_answer.set()
        return [reply.status for reply in await asyncio.gather(*asked)]

    door_saw_full = asyncio.run(ask(door.admission, "/fluidgate/state", method="GET"))
    assert json.loads(door_saw_full.body)["engine"]["running"] == 40
    assert asyncio.run(burst()).count(200) == 3 + 1  # it never saw the engine full
    app.may_answer.clear()
    door.tell(running=100, waiting=3)
    asyncio.run(door.ask(path="/fluidgate/state", method="GET"))
    door.tell(running=40, waiting=0, starts_per_s=1.0, latest_start_s={"": 6.0})
    assert asyncio.run(burst()).count(200) == 60 + 3 + 1


def test_requests_that_a_new_state_counts_are_counted_once(tmp_path: Path) -> None:
    door = door_to(app := Vllm(holds=True), tmp_path)
    door.tell(running=16, waiting=10)

    async def positions() -> list[int]:
        asked = [asyncio.ensure_future(door.ask()) for _ in range(5)]
        await settled()
        door.clock.now_s += 0.2
        door.admission.look()  # nothing new yet
        door.tell(running=16, waiting=15)
        asked.append(asyncio.ensure_future(door.ask()))
        await settled()
        app.may_answer.set()
        return [int(reply.headers["x-fluidgate-position"]) for reply in await asyncio.gather(*asked)]

    assert asyncio.run(positions()) == [10, 11, 12, 13, 14, 15]


def test_prompts_that_vllm_still_prepares_are_counted_and_slow_readers_are_not(tmp_path: Path) -> None:
    door = door_to(app := Vllm(holds=True), tmp_path)
    door.tell(running=0, waiting=0)

    async def positions() -> list[int]:
        asked = [asyncio.ensure_future(door.ask({TTFT: "60"})) for _ in range(8)]
        await settled()
        for _ in range(2):  # the engine has counted five of them when it writes
            door.admission.look()
            door.tell(running=3, waiting=2)
        before = int((await door.ask({TTFT: "0.01"})).headers["x-fluidgate-position"])
        app.may_answer.set()
        await asyncio.gather(*asked)
        return [before, json.loads((await door.ask(path="/fluidgate/state", method="GET")).body)["position"]]

    assert asyncio.run(positions()) == [2 + 3, 2]


@pytest.mark.parametrize("root_path", ["", "/models/one"])
@pytest.mark.parametrize("path", sorted(ENDPOINTS))
def test_every_way_into_the_queue_is_guarded(tmp_path: Path, path: str, root_path: str) -> None:
    door = door_to(Vllm(), tmp_path)
    door.tell()
    assert asyncio.run(door.ask(path=path)).status == 429
    assert asyncio.run(door.ask(path=root_path + path, root_path=root_path)).status == 429
    assert asyncio.run(door.ask(path=path, root_path=root_path)).status == 429  # a proxy took it off
    assert asyncio.run(door.ask(path=path, method="OPTIONS")).status == 200


@pytest.mark.parametrize(
    "scope",
    [
        {"type": "lifespan"},
        {"type": "websocket", "path": COMPLETIONS, "headers": []},
        scope_of("/health", method="GET"),
        scope_of("/v1/models", method="GET"),
        scope_of("/v1/completions/other"),
        scope_of("/v1/embeddings"),
        scope_of("/tokenize"),
        scope_of(COMPLETIONS, {TTFT: "nan"}, method="GET"),
    ],
)
def test_all_else_is_left_alone(tmp_path: Path, scope: dict[str, Any]) -> None:
    seen: list[Any] = []

    async def app(*given: Any) -> None:
        seen.extend(given)

    async def nothing(*_: Any) -> Any: ...

    door = door_to(app, tmp_path)
    door.tell()
    before = dict(scope)
    asyncio.run(door.admission(scope, nothing, nothing))
    assert [id(one) for one in seen] == [id(scope), id(nothing), id(nothing)]
    assert scope == before


def test_with_the_channel_down_all_pass_and_it_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    door = door_to(Vllm(), tmp_path)
    before = outcomes("channel_down")
    with caplog.at_level(logging.INFO, "vllm.fluidgate"):
        for _ in range(20):
            reply = asyncio.run(door.ask())
            assert reply.status == 200
            assert not OURS & set(reply.headers)
            door.clock.now_s += 1.0
        door.tell()
        assert asyncio.run(door.ask()).status == 429
        door.clock.now_s += 6.0  # busy, and silent for longer than 5 s
        for _ in range(20):
            assert asyncio.run(door.ask()).status == 200
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "WARNING"]
    assert outcomes("channel_down") - before == 40


def test_a_wall_clock_that_jumps_refuses_nobody_and_stops_nothing(tmp_path: Path) -> None:
    door = door_to(Vllm(), tmp_path)
    for written_s, waiting in ((1e9, 120), (5.0, 120), (4e9, 0), (3.0, 0), (2e9, 120)):
        door.tell(written_s=written_s, waiting=waiting)
        assert asyncio.run(door.ask()).status == (429 if waiting else 200)


HOSTILE = [
    "",
    "x",
    "-1",
    "nan",
    "inf",
    "-inf",
    "NaN",
    "1e300",
    "1e999",
    "1e-999",
    "1e3",
    "0",
    "0.0",
    "1_0",
    "٣",
    "３",
    "1²",
    "-0",
    "0x1p3",
    "1.",
    ".5",
    "1;2",
    "9" * 2**20,
    "+5",
    "5 s",
    "1,5",
    "0x10",
]


@pytest.mark.parametrize("name", [TTFT, TOTAL])
@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: value[:10] or "empty")
def test_deadlines_that_are_none_are_one_sentence(tmp_path: Path, name: str, value: str) -> None:
    door = door_to(app := Vllm(), tmp_path)
    reply = asyncio.run(door.ask({name: value}))
    error = json.loads(reply.body)["error"]
    assert (reply.status, error["type"], error["param"], error["code"]) == (400, "BadRequestError", name, 400)
    assert error["message"].startswith(name)
    assert "must be seconds, such as 30 or 2.5" in error["message"]
    assert len(error["message"]) < 300
    assert app.scopes == []


@pytest.mark.parametrize("value", ["", " ", "a b", "a" * 101, "ä", "a\x00b", "<script>", "a" * 2**20])
def test_classes_that_are_none_are_one_sentence(tmp_path: Path, value: str) -> None:
    reply = asyncio.run(door_to(Vllm(), tmp_path).ask({CLASS: value}))
    assert reply.status == 400
    assert json.loads(reply.body)["error"]["message"].startswith(CLASS)


@pytest.mark.parametrize("name", [CLASS, TTFT, TOTAL])
def test_a_header_twice_is_refused(tmp_path: Path, name: str) -> None:
    reply = asyncio.run(door_to(Vllm(), tmp_path).ask([(name, "1"), (name.lower(), "1")]))
    assert (reply.status, json.loads(reply.body)["error"]["message"]) == (
        400,
        f"{name} is given more than once; send it once",
    )


@settings(max_examples=300, deadline=None)
@given(
    pairs=st.lists(
        st.tuples(
            st.sampled_from([CLASS, TTFT, TOTAL, "X-Request-Id", "X-Stainless-Retry-Count", "Accept"]),
            st.one_of(st.binary(max_size=40), st.floats().map(lambda number: str(number).encode())),
        ),
        max_size=5,
    )
)
def test_no_header_is_an_error(pairs: list[tuple[str, bytes]], tmp_path_factory: pytest.TempPathFactory) -> None:
    door = door_to(Vllm(), tmp_path_factory.mktemp("door"))
    door.tell()
    reply = asyncio.run(door.ask(pairs))
    assert reply.status in (400, 429)
    assert json.loads(reply.body)["error"]["code"] == reply.status
    assert asyncio.run(door.ask({TTFT: "60"}, path="/health")).status == 200


def test_limits_by_class_hold_with_the_channel_down_too(tmp_path: Path) -> None:
    door = door_to(app := Vllm(holds=True), tmp_path, batch=2)

    async def run() -> list[int]:
        asked = [asyncio.ensure_future(door.ask({CLASS: name})) for name in ["batch"] * 3 + ["chat"] * 3]
        await settled()
        report = json.loads((await door.ask(path="/fluidgate/state", method="GET")).body)
        assert (report["channel"], report["in_flight"]) == ("down", {"batch": 2, "other": 3})
        app.may_answer.set()
        statuses = [reply.status for reply in await asyncio.gather(*asked)]
        return [*statuses, (await door.ask({CLASS: "batch"})).status]

    before = outcomes("limit", "batch")
    assert asyncio.run(run()) == [200, 200, 429, 200, 200, 200, 200]
    assert outcomes("limit", "batch") - before == 1
    assert counted("fluidgate_admission_in_flight", **{"class": "batch"}) == 0


@pytest.mark.parametrize(
    "text", ["batch", "batch=", "batch=0", "batch=-1", "batch=1.5", "=3", "a b=3", "a=1,a=2", "a=" + "9" * 99]
)
def test_limits_that_are_none_are_an_error_at_the_start(text: str) -> None:
    with pytest.raises(InputError, match="FLUIDGATE_LIMITS"):
        class_limits({"FLUIDGATE_LIMITS": text})
    assert class_limits({"FLUIDGATE_LIMITS": " interactive=200, batch=50,"}) == {"interactive": 200, "batch": 50}
    assert class_limits({}) == {}


def test_names_that_clients_invent_are_one_label(tmp_path: Path) -> None:
    door = door_to(Vllm(), tmp_path)
    door.tell(latest_start_s={"chat": 20.0})
    before = outcomes("refused", "other"), outcomes("refused", "chat")
    for name in (*(f"invented-{i}" for i in range(30)), "chat"):
        assert asyncio.run(door.ask({CLASS: name})).status == 429
    assert (outcomes("refused", "other") - before[0], outcomes("refused", "chat") - before[1]) == (30, 1)
    labels = {sample.labels.get("class") for metric in REGISTRY.collect() for sample in metric.samples}
    assert not any(str(label).startswith("invented") for label in labels)


def test_the_error_of_the_prediction_is_of_streams(tmp_path: Path) -> None:
    name = "fluidgate_admission_prediction_error_seconds"
    for is_streamed in (True, False):
        door = door_to(Vllm(is_streamed=is_streamed), tmp_path / str(is_streamed))
        door.tell(waiting=8, starts_per_s=4.0)
        before = [counted(f"{name}_bucket", le=le) for le in ("-5.0", "-2.0", "+Inf")]
        assert asyncio.run(door.ask()).status == 200  # at once, where 2 s were expected
        after = [counted(f"{name}_bucket", le=le) for le in ("-5.0", "-2.0", "+Inf")]
        assert [new - old for new, old in zip(after, before, strict=True)] == [0, is_streamed, is_streamed]


def test_the_state_can_be_asked_for(tmp_path: Path) -> None:
    door = door_to(Vllm(), tmp_path)
    down = json.loads(asyncio.run(door.ask(path="/fluidgate/state", method="GET")).body)
    assert down["channel"] == "down"
    door.tell(recent_sheds=[{"request_id": "cmpl-secret-0-0123abcd", "reason": "x"}], shed=1)
    reply = asyncio.run(door.ask(path="/p/fluidgate/state", method="GET", root_path="/p"))
    report = json.loads(reply.body)
    assert (report["channel"], report["load"], report["position"], report["expected_wait_s"]) == ("up", 1.2, 120, 30.0)
    assert report["engine"]["shed"] == 1
    assert b"secret" not in reply.body


def test_an_id_is_given_to_requests_without(tmp_path: Path) -> None:
    door = door_to(app := Vllm(), tmp_path)
    asyncio.run(door.ask())
    asyncio.run(door.ask({"X-Request-Id": "mine"}))
    ids = [[value for name, value in scope["headers"] if name == b"x-request-id"] for scope in app.scopes]
    assert len(ids[0]) == 1
    assert len(ids[0][0]) == 32
    assert ids[1] == [b"mine"]


@pytest.mark.parametrize("own", [b"", b"a" * 201, b"a" * 2**20, [b"a" * 201, b"b"]])
def test_an_id_that_cannot_be_remembered_is_replaced(tmp_path: Path, own: Any) -> None:
    """Or the engine would give a request up under a name that nobody here knows."""
    door = door_to(app := Vllm(), tmp_path)
    asyncio.run(door.ask([("X-Request-Id", value) for value in (own if isinstance(own, list) else [own])]))
    ids = [value for name, value in app.scopes[0]["headers"] if name == b"x-request-id"]
    assert [len(one) for one in ids] == [32]


def test_streams_arrive_as_they_are(tmp_path: Path) -> None:
    bare = asyncio.run(ask(Vllm()))
    door = door_to(Vllm(), tmp_path)
    door.tell(waiting=0)
    through = asyncio.run(door.ask())
    assert through.messages[1:] == bare.messages[1:]
    assert through.messages[0]["headers"][: len(START["headers"])] == START["headers"]
    assert {name.decode() for name, _ in through.messages[0]["headers"][len(START["headers"]) :]} == OURS
