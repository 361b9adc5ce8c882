"""The gate on an event loop: who waits, who goes, and that the ledger always adds up."""

from __future__ import annotations

import asyncio
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluidgate.adapters.entrance import Entrance, Refused
from fluidgate.fleet import FleetGate, Gauges, Replica
from fluidgate.policies import Fluid

EVEN = Fluid(output_quantiles=tuple(float(n) for n in range(50, 450, 8)), prompt_tokens=(64.0,))
"""A prior with which lengths are spread so evenly that nothing is paced."""


class Clock:
    """Seconds that pass when the test says so."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def entrance_of(*names: str, blocks: int = 400, seats: int = 2, ends_are_told: bool = False) -> Entrance:
    entrance = Entrance(FleetGate((), EVEN), Clock(), ends_are_told=ends_are_told)
    for name in names:
        entrance.add(Replica(name, blocks, 16, seats))
    return entrance


def asked(entrance: Entrance, *names: str, **more: float) -> list[asyncio.Task[str]]:
    return [asyncio.ensure_future(entrance.enter(name, 64, **more)) for name in names]  # type: ignore[arg-type]


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def adds_up(entrance: Entrance) -> bool:
    ledger, waiting = entrance.ledger, entrance.state().waiting
    ended = ledger.served + ledger.failed + ledger.left + ledger.refused
    held = sum(replica.in_flight for replica in entrance.state().replicas)
    return ledger.came == waiting + len(entrance.in_flight) + ended and held == len(entrance.in_flight) - len(
        entrance._adrift
    )


def test_who_finds_a_seat_goes_at_once_and_others_when_one_is_free() -> None:
    async def run() -> None:
        entrance = entrance_of("a", "b", seats=1)
        tasks = asked(entrance, "1", "2", "3", "4")
        await settled()
        assert [task.result() for task in tasks[:2]] == ["a", "b"]
        assert not tasks[2].done()
        entrance.note_tokens("2", 7)
        entrance.end("2")
        assert await tasks[2] == "b"
        entrance.fail("1")
        assert await tasks[3] == "a"
        assert entrance.in_flight == {"3": "b", "4": "a"}
        assert (entrance.ledger.served, entrance.ledger.failed) == (1, 1)
        assert adds_up(entrance)

    asyncio.run(run())


def test_who_stops_waiting_leaves_the_queue_and_frees_what_it_was_given() -> None:
    async def run() -> None:
        entrance = entrance_of("a", seats=1)
        first, second, third = asked(entrance, "1", "2", "3")
        await settled()
        second.cancel()
        await settled()
        assert entrance.ledger.left == 1
        entrance.end("1", 5)
        third.cancel()  # in the very turn in which it was let in
        await settled()
        assert first.done()
        assert third.cancelled()
        assert entrance.in_flight == {}
        assert entrance.ledger.left == 2
        assert adds_up(entrance)

    asyncio.run(run())


def test_what_no_replica_holds_is_refused_for_good() -> None:
    async def run() -> None:
        entrance = entrance_of("a", blocks=4)
        with pytest.raises(Refused, match="no replica holds so long a prompt") as refused:
            await entrance.enter("long", 65)
        assert refused.value.retry_after_s == inf
        assert entrance.ledger.refused == 1
        assert adds_up(entrance)

    asyncio.run(run())


def test_without_replicas_all_wait_for_the_first() -> None:
    async def run() -> None:
        entrance = entrance_of(seats=1)
        tasks = asked(entrance, "1", "2")
        await settled()
        assert not any(task.done() for task in tasks)
        entrance.add(Replica("a", 400, 16, 2))
        assert await asyncio.gather(*tasks) == ["a", "a"]

    asyncio.run(run())


def test_what_a_lost_replica_had_has_failed_and_others_go_on() -> None:
    async def run() -> None:
        entrance = entrance_of("a", "b", seats=1)
        tasks = asked(entrance, "1", "2", "3")
        await settled()
        entrance.lose("a")
        entrance.lose("a")
        assert entrance.ledger.failed == 1
        entrance.end("1")  # told late: it has failed already
        assert (entrance.ledger.served, entrance.in_flight) == (0, {"2": "b"})
        entrance.add(Replica("a", 400, 16, 1))
        assert await tasks[2] == "a"
        assert adds_up(entrance)

    asyncio.run(run())


def test_what_a_lost_replica_had_not_taken_comes_again() -> None:
    async def run() -> None:
        entrance = entrance_of("a", "b", seats=2)
        await asyncio.gather(*asked(entrance, "1", "2", "3", "4"))
        waiting = asked(entrance, "5")
        await settled()
        taken, not_taken = [name for name, replica in entrance.in_flight.items() if replica == "a"]
        entrance.lose("a", not_taken=[not_taken, "elsewhere"])
        assert not waiting[0].done()  # it does not take the place of what has gone
        assert (entrance.ledger.came, entrance.ledger.failed) == (4, 1)
        assert taken not in entrance.in_flight
        assert adds_up(entrance)
        waiting[0].cancel()
        await settled()

    asyncio.run(run())


def test_where_ends_are_told_an_answer_that_was_on_its_way_counts() -> None:
    async def run() -> None:
        entrance = entrance_of("a", seats=3, ends_are_told=True)
        await asyncio.gather(*asked(entrance, "1", "2", "3"))
        waits = asked(entrance, "4")
        entrance.lose("a")
        assert entrance.in_flight == {"1": "a", "2": "a", "3": "a"}
        entrance.add(Replica("a", 400, 16, 3))
        assert await waits[0] == "a"
        entrance.note_tokens("1", 5)
        entrance.end("1", 9)
        entrance.fail("2")
        entrance.leave("3")
        assert (entrance.ledger.served, entrance.ledger.failed, entrance.ledger.left) == (1, 1, 1)
        assert entrance.in_flight == {"4": "a"}
        assert adds_up(entrance)

    asyncio.run(run())


def test_a_suspended_replica_gets_nothing_until_it_is_resumed() -> None:
    async def run() -> None:
        entrance = entrance_of("a", "b", seats=1)
        entrance.suspend("a")
        assert await entrance.enter("1", 64) == "b"
        waiting = asked(entrance, "2")
        await settled()
        assert not waiting[0].done()
        entrance.resume("a")
        assert await waiting[0] == "a"
        entrance.suspend("a")
        entrance.end("2")
        third = asked(entrance, "3")
        await settled()
        assert not third[0].done()
        entrance.end("1")
        assert await third[0] == "b"

    asyncio.run(run())


def test_a_request_that_is_turned_back_has_not_come() -> None:
    async def run() -> None:
        entrance = entrance_of("a")
        await entrance.enter("1", 64)
        entrance.turn_back("1")
        assert entrance.ledger.came == 0
        assert await entrance.enter("1", 64, again=True) == "a"
        assert adds_up(entrance)

    asyncio.run(run())


def test_books_are_those_of_one_moment_from_another_thread_too() -> None:
    async def run() -> None:
        entrance = entrance_of(seats=2)
        entrance.add(Replica("a", 400, 16, 2))
        waiting = asked(entrance, "1", "2", "3")
        await settled()
        entrance.end("1")
        books = await entrance.books()
        assert books == await asyncio.to_thread(lambda: asyncio.run(entrance.books()))
        assert (books.ledger.came, books.ledger.served, books.in_flight, books.state.waiting) == (3, 1, 2, 0)
        entrance.end("2")
        assert books.ledger.served == 1
        await asyncio.gather(*waiting)

    asyncio.run(run())


ACTIONS = st.sampled_from(["enter", "end", "fail", "cancel", "lose", "add", "suspend", "resume", "gauges", "turn back"])


@given(st.lists(st.tuples(ACTIONS, st.integers(0, 5)), max_size=60), st.booleans())
@settings(max_examples=300, deadline=None)
def test_whatever_happens_no_request_is_lost_or_counted_twice(
    actions: list[tuple[str, int]], ends_are_told: bool
) -> None:
    async def run() -> None:
        entrance = entrance_of("r0", "r1", seats=2, ends_are_told=ends_are_told)
        tasks: dict[str, asyncio.Task[str]] = {}
        for k, (action, i) in enumerate(actions):
            entrance._clock.now_s += 0.1  # type: ignore[attr-defined]
            name, replica = f"{i}", f"r{i % 2}"
            match action:
                case "enter":
                    tasks[f"{k}"] = asyncio.ensure_future(entrance.enter(f"{k}", 64, again=i == 5))
                case "cancel" if tasks:
                    list(tasks.values())[i % len(tasks)].cancel()
                case "lose":
                    entrance.lose(replica)
                case "add" if replica not in entrance.replicas:
                    entrance.add(Replica(replica, 400, 16, 2))
                case "suspend":
                    entrance.suspend(replica)
                case "resume":
                    entrance.resume(replica)
                case "gauges":
                    entrance.note_gauges(replica, Gauges(0, i, i / 10, measured_s=entrance.now_s))
                case "end" | "fail" | "turn back":
                    name = list(entrance.in_flight)[i % len(entrance.in_flight)] if entrance.in_flight else name
                    {"end": entrance.end, "fail": entrance.fail, "turn back": entrance.turn_back}[action](name)
            await settled()
            assert adds_up(entrance)
            assert all(count <= 2 for count in (one.in_flight for one in entrance.state().replicas))
        for task in tasks.values():
            task.cancel()
        await settled()
        assert entrance.state().waiting == 0

    asyncio.run(run())
