"""`FluidGate`: the gate before the servers, as a callback of LiteLLM's proxy.

A request waits where LiteLLM's router lets callbacks narrow its deployments down (`async_filter_deployments`), and one
server remains. That is inside of the router's retries and fallbacks, and inside of what it cancels when a client goes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Collection, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from math import inf
from pathlib import Path
from typing import Any

from litellm.integrations.custom_logger import CustomLogger

from fluidgate.adapters.answers import tokens_of, usage_of
from fluidgate.adapters.entrance import Entrance, Refused
from fluidgate.adapters.litellm_proxy import (
    TurnedAway,
    in_proxy,
    let_it_be_heard,
    out_of_reach,
    say_what_is_gated,
    server_of,
    turned_away,
)
from fluidgate.adapters.metrics import gate_metrics
from fluidgate.adapters.planned import Planned
from fluidgate.adapters.prompts import PromptSizes
from fluidgate.adapters.watch import Watch
from fluidgate.errors import InputError
from fluidgate.serving.admission.headers import Asked, BadHeader, read_headers

GENERATE = ("acompletion", "atext_completion", "aresponses", "anthropic_messages")
"""What LiteLLM calls the requests that wait: chat, completions, responses and Anthropic's messages."""

BETWEEN_READINGS_S = 1.0
"""The router's list of deployments is read at most so often."""


@dataclass
class _Visit:
    """A client's request, through all its attempts; `attempt`: the name of the one at the gate or in flight, or ""."""

    request: Mapping[str, Any]
    came_s: float
    attempt: str = ""
    replica: str = ""
    failed: bool = False
    generated: int = 0
    usage: tuple[int, int] | None = None


