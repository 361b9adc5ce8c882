"""Deadlines inside `vllm serve`, over HTTP: gate and middleware against clients that leave, beside stock vLLM.

`vllm bench serve` has no clients that leave, so that the load is made here.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .clients import GAVE_UP, LOST, SERVED, Ending, Wish, ask_all
from .conftest import RATE, ROUGH_STEP
from .plans import CLASSES, MEAN_OUTPUT, MEAN_PROMPT, SPREAD, write_plan
from .server import GATE, Server, served
from .tiny_model import VOCABULARY, write_tiny_model

SEATS, TIMEOUT_S = 4, 3.0
LOAD, LOADED_S, RETURNING_LOAD, RETURNING_S, TRIES = 3.0, 30.0, 2.0, 6.0, 6
"""Arrivals as a multiple of what stock vLLM completes per second with all requests there at once, and for how long."""
PROMPTS = 64
PLAIN = ["--max-num-seqs", str(SEATS), "--chat-template", "{% for m in messages %}{{ m.content }}{% endfor %}"]
WITH_ADMISSION = [*PLAIN, "--middleware", "fluidgate.serving.admission.Admission"]
ENDS = {SERVED, 429, 503, GAVE_UP}
ATTEMPTS = 5
"""At a moment at which all seats are taken and the queue is short enough for the door."""


@dataclass(frozen=True)
class Traffic:
    """Prompts and lengths of which every load is made."""

    prompts: list[list[int]]
    lengths: list[int]

    def body(self, number: int, model: str) -> dict[str, Any]:
        """A greedy completion."""
        k = number % len(self.prompts)
        what = {"prompt": self.prompts[k], "max_tokens": self.lengths[k]}
        return {"model": model, "temperature": 0, "ignore_eos": True, "return_token_ids": True, **what}

    def load(self, model: str, times_s: Sequence[float], timeout_s: float = TIMEOUT_S) -> list[Wish]:
        """Requests that come at these times."""
        return [Wish(at_s, self.body(k, model), timeout_s) for k, at_s in enumerate(times_s)]


@dataclass(frozen=True)
class Stock:
    """What stock vLLM does: each prompt's answer, requests per second if all are there, and endings in overload."""

    outputs: list[list[int]]
    per_s: float
    overload: list[Ending]


@dataclass(frozen=True)
class Gated:
    """A server with gate and middleware, and what it did: endings in overload, and of clients that come again."""

    server: Server
    overload: list[Ending]
    returning: list[list[Ending]]


def poisson(per_s: float, duration_s: float) -> list[float]:
    """Times of arrivals, seconds."""
    gaps = np.random.default_rng(2).exponential(1 / per_s, round(per_s * duration_s))
    return np.cumsum(gaps).tolist()


@pytest.fixture(scope="module")
def traffic() -> Traffic:
    """As `vllm bench serve` draws lengths."""
    rng = np.random.default_rng(1)
    prompts, lengths = (
        rng.integers(round(mean * (1 - SPREAD)), round(mean * (1 + SPREAD)), PROMPTS).tolist()
        for mean in (MEAN_PROMPT, MEAN_OUTPUT)
    )
    return Traffic([rng.integers(3, VOCABULARY, length).tolist() for length in prompts], lengths)


