"""`Admission`: the middleware, which asks the judge and carries its decision out."""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from collections.abc import Callable, Mapping
from http import HTTPStatus
from math import exp
from typing import Any

from fluidgate.serving.admission.asgi import (
    STATE_PATH,
    App,
    Headers,
    Message,
    Receive,
    Scope,
    Send,
    answer,
    encoded,
    route,
)
from fluidgate.serving.admission.decision import Decision, Forecast, Judge
from fluidgate.serving.admission.doors import TURNED_AWAY, Doors, Rate
from fluidgate.serving.admission.endpoints import ENDPOINTS, Endpoint
from fluidgate.serving.admission.exchange import Exchange
from fluidgate.serving.admission.headers import (
    EXPECTED_WAIT,
    LONGEST_ID,
    POSITION,
    REQUEST_ID,
    TOTAL,
    TTFT,
    Asked,
    BadHeader,
    read_headers,
)
from fluidgate.serving.admission.limits import OTHER, class_limits
from fluidgate.serving.admission.metrics import admission_metrics
from fluidgate.serving.admission.waiting import Waiting
from fluidgate.serving.gate_state import SECONDS_BETWEEN_READS, GateState, StateReader
from fluidgate.serving.pulse import WINDOW_S

logger = logging.getLogger("vllm.fluidgate")


