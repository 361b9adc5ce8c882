"""The adapter for LiteLLM: what is gated, what refused clients are told, and what it reads of the proxy."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fluidgate.adapters.entrance import Refused
from fluidgate.errors import InputError

from .litellm_hooks import A, B, Proxy, books, deployment, held, needs_litellm, settled

needs_litellm()

from fluidgate.adapters import litellm as adapter  # noqa: E402
from fluidgate.adapters.litellm import FluidGate  # noqa: E402
from fluidgate.adapters.litellm_proxy import TurnedAway, server_of  # noqa: E402


def test_what_is_not_gated_passes_untouched(proxy: Proxy) -> None:
    others = [deployment("c", "other"), deployment("d", "other")]

    async def call(proxy: Proxy) -> Any:
        return await proxy.gate.async_filter_deployments("other", others, None, {})

    async def mixed(proxy: Proxy) -> Any:
        return await proxy.gate.async_filter_deployments("tiny", [A, others[0]], None, {})

    async def run() -> None:
        assert await proxy.ask(call) is others
        assert await proxy.ask(mixed) == [A, others[0]]
        assert await proxy.ask(
            lambda p: p.gate.async_filter_deployments("tiny", [A, B], None, {}), call_type="aembedding"
        )
        assert await proxy.gate.async_filter_deployments("tiny", [A, B], None, {}) == [A, B]  # LiteLLM's own call
        assert await proxy.ask(lambda p: p.gate.async_filter_deployments("tiny", [], None, {})) == []
        assert proxy.gate.entrance.ledger.came == 0

    asyncio.run(run())


def refuses(gate: FluidGate, retry_after_s: float) -> None:
    async def enter(*_: Any, **__: Any) -> str:
        raise Refused(retry_after_s)

    gate.entrance.enter = enter  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("retry_after_s", "code", "headers"),
    [(2.2, "429", {"Retry-After": "3"}), (0.0, "429", {"Retry-After": "1"}), (inf, "400", {})],
)
def test_a_refusal_tells_the_client_and_is_not_tried_again(
    proxy: Proxy, retry_after_s: float, code: str, headers: dict[str, str]
) -> None:
    in_router: list[int] = []

    async def call(proxy: Proxy) -> None:
        try:
            await proxy.route()
        except TurnedAway as refusal:
            in_router.append(refusal.status_code)
            raise

    async def run() -> None:
        refuses(proxy.gate, retry_after_s)
        with pytest.raises(TurnedAway, match="fluidgate refuses the request") as refusal:
            await proxy.ask(call)
        assert in_router == [400]
        assert (refusal.value.code, refusal.value.headers) == (code, headers)
        assert str(refusal.value.status_code) == code  # for LiteLLM's logs
        assert refusal.value.type == ("rate_limit_error" if code == "429" else "invalid_request_error")

    asyncio.run(run())


def test_headers_say_the_class_and_how_long_the_client_waits(proxy: Proxy) -> None:
    asked: list[Any] = []

    async def run() -> None:
        async def enter(name: str, tokens: int, class_id: int, *, timeout_s: float, again: bool) -> str:
            asked.append((class_id, timeout_s))
            raise Refused(1.0)

        proxy.gate.entrance.enter = enter  # type: ignore[method-assign]
        proxy.gate._planned = replace(proxy.gate._planned, classes=("chat", "code"))
        for headers in ({"x-request-timeout": "30", "X-Fluidgate-Class": "code"}, {}):
            with pytest.raises(TurnedAway):
                await proxy.ask(Proxy.route, proxy_server_request={"headers": headers})
        with pytest.raises(TurnedAway, match="X-Request-Timeout = 'soon' must be seconds") as refusal:
            await proxy.ask(Proxy.route, proxy_server_request={"headers": {"x-request-timeout": "soon"}})
        assert refusal.value.code == "400"
        (class_id, timeout_s), without = asked
        assert class_id == 1
        assert 29.0 < timeout_s <= 30.0
        assert without == (proxy.gate._planned.class_id(None), inf)

    asyncio.run(run())


def test_where_the_router_leaves_a_server_out_the_request_waits_for_another(proxy: Proxy) -> None:
    async def run() -> None:
        end, stream = await held(proxy, B)
        second = asyncio.ensure_future(proxy.ask(lambda p: p.route(B)))
        await settled()
        assert books(proxy.gate) == {"waiting": 1, "in_flight": 1}  # and a is free
        end.set()
        await stream
        assert await second == "b"

    asyncio.run(run())


def test_servers_come_and_go_with_the_list_of_the_router(proxy: Proxy) -> None:
    async def run() -> None:
        end, streams = await held(proxy, A)
        proxy.state.llm_router.model_list = [B, deployment("new")]
        assert await proxy.ask(lambda p: p.route(deployment("new"))) == "new"
        assert "a:8000" in proxy.gate.entrance.replicas  # it serves what it has
        end.set()
        await streams
        proxy.gate._read_router(at_once=True)
        assert set(proxy.gate.entrance.replicas) == {"b:8000", "new:8000"}
        assert books(proxy.gate) == {"served": 1, "left": 1}

    asyncio.run(run())


def test_what_keeps_it_from_working_is_said_once(proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    nowhere = {"model_name": "tiny", "litellm_params": {"model": "openai/gpt"}, "model_info": {"id": "x"}}
    proxy.state.llm_router = SimpleNamespace(model_list=[nowhere])
    proxy.state.general_settings = {}
    proxy.gate._models |= {"misspelt"}

    async def run() -> None:
        for _ in range(2):
            assert await proxy.ask(lambda p: p.gate.async_filter_deployments("tiny", [nowhere], None, {})) == [nowhere]

    with caplog.at_level("INFO", logger="fluidgate"):
        asyncio.run(run())
    said = [record.getMessage() for record in caplog.records if record.name == "fluidgate"]
    for words in (
        "misspelt, tiny wait",
        "no model group misspelt",
        "no api_base",
        "cancel_on_disconnect",
        "disable_cooldowns",
    ):
        assert sum(words in line for line in said) == 1, (words, said)


def test_one_server_under_several_spellings_is_one() -> None:
    for base in ("http://h:8000/v1", "http://h:8000/v1/", "http://h:8000", "http://user:word@h:8000/v1"):
        assert server_of({"litellm_params": {"api_base": base}}) == ("h:8000", "http://h:8000")
    assert server_of({"litellm_params": {"model": "openai/gpt"}}) == ("", "")


def test_the_gate_of_the_environment(plan_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter._from_environment.cache_clear()
    monkeypatch.setenv("FLUIDGATE_PLAN", str(plan_file))
    with pytest.raises(InputError, match="set FLUIDGATE_PLAN to a plan file and FLUIDGATE_MODELS to model groups"):
        _ = adapter.gate
    monkeypatch.setenv("FLUIDGATE_MODELS", "tiny, small")
    monkeypatch.setenv("FLUIDGATE_GATES", "two")
    with pytest.raises(InputError, match="FLUIDGATE_GATES=two: is no number"):
        _ = adapter.gate
    monkeypatch.setenv("FLUIDGATE_GATES", "2")
    assert adapter.gate is adapter.gate
    assert adapter.gate._models == {"tiny", "small"}
    assert not hasattr(adapter, "other")
    adapter._from_environment.cache_clear()


def test_a_gate_needs_a_model_group(plan_file: Path) -> None:
    with pytest.raises(InputError, match="the gate has no model group; name them as"):
        FluidGate(plan_file, [])