@pytest.fixture(scope="module")
def heavier(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model slow enough that the engine, not HTTP, is what a queue waits for."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "heavier", layers=8, heads=8)


@pytest.fixture(scope="module")
def stock(heavier: Path, traffic: Traffic) -> Stock:
    """Without gate and middleware."""
    with served(heavier, flags=PLAIN) as server:
        answers = ends(server, traffic.load(server.model, [0.0] * PROMPTS, timeout_s=600.0))
        per_s = PROMPTS / max(answer.after_s for answer in answers)
        loaded = ends(server, traffic.load(server.model, poisson(LOAD * per_s, LOADED_S)))
    return Stock([answer.tokens() for answer in answers], per_s, loaded)


@pytest.fixture(scope="module")
def start(heavier: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Any]:
    """Starts a server with gate and middleware; the folder of their channel stays the same."""
    folder = tmp_path_factory.mktemp("deadlines")
    policy = f"fluid:timeout_s={TIMEOUT_S},announced=true"
    plan = write_plan(folder / "plan.json", policy, rate=RATE, step=ROUGH_STEP)

    @contextmanager
    def started() -> Iterator[Server]:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("FLUIDGATE_STATE_DIR", str(folder / "state"))
            with served(heavier, GATE, plan=plan, flags=WITH_ADMISSION) as server:
                yield server

    return started


@pytest.fixture(scope="module")
def gated(start: Callable[[], Any], stock: Stock, traffic: Traffic) -> Iterator[Gated]:
    """The requests that stock vLLM got, and then clients that come again."""
    with start() as server:
        ends(server, traffic.load(server.model, poisson(stock.per_s / 2, 3.0)))
        loaded = ends(server, traffic.load(server.model, poisson(LOAD * stock.per_s, LOADED_S)))
        until_idle(server)
        come = poisson(RETURNING_LOAD * stock.per_s, RETURNING_S)
        returning = ask_all(server.url, traffic.load(server.model, come), tries=TRIES)
        yield Gated(server, loaded, returning)


def test_twice_as_many_are_served_in_time(stock: Stock, gated: Gated) -> None:
    shares = [share(SERVED, loaded) for loaded in (stock.overload, gated.overload)]
    assert shares[1] >= 2 * shares[0], shares


def test_few_wait_for_nothing(stock: Stock, gated: Gated) -> None:
    assert share(GAVE_UP, gated.overload) < 0.2 * share(GAVE_UP, stock.overload)


def test_every_request_ends_one_way_or_the_other(gated: Gated) -> None:
    hows = Counter(ending.how for ending in [*gated.overload, *(e for tries in gated.returning for e in tries)])
    assert set(hows) <= ENDS, hows
    until_idle(gated.server)
    page = gated.server.metrics()
    assert page["fluidgate_fallbacks_total"] == page["fluidgate_rebuilds_total"] == 0


def test_the_served_get_stock_vllms_tokens(stock: Stock, gated: Gated) -> None:
    answers = {k: ending.tokens() for k, ending in enumerate(gated.overload) if ending.how == SERVED}
    assert len(answers) > PROMPTS
    assert all(tokens == stock.outputs[k % PROMPTS] for k, tokens in answers.items())


def test_who_comes_again_when_told_to_is_served(gated: Gated) -> None:
    tried = [*gated.overload, *(ending for tries in gated.returning for ending in tries)]
    assert all(int(ending.headers["retry-after"]) >= 1 for how in (429, 503) for ending in of(how, tried))
    came_again = [tries for tries in gated.returning if len(tries) > 1]
    assert len(came_again) > 10
    second = [tries[1] for tries in came_again]
    assert share(SERVED, second) >= 0.9, Counter(ending.how for ending in second)


HURRIED = {"fluidgate_timeout": 0.2, "fluidgate_class": CLASSES[0]}
"""Of a class of their own, because a class learns how long its clients wait from what they say."""

CHAT = {"messages": [{"role": "user", "content": "w5 w6 w7 w8"}]}
TEXT = {"prompt": [5, 6, 7, 8]}
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "completion": ("/v1/completions", TEXT),
    "two prompts": ("/v1/completions", {"prompt": [[5, 6, 7], [6, 7, 8]]}),
    "n=2": ("/v1/completions", TEXT | {"n": 2}),
    "chat": ("/v1/chat/completions", CHAT),
    "chat n=2": ("/v1/chat/completions", CHAT | {"n": 2}),
    "response": ("/v1/responses", {"input": "w5 w6 w7 w8", "max_output_tokens": 60}),
}


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_engine_sheds_is_answered_with_the_reason(
    stock: Stock, gated: Gated, traffic: Traffic, stream: bool
) -> None:
    server, unseen = gated.server, set(ASKED)
    usual = {"model": server.model, "max_tokens": 60, "ignore_eos": True, "stream": stream, "vllm_xargs": HURRIED}
    full = traffic.load(server.model, [0.0] * (SEATS + 3) + [k / stock.per_s for k in range(1, round(stock.per_s))])
    for _ in range(ATTEMPTS):
        hurried = {name: Wish(0.5, usual | ASKED[name][1], 60.0, path=ASKED[name][0]) for name in unseen}
        answers = dict(zip(hurried, ends(server, [*hurried.values(), *full]), strict=False))
        assert {answer.how for answer in answers.values()} <= {SERVED, 429, 503}, answers
        assert all(answer.text.count("w") >= 60 for answer in of(SERVED, answers.values())), answers
        for name in {name for name, answer in answers.items() if answer.how == 503}:
            assert "could no longer be served in time" in json.loads(answers[name].text)["error"]["message"]
            assert int(answers[name].headers["retry-after"]) >= 1
            unseen.discard(name)
        until_idle(server)
        if not unseen:
            break
    assert not unseen


