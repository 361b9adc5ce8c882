"""The admission middleware inside `vllm serve`, over HTTP, with the engine's part of the channel played by the test."""

from __future__ import annotations

import json
import os
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fluidgate.serving.admission.endpoints import ENDPOINTS
from fluidgate.serving.gate_state import GateState, StateWriter

from .server import SEATS, Server, served

FLAGS = ["--middleware", "fluidgate.serving.admission.Admission", "--enable-log-requests"]
FLAGS += ["--chat-template", "{% for m in messages %}{{ m.content }}{% endfor %}"]
PROMPT, TOKENS = [5, 6, 7, 8], 40
ADDED = re.compile(r"Added request (\S+)\.")
"""vLLM's log of a request, with its name in the engine."""
LONG: dict[str, Any] = {"prompt": [PROMPT] * SEATS, "max_tokens": 500}
"""Of which the KV cache holds three at a time: it takes seconds."""
UNTIL_SEEN_S = 0.2
"""The files are looked at every 50 ms."""
CHAT = {"messages": [{"role": "user", "content": "w5 w6 w7 w8"}], "max_tokens": 4}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/completions": {},
    "/v1/chat/completions": CHAT,
    "/v1/messages": CHAT,
    "/v1/responses": {"input": "w5 w6 w7 w8", "max_output_tokens": 4, "prompt": None},
}
WAITING = [(path, body, stream) for path, body in BODIES.items() for stream in (False, True)]