class Admission:
    """Refuses requests that cannot be started in time, and ends those that expire in the queue.

    Args:
        app: what answers the others.
        reader: of the engines' state; None: of the environment's files.
        limits: requests in flight by class; None: FLUIDGATE_LIMITS.
        clock: seconds of a clock that never jumps.

    Raises:
        InputError: FLUIDGATE_LIMITS is not usable.
    """

    def __init__(
        self,
        app: App,
        *,
        reader: StateReader | None = None,
        limits: Mapping[str, int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app, self._clock = app, clock
        self._reader = reader or StateReader()
        limits = class_limits(os.environ) if limits is None else limits
        self._doors = Doors(sorted(limits), self._reader.where)
        self._turned_away = Rate()
        self._judge = Judge(limits, self._doors)
        self._waiting = Waiting()
        self._state: GateState | None = None
        self._state_s = 0.0
        self._has_warned = False
        self._watch: asyncio.Task[None] | None = None
        self._metrics = admission_metrics()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection, as ASGI has it."""
        if scope["type"] == "http":
            path = route(scope)
            if path in ENDPOINTS and scope["method"] == "POST":
                return await self._guard(ENDPOINTS[path], scope, receive, send)
            if path == STATE_PATH and scope["method"] in ("GET", "HEAD"):
                return await answer(send, HTTPStatus.OK, self._report())
        return await self._app(scope, receive, send)

    def look(self, *, at_once: bool = False) -> None:
        """Learn the engines' state, and end the requests that they have shed and those whose time is over."""
        now_s = self._clock()
        self._doors.scan(now_s)
        self._turned_away.beat(now_s, self._doors.total(TURNED_AWAY))
        state = self._reader.read(now_s, at_once=at_once)
        if state is None:
            self._warn()
        elif state is not self._state:
            if self._has_warned:
                logger.info("fluidgate: the engine tells its state again")
                self._has_warned = False
            self._state_s = now_s
            self._judge.update(state, self._reader.unchanged_until_s)
            for exchange, reason in self._waiting.shed(state):
                self._answer_shed(exchange, reason, state, now_s)
        self._state = state
        for exchange in self._waiting.overdue(now_s):
            _expire_if_due(exchange, now_s)

    def _answer_shed(self, exchange: Exchange, reason: str, state: GateState, now_s: float) -> None:
        """The engine has given a request up: say why, and when to come again."""
        if exchange.is_answered:
            return exchange.cut(f"{reason}.")
        if exchange.is_expired:
            return None
        retry_s = self._judge.retry_after_shed(exchange.asked, state, now_s)
        headers = [_retry_after(retry_s), *_id_header(exchange.asked)]
        return exchange.expire(f"{reason}; come again in {retry_s} s.", headers)

    async def _guard(self, endpoint: Endpoint, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            asked = read_headers(scope["headers"])
        except BadHeader as problem:
            self._metrics.count(OTHER, "bad_header")
            content = endpoint.error(HTTPStatus.BAD_REQUEST, str(problem), problem.name)
            return await answer(send, HTTPStatus.BAD_REQUEST, content)
        self.look()
        decision = self._judge.decide(asked, self._state, self._clock())
        self._metrics.count(decision.class_name, decision.outcome)
        if decision.forecast is not None and decision.forecast.wait_s is not None:
            self._metrics.predicted_wait.observe(decision.forecast.wait_s)
        if not decision.passes:
            return await _refuse(send, endpoint, asked, decision)
        exchange = Exchange(receive, send, endpoint, asked, _forecast_headers(decision.forecast), self._clock())
        name = self._name_for(endpoint, asked)
        if not asked.brings_id or name != asked.request_id:
            scope = {**scope, "headers": [*_without_id(scope["headers"]), *encoded([(REQUEST_ID, name)])]}
        await self._serve(scope, exchange, decision, name)

    def _name_for(self, endpoint: Endpoint, asked: Asked) -> str:
        """The request's id for vLLM: its own, or a longer one if another may have that too: one of them may be shed."""
        name = asked.request_id
        if self._waiting.knows(endpoint, name) or (asked.brings_id and len(self._doors) > 1):
            return f"{name[: LONGEST_ID - 9]}-{uuid.uuid4().hex[:8]}"
        return name

    async def _serve(self, scope: Scope, exchange: Exchange, decision: Decision, name: str) -> None:
        """Let vLLM answer, and watch over it to its end."""

        async def send(message: Message) -> None:
            if exchange.holds_back(message):
                self._learn_name(exchange, message)
                _expire_if_due(exchange, self._clock())  # now that it shows whether it is streamed
                return
            if not exchange.is_answered:
                self.look(at_once=True)  # what was shed is written before vLLM ends its answer
                self._learn_name(exchange, message)
                if not exchange.is_expired:
                    self._first_byte(exchange, decision)
            elif exchange.may_end(message):
                self.look(at_once=True)
            if not exchange.is_expired:
                await exchange.send(message)

        self._judge.entered(exchange, decision.class_name, exchange.came_s)
        self._in_flight(decision.class_name)
        self._waiting.add(exchange)
        if not exchange.endpoint.is_named_by_answer:
            self._waiting.name(exchange, name)
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._watch_waiting())
        try:
            await self._app(scope, exchange.receive, send)
            await exchange.flush()
        finally:
            self._waiting.remove(exchange)
            self._judge.ended(exchange, decision.class_name, self._clock() - exchange.came_s)
            self._in_flight(decision.class_name)
            if exchange.is_expired:
                self._metrics.count(decision.class_name, "expired")
            await exchange.close()

    def _learn_name(self, exchange: Exchange, message: Message) -> None:
        """What the request is called in the engine, where only its answer says so; it may have been shed already."""
        if not self._waiting.is_nameless(exchange, ends=not exchange.is_streamed):
            return
        name = exchange.name_in(message)
        reason = None if name is None else self._waiting.name(exchange, name)
        if reason is not None and self._state is not None:
            self._answer_shed(exchange, reason, self._state, self._clock())

    def _first_byte(self, exchange: Exchange, decision: Decision) -> None:
        self._waiting.answered(exchange)
        self._judge.answered(exchange)
        forecast = decision.forecast
        if exchange.is_streamed and forecast is not None and forecast.wait_s is not None:
            self._metrics.prediction_error.observe(self._clock() - exchange.came_s - forecast.wait_s)

    def _in_flight(self, class_name: str) -> None:
        self._metrics.in_flight.labels(class_name).set(self._judge.in_flight[class_name])

    async def _watch_waiting(self) -> None:
        while self._waiting:
            await asyncio.sleep(SECONDS_BETWEEN_READS)
            self.look()

    def _warn(self) -> None:
        if not self._has_warned:
            logger.warning(
                "fluidgate lets every request pass until the engine tells its state again: %s", self._reader.problem
            )
        self._has_warned = True

    def _report(self) -> dict[str, Any]:
        """What is known now; no ids of requests."""
        self.look()
        state, in_flight = self._state, {name: count for name, count in self._judge.in_flight.items() if count}
        here = {"in_flight": in_flight, "api_servers": len(self._doors)}
        if state is None:
            return {"channel": "down", "problem": self._reader.problem, **here}
        forecast, offered_per_s = self._judge.forecast(state), self._offered_per_s(state)
        return {
            "channel": "up",
            "engine": {name: value for name, value in vars(state).items() if name != "recent_sheds"},
            "turned_away_per_s": self._turned_away.per_s,
            "load": offered_per_s / state.boundary_per_s if state.boundary_per_s > 0 else None,
            "position": forecast.position,
            "expected_wait_s": forecast.wait_s,
            **here,
        }

    def _offered_per_s(self, state: GateState) -> float:
        """What has come lately: what has reached the engine, which is silent while it is idle, and what was refused."""
        silent_s = self._clock() - self._state_s if state.is_idle else 0.0
        return state.arrivals_per_s * exp(-silent_s / WINDOW_S) + self._turned_away.per_s


async def _refuse(send: Send, endpoint: Endpoint, asked: Asked, decision: Decision) -> None:
    """Answer 429, with when to come again and the id that keeps the place."""
    status = HTTPStatus.TOO_MANY_REQUESTS
    headers = [_retry_after(decision.retry_s), *_id_header(asked), *_forecast_headers(decision.forecast)]
    content = endpoint.error(status, f"{decision.reason}; come again in {decision.retry_s} s.")
    await answer(send, status, content, headers)


def _retry_after(seconds: int) -> tuple[bytes, bytes]:
    return b"retry-after", b"%d" % seconds


def _id_header(asked: Asked) -> Headers:
    return encoded([(REQUEST_ID, asked.request_id)])


def _without_id(headers: Headers) -> Headers:
    return [(name, value) for name, value in headers if name.lower() != REQUEST_ID.lower().encode()]


def _forecast_headers(forecast: Forecast | None) -> Headers:
    if forecast is None:
        return []
    headers = [(POSITION, str(forecast.position))]
    if forecast.wait_s is not None:
        headers.append((EXPECTED_WAIT, f"{forecast.wait_s:.3f}"))
    return encoded(headers)


def _expire_if_due(exchange: Exchange, now_s: float) -> None:
    """Expire a request whose time is over.

    An answer that is not streamed has its first byte with its last, so that its first token's time does not show.
    """
    if exchange.due_s is not None and exchange.due_s <= now_s:
        exchange.expire(f"no token came within the {exchange.due_s - exchange.came_s:g} s of {TOTAL}.")
    elif exchange.first_byte_due_s is not None and exchange.first_byte_due_s <= now_s and exchange.is_streamed:
        exchange.expire(f"no token came within the {exchange.first_byte_due_s - exchange.came_s:g} s of {TTFT}.")
