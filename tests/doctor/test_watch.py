"""Servers over time, on pages that a test hands over instead of a network."""

from __future__ import annotations

from typing import Any

import pytest

from fluidgate.doctor import Watch, live
from fluidgate.doctor.binding import Limit
from fluidgate.doctor.watch import trend
from fluidgate.errors import InputError
from fluidgate.vllm_metrics import Address, Scrape

from .pages import page

Pages = dict[str, list[str | InputError]]


def grown(by: int, **changes: Any) -> str:
    """A page on which `by` more requests finished."""
    many = 100 + by
    counted: dict[str, Any] = {"finished": many, "prompts": (100,) * many, "outputs": (50,) * many}
    return page(**(counted | changes))


def watch(monkeypatch: pytest.MonkeyPatch, pages: Pages, **limits: int) -> Watch:
    """Each look takes the next page of every server, one second later."""
    clock = dict.fromkeys(pages, 1000.0)

    def fetched(address: Address) -> list[Scrape]:
        host = address.url.removeprefix("http://")
        clock[host] += 1.0
        text = pages[host].pop(0)
        if isinstance(text, InputError):
            raise text
        return Scrape.servers(text, address.url, taken_s=clock[host])

    monkeypatch.setattr(live, "fetch_all", fetched)
    monkeypatch.setattr(live, "fetch_version", lambda address: "0.33.0")
    return Watch([Address.of(f"http://{host}") for host in pages], **limits)


def test_each_look_says_what_happened_since_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 requests a second of 150 tokens, 3 of them evicted once."""
    pages: Pages = {"a": [page(), grown(10, preemptions=3, kv_use=0.97, waiting=20)]}
    watched = watch(monkeypatch, pages)
    first, second = watched.look(), watched.look()
    assert (first.rate, first.tokens_per_s, first.preemptions) == (None, None, None)
    assert (second.rate, second.tokens_per_s, second.preemptions) == (30.0, 1500.0, 3)  # 20 of them wait
    assert (second.running, second.waiting, second.kv_high) == (8, 20, 0.97)
    assert (first.limit, second.limit) == (Limit.NONE, Limit.MEMORY)
    (facts,), unread = watched.facts()
    assert (facts.window_s, facts.finished, facts.preemptions, unread) == (1.0, 10, 3, [])
    assert (facts.version, facts.release) == ("0.33.0", (0, 33))


def test_several_servers_are_one_line_and_shares_of_kv_a_range(monkeypatch: pytest.MonkeyPatch) -> None:
    pages: Pages = {"a": [page(kv_use=0.2), grown(10, kv_use=0.3)], "b": [page(kv_use=0.5), grown(5, kv_use=0.6)]}
    watched = watch(monkeypatch, pages)
    watched.look()
    look = watched.look()
    assert (look.servers, look.running, look.kv_low, look.kv_high) == (2, 16, 0.3, 0.6)
    assert look.rate == pytest.approx(15.0)
    assert len(watched.facts()[0]) == 2


def test_limits_that_are_told_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = {"waiting": 20, "kv_use": 0.4}
    looks = [
        [watched.look() for _ in range(2)][1].limit
        for limits in ({}, {"max_num_seqs": 8})
        for watched in [watch(monkeypatch, {"a": [page(), grown(5, **queue)]}, **limits)]
    ]
    assert looks == [Limit.UNKNOWN, Limit.SEATS]


def test_a_restart_and_a_silence_are_remarks_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = InputError("http://b: no answer")
    pages: Pages = {
        "a": [grown(50), page(), grown(7)],
        "b": [page(), gone, gone],
    }
    watched = watch(monkeypatch, pages)
    watched.look()
    restarted = watched.look()
    assert (restarted.restarted, restarted.missed, restarted.servers) == (("http://a",), 1, 1)
    assert restarted.rate is None, "what a restart took away is not known"
    assert watched.look().rate == 7.0
    servers, unread = watched.facts()
    assert [facts.finished for facts in servers] == [7, 100], "since the restart, and since the start"
    assert unread == []


def test_no_server_at_the_first_look_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no answer"):
        watch(monkeypatch, {"a": [InputError("http://a: no answer")]}).look()


def test_a_page_that_cannot_be_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = watch(monkeypatch, {"a": [page(), page(kv_use=7.0)]})
    watched.look()
    with pytest.raises(InputError, match="must be a share of at most 1"):
        watched.look()


def test_the_trend_compares_the_first_third_with_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = [0, 2, 4, 10, 20, 30, 40, 50, 60]
    pages: Pages = {"a": [grown(10 * at, waiting=count, kv_use=count / 100) for at, count in enumerate(waiting)]}
    watched = watch(monkeypatch, pages)
    for _ in waiting:
        watched.look()
    told = trend(watched.looks)
    assert told is not None
    assert told.startswith("From the first third of 9 looks in 8 s to the last: running 8 to 8, waiting 2 to 50, ")
    assert "the fullest KV cache 2% to 50%, arrivals 12 to 20 req/s." in told
    assert trend(watched.looks[:2]) is None


def test_what_lies_between_is_kept_as_moments_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = watch(monkeypatch, {"a": [grown(at, running=at) for at in range(1, 6)]})
    for _ in range(5):
        watched.look()
    (facts,), _ = watched.facts()
    assert [moment.running for moment in facts.moments] == [1, 2, 3, 4, 5]
    assert facts.window_s == 4.0
