"""LiteLLM's hooks, called as its proxy calls them: who waits, where each goes, and that the books always close."""

from __future__ import annotations

import asyncio

import pytest

from .litellm_hooks import USAGE, A, Proxy, books, broken, chunks, held, needs_litellm, settled

httpx = needs_litellm()

from fluidgate.adapters.litellm_proxy import out_of_reach  # noqa: E402


def test_each_goes_to_the_server_with_room_and_the_next_waits(proxy: Proxy) -> None:
    async def run() -> None:
        (end_a, first), (_, second) = await held(proxy), await held(proxy)
        assert set(proxy.gate.entrance.in_flight.values()) == {"a:8000", "b:8000"}
        third = asyncio.ensure_future(proxy.ask(Proxy.route))
        await settled()
        assert books(proxy.gate) == {"waiting": 1, "in_flight": 2}
        end_a.set()
        assert len(await first) == 4
        assert await third == "a"
        second.cancel()
        await settled()
        assert books(proxy.gate) == {"served": 1, "left": 2}  # the third has ended without a word

    asyncio.run(run())


def test_an_answer_ends_with_its_usage_and_prompts_are_learned_from_it(proxy: Proxy) -> None:
    ended: list[int | None] = []

    async def call(proxy: Proxy) -> None:
        await proxy.route()
        await proxy.gate.async_post_call_success_deployment_hook({}, {"usage": USAGE}, None)
        await proxy.gate.async_post_call_success_hook({}, None, {"usage": USAGE})

    async def run() -> None:
        end = proxy.gate.entrance.end
        proxy.gate.entrance.end = lambda name, generated=None: ended.append(generated) or end(name, generated)
        before = proxy.gate._sizes.tokens("word " * 6400)
        for _ in range(300):
            await proxy.ask(call)
        assert ended == [3] * 300
        assert books(proxy.gate) == {"served": 300}
        after = proxy.gate._sizes.tokens("word " * 6400)
        assert 6400 < after < before  # five characters a token, where the beginning says four

    asyncio.run(run())


def test_the_tokens_of_a_stream_are_told_as_they_pass(proxy: Proxy) -> None:
    seen: list[int] = []
    ended: list[int | None] = []

    async def run() -> None:
        proxy.gate.entrance.note_tokens = lambda name, generated: seen.append(generated)
        end = proxy.gate.entrance.end
        proxy.gate.entrance.end = lambda name, generated=None: ended.append(generated) or end(name, generated)

        async def call(proxy: Proxy) -> None:
            await proxy.route()
            await proxy.stream(chunks(4))

        await proxy.ask(call)
        assert seen == [1, 2, 3, 4, 4]
        assert ended == [3]  # as the usage says

    asyncio.run(run())


@pytest.mark.parametrize("kind", [httpx.ConnectError, httpx.RemoteProtocolError, ConnectionRefusedError])
def test_a_retry_goes_elsewhere_where_the_server_is_out_of_reach(proxy: Proxy, kind: type[Exception]) -> None:
    async def call(proxy: Proxy) -> tuple[str, str]:
        first = await proxy.route()
        await proxy.gate.async_post_call_failure_deployment_hook({}, broken(kind), None)
        second = await proxy.route()
        await proxy.gate.async_post_call_success_hook({}, None, {"usage": USAGE})
        return first, second

    async def run() -> None:
        first, second = await proxy.ask(call)
        assert first != second
        assert books(proxy.gate) == {"failed": 1, "retried": 1, "served": 1}
        streams = [await held(proxy), await held(proxy)]
        assert list(proxy.gate.entrance.in_flight.values()) == [f"{second}:8000"]  # one waits
        proxy.gate.entrance.resume(f"{first}:8000")
        assert set(proxy.gate.entrance.in_flight.values()) == {"a:8000", "b:8000"}
        for end, stream in streams:
            end.set()
            await stream

    asyncio.run(run())