@dataclass(frozen=True)
class Door:
    """A server with the middleware, and the folder of its channel."""

    server: Server
    folder: Path

    def names(self) -> list[str]:
        """Of all requests so far, in the engine."""
        return ADDED.findall(self.server.log.read_text(errors="replace"))

    def ask(self, headers: dict[str, str] | None = None, path: str = "/v1/completions", **parameters: Any) -> Answer:
        """Send a greedy completion and read the whole answer."""
        usual = {"model": self.server.model, "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0}
        body = json.dumps({**usual, "ignore_eos": True, "return_token_ids": True, **parameters}).encode()
        given = {"Content-Type": "application/json", **(headers or {})}
        try:
            with urllib.request.urlopen(urllib.request.Request(self.server.url + path, body, given)) as answer:
                return Answer(answer.status, dict(answer.headers.items()), answer.read().decode())
        except urllib.error.HTTPError as error:
            return Answer(error.code, dict(error.headers.items()), error.read().decode())

    @contextmanager
    def engine_says(self, **facts: Any) -> Iterator[dict[str, Any]]:
        """A busy engine, which writes again and again what may be changed; the channel is empty afterwards."""
        writer, ends = StateWriter(0, self.folder), threading.Event()

        def write() -> None:
            while not ends.is_set():
                writer.write(state(**facts))
                ends.wait(0.2)

        writing = threading.Thread(target=write)
        writer.write(state(**facts))
        writing.start()
        time.sleep(UNTIL_SEEN_S)
        try:
            yield facts
        finally:
            ends.set()
            writing.join()
            for path in self.folder.glob("*.json"):
                path.unlink()
            time.sleep(UNTIL_SEEN_S)


@dataclass(frozen=True)
class Answer:
    """Of the server: its status, headers by name in lower case, and text."""

    status: int
    given_headers: dict[str, str]
    text: str

    @property
    def headers(self) -> dict[str, str]:
        """By name in lower case."""
        return {name.lower(): value for name, value in self.given_headers.items()}

    def tokens(self) -> list[int]:
        """Of a completion, streamed or not."""
        assert self.status == 200, self.text
        events = [line[6:] for line in self.text.splitlines() if line.startswith("data: {")] or [self.text]
        choices = [choice for event in events for choice in json.loads(event)["choices"]]
        return [token for choice in choices for token in choice["token_ids"] or []]


def state(**facts: Any) -> GateState:
    """30 s of queue."""
    usual = {"running": 16, "waiting": 120, "starts_per_s": 4.0, "boundary_per_s": 5.0, "arrivals_per_s": 6.0}
    return GateState("fluid", os.getpid(), time.time(), **{**usual, "latest_start_s": {"": 20.0}, **facts})


@pytest.fixture(scope="module")
def door(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """One server for all."""
    folder = tmp_path_factory.mktemp("channel") / "state"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("FLUIDGATE_STATE_DIR", str(folder))
        environment.setenv("FLUIDGATE_LIMITS", "batch=1")
        with served(model, flags=FLAGS) as server:
            yield Door(server, folder)


def test_without_a_channel_all_pass_and_it_is_said_once(door: Door) -> None:
    answers = [door.ask() for _ in range(3)]
    assert [len(answer.tokens()) for answer in answers] == [TOKENS] * 3
    assert door.server.log.read_text(errors="replace").count("fluidgate lets every request pass") == 1


def test_overload_is_refused_before_any_work(door: Door) -> None:
    before = door.server.metrics()["vllm:prompt_tokens_total"]
    with door.engine_says():
        for path in ENDPOINTS:
            answer = door.ask(path=path)
            assert answer.status == 429, answer.text
            assert 13 <= int(answer.headers["retry-after"]) <= 13 + len(ENDPOINTS)  # those before it have a place each
            assert "come again in" in answer.text
            assert door.ask({"X-Request-Timeout": "nan"}, path).status == 400
    assert len(door.ask().tokens()) == TOKENS
    assert door.server.metrics()["vllm:prompt_tokens_total"] == before + len(PROMPT)


def test_a_stream_is_the_answer_token_by_token(door: Door) -> None:
    whole = door.ask().tokens()
    with door.engine_says(waiting=8):
        streamed = door.ask(stream=True)
        assert streamed.tokens() == door.ask().tokens() == whole
    assert (streamed.headers["x-fluidgate-position"], streamed.headers["x-fluidgate-expected-wait"]) == ("8", "2.000")
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert streamed.text.count("data: {") >= TOKENS
    assert streamed.text.rstrip().endswith("data: [DONE]")


def test_a_request_whose_time_is_over_is_aborted_in_the_engine(door: Door) -> None:
    before = door.server.metrics()["vllm:generation_tokens_total"]
    answer = door.ask({"X-Request-Timeout": "0.05"}, **LONG)
    assert answer.status == 503
    assert "X-Request-Timeout" in json.loads(answer.text)["error"]["message"]
    until(lambda: door.server.metrics()["vllm:num_requests_running"] == 0)
    made = door.server.metrics()["vllm:generation_tokens_total"] - before
    assert made < 0.5 * len(LONG["prompt"]) * LONG["max_tokens"]


def test_what_the_engine_sheds_is_answered_with_its_reason(door: Door) -> None:
    """Of requests that wait behind others in vLLM's own queue, by the names that vLLM gives them."""
    with door.engine_says(waiting=0) as facts, ThreadPoolExecutor(1 + len(WAITING)) as clients:
        before = len(door.names())
        ahead = clients.submit(door.ask, **LONG)
        until(lambda: len(door.names()) >= before + SEATS)
        taken = door.names()
        asked = [
            clients.submit(door.ask, {"X-Request-Id": f"shed-{k}"}, path, **body, stream=stream)
            for k, (path, body, stream) in enumerate(WAITING)
        ]
        until(lambda: len(door.names()) >= len(taken) + len(WAITING))
        shed = [*door.names()[len(taken) :], taken[-1]]
        facts["recent_sheds"] = [{"request_id": name, "reason": "there is no time left"} for name in shed]
        answers = [one.result() for one in (*asked, ahead)]
    for (path, _, stream), answer in zip((*WAITING, ("/v1/completions", {}, False)), answers, strict=True):
        assert answer.status == 503, (path, stream, answer.text[:1000])
        assert "there is no time left" in json.loads(answer.text)["error"]["message"]


def test_a_class_is_limited(door: Door) -> None:
    headers = {"X-Fluidgate-Class": "batch", "X-Request-Timeout": "2"}
    first = threading.Thread(target=lambda: door.ask(headers, **LONG))
    first.start()
    until(lambda: json.loads(door.server.request("/fluidgate/state")[1])["in_flight"] == {"batch": 1})
    answer = door.ask({"X-Fluidgate-Class": "batch"})
    first.join()
    until(lambda: json.loads(door.server.request("/fluidgate/state")[1])["in_flight"] == {})  # vLLM has aborted it
    assert (answer.status, int(answer.headers["retry-after"]) >= 1) == (429, True)
    assert len(door.ask({"X-Fluidgate-Class": "batch"}).tokens()) == TOKENS


def test_metrics_and_state_are_on_the_server(door: Door) -> None:
    page = door.server.request("/metrics")[1]
    for outcome in ("passed", "refused", "expired", "bad_header", "limit", "channel_down"):
        assert re.search(rf'fluidgate_admission_requests_total{{.*outcome="{outcome}".*}} [1-9]', page), outcome
    assert "fluidgate_admission_predicted_wait_seconds_bucket" in page
    until(lambda: door.server.metrics()["fluidgate_admission_in_flight"] == 0)
    with door.engine_says():
        status, text = door.server.request("/fluidgate/state")
        report = json.loads(text)
        assert (status, report["expected_wait_s"], report["api_servers"]) == (200, 30.0, 1)
        assert report["load"] == pytest.approx((6.0 + report["turned_away_per_s"]) / 5.0)
        assert report["turned_away_per_s"] > 0


def until(true: Callable[[], bool]) -> None:
    """Wait; after a minute it is a fault, not a busy machine."""
    end_s = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end_s, "it did not come to that within a minute"
        time.sleep(0.01)
