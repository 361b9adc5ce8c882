"""A gate for routers with a queue of their own: who is asked for, sent elsewhere, and heard of later."""

from math import inf

import pytest

from fluidgate.errors import InputError
from fluidgate.fleet import Admit, AskedGate, Refuse, Replica, Wait
from fluidgate.policies import Fluid

EVEN = Fluid(output_quantiles=tuple(float(n) for n in range(50, 450, 8)), prompt_tokens=(64.0,))
"""A prior with which lengths are spread so evenly that nothing is paced."""


def gate_of() -> AskedGate:
    return AskedGate([Replica("a", 400, 16, 64)], EVEN)


def fill(gate: AskedGate, now_s: float) -> int:
    """Let requests come until one waits; returns how many were let in."""
    for k in range(1000):
        if isinstance(gate.arrive(f"fill {k}", 64, now_s=now_s), Wait):
            return k
    raise AssertionError("nobody ever waits")


def test_who_is_asked_for_goes_before_those_that_came_earlier() -> None:
    gate = AskedGate([Replica("a", 100_000, 16, 1)], EVEN)
    assert gate.arrive("1", 64, now_s=0.0) == Admit("a")
    assert isinstance(gate.arrive("2", 64, now_s=0.0), Wait)
    assert isinstance(gate.arrive("3", 64, now_s=0.0), Wait)
    assert isinstance(gate.ask("3", 0.5), Wait)
    gate.note_end("1", 1.0, 10)
    assert gate.ask("3", 1.0) == Admit("a")
    assert isinstance(gate.ask("2", 1.0), Wait)
    with pytest.raises(InputError, match="'3' does not wait"):
        gate.ask("3", 1.0)


def test_a_small_prompt_that_is_asked_for_finds_room_where_the_first_has_none() -> None:
    gate = AskedGate([Replica("a", 40, 16, 64)], EVEN)
    assert gate.arrive("1", 64, now_s=0.0) == Admit("a")
    assert isinstance(gate.arrive("long", 600, now_s=0.0), Wait)
    assert gate.released(0.1) == []
    gate.note_tokens("1", 440, 0.2)  # it can hardly get more
    gate.arrive("short", 16, now_s=0.2)
    assert isinstance(gate.ask("long", 0.6), Wait)
    small = AskedGate([Replica("a", 60, 16, 64)], EVEN)
    small.arrive("1", 64, now_s=0.0)
    small.arrive("long", 900, now_s=0.0)
    small.arrive("short", 16, now_s=0.0)
    assert isinstance(small.ask("long", 0.1), Wait)
    assert small.ask("short", 0.1) == Admit("a")


def test_asking_for_who_came_too_late_or_is_too_long_says_so() -> None:
    gate = AskedGate([Replica("a", 100, 16, 1), Replica("b", 10, 16, 1)], EVEN)
    for name in ("1", "2"):
        gate.arrive(name, 64, now_s=0.0)
    gate.arrive("late", 64, now_s=0.0, timeout_s=5.0)
    gate.arrive("long", 1000, now_s=0.0)
    assert isinstance(gate.ask("late", 1.0), Wait)
    assert isinstance(gate.ask("late", 7.0), Refuse)
    gate.drain_replica("a", 8.0)
    assert gate.ask("long", 8.0) == Refuse(inf)
    assert len(gate.waiting) == 0


def test_who_was_sent_elsewhere_is_where_it_was_sent() -> None:
    gate = AskedGate([Replica("a", 100_000, 16, 2), Replica("b", 100_000, 16, 2)], EVEN)
    assert gate.arrive("1", 64, now_s=0.0) == Admit("a")
    gate.note_sent("1", "b", 0.1)
    assert [one.in_flight for one in gate.state(0.1).replicas] == [0, 1]
    for name in ("2", "3", "4", "5", "6"):
        gate.arrive(name, 64, now_s=0.1)
    for name in ("5", "6"):  # they waited, and the router sends more than there are seats
        gate.note_sent(name, "b", 0.2)
    assert [one.in_flight for one in gate.state(0.2).replicas] == [2, 4]
    assert gate.books.fleet.residents.shape[1] >= 4
    for name in ("1", "2", "3", "4", "5", "6"):
        gate.note_end(name, 1.0, 10)
    assert [one.in_flight for one in gate.state(1.0).replicas] == [0, 0]


def test_who_has_left_holds_nothing_and_its_length_may_be_told_later() -> None:
    told, late = (gate_of() for _ in range(2))
    for gate in (told, late):
        gate.arrive("1", 64, now_s=0.0)
    told.note_end("1", 4.0, 80)
    late.note_left("1", 4.0)
    late.note_left("1", 5.0)
    assert late.state(5.0).replicas[0].in_flight == 0
    late.note_end("1", 9.0, 80)
    assert len(late._measured._left[0]) == len(told._measured._left[0]) == 1
    assert late._left_s == {}
    told.state(9.0)
    assert late.pace_s == told.pace_s == 0.05  # 4 s for 80 tokens, not 9
    assert fill(late, 9.0) == fill(told, 9.0)
    waiting = late.arrive("more", 64, now_s=9.0)
    assert isinstance(waiting, Wait)
    with pytest.raises(InputError, match="'more' waits, and holds nothing"):
        late.note_left("more", 9.0)