def test_a_retry_goes_before_those_that_wait(proxy: Proxy) -> None:
    fails = asyncio.Event()

    async def call(proxy: Proxy) -> None:
        await proxy.route()
        await fails.wait()
        await proxy.gate.async_post_call_failure_deployment_hook({}, broken(httpx.ConnectError), None)
        order.append(await proxy.route())

    async def waits(proxy: Proxy) -> None:
        order.append("waited for " + await proxy.route())

    async def run() -> None:
        retried = asyncio.ensure_future(proxy.ask(call))
        await settled()
        end, stream = await held(proxy)
        waiting = asyncio.ensure_future(proxy.ask(waits))
        await settled()
        fails.set()
        await settled()
        assert books(proxy.gate) == {"waiting": 2, "in_flight": 1, "failed": 1, "retried": 1}
        end.set()
        await asyncio.gather(retried, stream, waiting)
        assert order == ["b", "waited for b"]

    order: list[str] = []
    asyncio.run(run())


def test_an_error_of_the_server_itself_does_not_put_it_aside(proxy: Proxy) -> None:
    async def call(proxy: Proxy) -> None:
        await proxy.route(A)
        await proxy.gate.async_post_call_failure_deployment_hook({}, RuntimeError("500"), None)
        raise RuntimeError("500")

    async def run() -> None:
        with pytest.raises(RuntimeError, match="500"):
            await proxy.ask(call)
        assert books(proxy.gate) == {"failed": 1}
        assert await proxy.ask(lambda p: p.route(A)) == "a"

    asyncio.run(run())


def test_an_attempt_of_which_nothing_was_heard_has_failed_when_the_next_comes(proxy: Proxy) -> None:
    async def call(proxy: Proxy) -> None:
        await proxy.route()
        await proxy.route()
        await proxy.stream(chunks(1))

    async def run() -> None:
        await proxy.ask(call)
        assert books(proxy.gate) == {"failed": 1, "retried": 1, "served": 1}

    asyncio.run(run())


def test_a_request_whose_server_was_lost_meanwhile_is_counted_once(proxy: Proxy) -> None:
    async def call(proxy: Proxy) -> None:
        lost = await proxy.route()
        proxy.gate.entrance.lose(f"{lost}:8000")
        await proxy.gate.async_post_call_failure_deployment_hook({}, broken(httpx.ReadError), None)
        assert await proxy.route() != lost
        await proxy.stream(chunks(1))

    async def run() -> None:
        await proxy.ask(call)
        assert books(proxy.gate) == {"failed": 1, "retried": 1, "served": 1}

    asyncio.run(run())


def test_a_stream_that_ends_after_its_server_was_lost_is_served(proxy: Proxy) -> None:
    async def run() -> None:
        end, stream = await held(proxy, A)
        proxy.gate.entrance.lose("a:8000")
        end.set()
        await stream
        assert books(proxy.gate) == {"served": 1}

    asyncio.run(run())


def test_a_stream_that_breaks_off_has_failed(proxy: Proxy) -> None:
    async def call(proxy: Proxy) -> None:
        await proxy.route(A)
        await proxy.stream(chunks(2, broken(httpx.ReadError)))

    async def run() -> None:
        with pytest.raises(RuntimeError, match="InternalServerError"):
            await proxy.ask(call)
        assert books(proxy.gate) == {"failed": 1}
        streams = [await held(proxy), await held(proxy)]
        assert list(proxy.gate.entrance.in_flight.values()) == ["b:8000"]  # one waits
        for _, stream in streams:
            stream.cancel()

    asyncio.run(run())


def test_clients_that_go_leave_the_books_wherever_they_were(proxy: Proxy) -> None:
    async def run() -> None:
        streams = [await held(proxy), await held(proxy)]
        waits = asyncio.ensure_future(proxy.ask(Proxy.route))
        await settled()
        for task in (waits, streams[0][1]):
            task.cancel()
        await settled()
        assert books(proxy.gate) == {"left": 2, "in_flight": 1}

        async def gone(proxy: Proxy) -> None:
            await proxy.route()
            error = RuntimeError("Client disconnected the request")
            error.status_code = 499  # type: ignore[attr-defined]
            raise error

        with pytest.raises(RuntimeError, match="disconnected"):
            await proxy.ask(gone)
        assert books(proxy.gate) == {"left": 3, "in_flight": 1}
        streams[1][0].set()
        await streams[1][1]

    asyncio.run(run())


def test_a_timeout_is_no_sign_that_a_server_is_out_of_reach() -> None:
    assert not out_of_reach(broken(httpx.ReadTimeout))
    assert not out_of_reach(None)