class FluidGate(CustomLogger):
    """Lets requests of some model groups in, each to the one server that has room. It is not to be subclassed.

    Args:
        plan: plan file of every server, of policy `fluid`.
        models: the model groups whose deployments are such servers, by the names that clients use.
        gates: how many proxies (processes) have such a gate before these servers.
        total_blocks: KV blocks of a server that does not say how many it has; None: as planned.
        period_s: between two looks at the gauges of a server.

    Attributes:
        entrance: the gate with its books.

    Raises:
        InputError: no such plan, or no model group.
    """

    def __init__(
        self,
        plan: Path | str,
        models: str | Collection[str],
        *,
        gates: int = 1,
        total_blocks: int | None = None,
        period_s: float = 1.0,
    ) -> None:
        super().__init__()
        self._models = frozenset((models,) if isinstance(models, str) else models)
        if not self._models or "" in self._models:
            raise InputError(
                'the gate has no model group; name them as config.yaml does: FluidGate(…, models=["NAME"])'
            )
        self._planned = Planned.load(plan, total_blocks)
        self._planned.warm_up()
        self.entrance = Entrance(self._planned.gate(gates=gates), ends_are_told=True)
        self._watch = Watch(self.entrance, self._planned.replica, period_s=period_s)
        self._sizes = PromptSizes()
        self._visit: ContextVar[_Visit | None] = ContextVar("visit", default=None)
        self._visits = 0
        self._servers: dict[str, str] = {}
        self._read_s = -inf
        gate_metrics().add(",".join(sorted(self._models)), self.entrance)
        let_it_be_heard()

    # A request comes

    async def async_pre_call_hook(
        self, user_api_key_dict: Any, cache: Any, data: dict[str, Any], call_type: str
    ) -> None:
        """A request has come: whatever becomes of it, it is off the books when its task ends."""
        if call_type not in GENERATE:
            return
        visit = _Visit(data, self.entrance.now_s)
        self._visit.set(visit)
        if (task := asyncio.current_task()) is not None:
            task.add_done_callback(lambda _: self._leave(visit))

    async def async_filter_deployments(
        self,
        model: str,
        healthy_deployments: list[dict[str, Any]],
        messages: Any,
        request_kwargs: dict[str, Any] | None = None,
        parent_otel_span: Any = None,
    ) -> list[dict[str, Any]]:
        """Wait, and leave the router the one server to which the request may go.

        Raises:
            TurnedAway: it is not let in.
        """
        visit = self._visit.get()
        if visit is None:
            return healthy_deployments
        servers: dict[str, list[dict[str, Any]]] = {}
        for deployment in healthy_deployments:
            if deployment["model_name"] not in self._models:
                return healthy_deployments
            servers.setdefault(server_of(deployment)[0], []).append(deployment)
        self._read_router(at_once=not servers.keys() <= self._servers.keys())
        if not servers or not servers.keys() <= self._servers.keys():
            return healthy_deployments
        return servers[await self._enter(visit, servers)]

    async def _enter(self, visit: _Visit, servers: Collection[str]) -> str:
        asked = self._asked(visit)
        again = self._settle(visit)
        while True:
            self._visits += 1
            visit.attempt, visit.generated, visit.usage = f"{self._visits}", 0, None
            try:
                replica = await self.entrance.enter(
                    visit.attempt,
                    self._sizes.tokens(visit.request),
                    self._planned.class_id(asked.class_name),
                    timeout_s=self._left_s(visit, asked),
                    again=again,
                )
            except Refused as refused:
                visit.attempt = ""
                raise turned_away(refused) from None
            if replica in servers:
                visit.replica = replica
                return replica
            # The router would not send it there, for a while or for good.
            self.entrance.turn_back(visit.attempt)
            self.entrance.suspend(replica)
            again = True

    def _asked(self, visit: _Visit) -> Asked:
        headers = (visit.request.get("proxy_server_request") or {}).get("headers") or {}
        try:
            return read_headers((name.encode(), str(value).encode()) for name, value in headers.items())
        except BadHeader as problem:
            raise TurnedAway(str(problem), 400, "invalid_request_error") from None

    def _left_s(self, visit: _Visit, asked: Asked) -> float:
        return inf if asked.total_s is None else max(0.0, asked.total_s - (self.entrance.now_s - visit.came_s))

    def _settle(self, visit: _Visit) -> bool:
        """The router tries a request again, so its attempt before that has failed; whether there was one."""
        self._fail(visit)
        failed, visit.failed = visit.failed, False
        self.entrance.retried += failed
        return failed

    # An attempt ends

    async def async_post_call_failure_deployment_hook(
        self, request_data: Mapping[str, Any], exception: Exception, call_type: Any, fallback_depth: int | None = None
    ) -> None:
        """An attempt has failed; the router may try another."""
        if (visit := self._visit.get()) is not None:
            self._fail(visit, exception)

    async def async_post_call_success_deployment_hook(
        self, request_data: dict[str, Any], response: Any, call_type: Any
    ) -> None:
        """An attempt has its answer, if it is not a stream."""
        if (visit := self._visit.get()) is not None and (usage := usage_of(response)) is not None:
            self._end(visit, usage)

    async def async_post_call_success_hook(self, data: dict[str, Any], user_api_key_dict: Any, response: Any) -> None:
        """A request has its answer, and it is not a stream."""
        if (visit := self._visit.get()) is not None:
            self._end(visit, usage_of(response))

    async def async_post_call_failure_hook(
        self,
        request_data: dict[str, Any],
        original_exception: Exception,
        user_api_key_dict: Any,
        traceback_str: str | None = None,
    ) -> None:
        """A request is answered with an error, or nobody is there to get it."""
        visit = self._visit.get()
        if isinstance(original_exception, TurnedAway):
            original_exception.status_code = int(original_exception.code)  # the router is through; logs show this
        elif visit is not None and getattr(original_exception, "status_code", None) == 499:
            self._leave(visit)
        elif visit is not None:
            self._fail(visit, original_exception)

    async def async_post_call_streaming_iterator_hook(
        self, user_api_key_dict: Any, response: AsyncIterator[Any], request_data: dict[str, Any]
    ) -> AsyncIterator[Any]:
        """Count the tokens of a stream as they pass."""
        visit = self._visit.get() or _Visit({}, 0.0)
        try:
            async for chunk in response:
                self._see(visit, chunk)
                yield chunk
        except (asyncio.CancelledError, GeneratorExit):
            self._leave(visit)
            raise
        except Exception as error:
            self._fail(visit, error)
            raise
        self._end(visit, visit.usage)

    def _see(self, visit: _Visit, chunk: Any) -> None:
        if not visit.attempt:
            return
        visit.usage = usage_of(chunk) or visit.usage
        visit.generated += tokens_of(chunk)
        self.entrance.note_tokens(visit.attempt, visit.generated)

    def _end(self, visit: _Visit, usage: tuple[int, int] | None) -> None:
        attempt, visit.attempt = visit.attempt, ""
        if not attempt:
            return
        if usage is not None:
            self._sizes.learn(visit.request, usage[0])
        self.entrance.end(attempt, usage[1] if usage else visit.generated or None)

    def _fail(self, visit: _Visit, error: BaseException | None = None) -> None:
        attempt, visit.attempt = visit.attempt, ""
        if not attempt:
            return
        visit.failed = True
        if out_of_reach(error):
            self.entrance.suspend(visit.replica)  # until it answers the watch
        self.entrance.fail(attempt)

    def _leave(self, visit: _Visit) -> None:
        attempt, visit.attempt = visit.attempt, ""
        self.entrance.leave(attempt)

    # The router

    def _read_router(self, *, at_once: bool) -> None:
        """Look at the servers of all deployments, those included that the router leaves out for a while."""
        if self.entrance.now_s < self._read_s + BETWEEN_READINGS_S and not at_once:
            return
        deployments = [one for one in in_proxy("llm_router").model_list if one["model_name"] in self._models]
        listed = dict(map(server_of, deployments))
        listed.pop("", None)
        for name in set(self.entrance.in_flight.values()) - listed.keys():
            listed[name] = self._servers[name]  # one that is off the list serves what it has
        self._watch.set_servers(listed)
        self._servers = listed
        if self._read_s == -inf:
            say_what_is_gated(self._models, deployments)
        self._read_s = self.entrance.now_s


@cache
def _from_environment() -> FluidGate:
    plan, models = os.environ.get("FLUIDGATE_PLAN", ""), os.environ.get("FLUIDGATE_MODELS", "")
    if not plan or not models:
        raise InputError(
            "fluidgate.adapters.litellm.gate is made from the environment: set FLUIDGATE_PLAN to a plan file and "
            "FLUIDGATE_MODELS to model groups, with commas between them"
        )
    gates = os.environ.get("FLUIDGATE_GATES", "1")
    if not gates.isdecimal():
        raise InputError(f"FLUIDGATE_GATES={gates}: is no number; set it to how many proxies have such a gate")
    return FluidGate(plan, [name.strip() for name in models.split(",")], gates=int(gates))


def __getattr__(name: str) -> FluidGate:
    """`gate`: the one that the environment describes, for `callbacks: fluidgate.adapters.litellm.gate`."""
    if name != "gate":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _from_environment()