ABSURD = (-1, 0, 1e308, "soon", [1, 2], float("inf"), float("nan"), "9" * 100_000)
ABSURD_BODIES = [{key: value} for key in ("fluidgate_timeout", "fluidgate_ttft_timeout") for value in ABSURD]
ABSURD_HEADERS = [
    {name: value} for name in ("X-Request-Timeout", "X-TTFT-Timeout") for value in ("", "nan", "-1", "0x10", "9" * 5000)
] + [{"X-Fluidgate-Class": value} for value in ("", "a b", "\u0661", "x" * 5000)]


def test_absurd_deadlines_cost_nobody_anything(stock: Stock, gated: Gated, traffic: Traffic) -> None:
    server, body = gated.server, traffic.body(0, gated.server.model)
    before = server.metrics()["fluidgate_bad_hints_total"]
    for extra in ABSURD_BODIES:
        (answer,) = ends(server, [Wish(0.0, body | {"vllm_xargs": extra}, 60.0)])
        assert answer.tokens() == stock.outputs[0], answer
    assert server.metrics()["fluidgate_bad_hints_total"] == before + len(ABSURD_BODIES)
    (beyond_64_bits,) = ends(server, [Wish(0.0, body | {"vllm_xargs": {"fluidgate_timeout": 10**30}}, 60.0)])
    assert beyond_64_bits.how == 400  # vLLM's own answer
    for headers in ABSURD_HEADERS:
        (answer,) = ends(server, [Wish(0.0, body, 60.0, headers)])
        message = json.loads(answer.text)["error"]["message"]
        assert (answer.how, message.split()[0]) == (400, next(iter(headers))), answer
        assert len(message) < 200
    until_idle(server)


def test_kill_and_start_again(start: Callable[[], Any], gated: Gated, traffic: Traffic, stock: Stock) -> None:
    engine = state_of(gated.server)["engine"]["pid"]
    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(ends, gated.server, traffic.load(gated.server.model, [0.0] * SEATS, timeout_s=60.0))
        time.sleep(0.1)
        os.kill(engine, signal.SIGKILL)
        assert {ending.how for ending in asked.result()} <= {SERVED, 500, LOST}
    until(lambda: not answers(gated.server))
    with start() as server:
        assert state_of(server)["channel"] == "down"
        assert ends(server, traffic.load(server.model, [0.0], timeout_s=60.0))[0].tokens() == stock.outputs[0]
        assert state_of(server)["channel"] == "up"
        assert state_of(server)["engine"]["pid"] != engine
        loaded = ends(server, traffic.load(server.model, poisson(LOAD * stock.per_s, 6.0)))
        hows = Counter(ending.how for ending in loaded)
        assert set(hows) <= ENDS, hows
        assert hows[429] + hows[503] > hows[GAVE_UP]
        assert hows[SERVED] > 0
        until_idle(server)


def ends(server: Server, wishes: Sequence[Wish]) -> list[Ending]:
    """Of requests that come once."""
    return [tries[-1] for tries in ask_all(server.url, wishes)]


def share(how: int | str, endings: Collection[Ending]) -> float:
    """Of the endings."""
    return len(of(how, endings)) / len(endings)


def of(how: int | str, endings: Collection[Ending]) -> list[Ending]:
    """Those that ended so."""
    return [ending for ending in endings if ending.how == how]


def state_of(server: Server) -> dict[str, Any]:
    """What the middleware knows."""
    return dict(json.loads(server.request("/fluidgate/state")[1]))


def answers(server: Server) -> bool:
    """Whether anything listens there."""
    try:
        return server.request("/health", timeout_s=5.0)[0] == 200
    except OSError:
        return False


def until_idle(server: Server) -> None:
    """Neither vLLM, nor the gate's books, nor the middleware's hold a request."""

    def is_idle() -> bool:
        page, state = server.metrics(), state_of(server)
        in_vllm = page["vllm:num_requests_running"] + page["vllm:num_requests_waiting"]
        engine = state["engine"]
        return in_vllm == engine["running"] == engine["waiting"] == len(state["in_flight"]) == 0

    until(is_idle)


def until(true: Callable[[], bool]) -> None:
    """Wait; after a minute it is a fault, not a busy machine."""
    end_s = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end_s, "it did not come to that within a minute"
        time.sleep(0.05)
