"""Who is told when to come again is served then: an overloaded server on a clock of its own, and its clients."""

from __future__ import annotations

import heapq
from collections import Counter, deque
from dataclasses import dataclass, field
from itertools import count
from random import Random

import pytest

from fluidgate.serving.admission.decision import Judge
from fluidgate.serving.admission.headers import Asked
from fluidgate.serving.admission.places import GRACE_S, Comer, Places
from fluidgate.serving.gate_state import GateState

from .asgi_client import gate_state

STARTS_PER_S, LATEST_S, END_S = 10.0, 5.0, 120.0
WRITE_EVERY_S, ON_THE_WAY_S = 0.2, 0.02


@dataclass
class Overload:
    """A server that starts ten requests a second, and clients who come again when they are told to.

    Args:
        per_s: requests that come for the first time.
        return_share: of the refused.
        has_ids: whether clients name their requests; if not, they say only whether it is their first try.

    Attributes:
        told_s: every Retry-After.
        waits_s: in the server's queue, of those that were started.
        outcomes: how often a first and a later try passed and was refused.
        num_idle: how often the server found nobody to start.
    """

    per_s: float
    return_share: float = 1.0
    has_ids: bool = True
    told_s: list[int] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    num_idle: int = 0

    def run(self) -> Overload:
        """From an empty server to the end."""
        rng, order, judge, state = Random(1), count(), Judge({}), gate_state(waiting=0)
        queue: deque[tuple[float, Asked]] = deque()
        due = [(i / STARTS_PER_S, next(order), "start", None) for i in range(int(END_S * STARTS_PER_S))]
        due += [(i * WRITE_EVERY_S, next(order), "write", None) for i in range(int(END_S / WRITE_EVERY_S))]
        for i in range(int(END_S * self.per_s)):
            asked = Asked(request_id=f"{i}", brings_id=self.has_ids, is_first_try=not self.has_ids)
            due.append((rng.uniform(0, END_S), next(order), "first", asked))
        heapq.heapify(due)
        while due and due[0][0] < END_S:
            now_s, _, what, asked = heapq.heappop(due)
            if what == "write":
                state = written(len(queue))
                judge.update(state, now_s - WRITE_EVERY_S / 4)
            elif asked is None:
                self._start(judge, queue, now_s)
            else:
                decision = judge.decide(asked, state, now_s)
                self.outcomes[f"{what} {decision.outcome}"] += 1
                if decision.passes:
                    judge.entered(asked, decision.class_name, now_s)
                    queue.append((now_s, asked))
                    continue
                self.told_s.append(decision.retry_s)
                if rng.random() < self.return_share:
                    again = Asked(request_id=asked.request_id, brings_id=self.has_ids)
                    heapq.heappush(due, (now_s + decision.retry_s + ON_THE_WAY_S, next(order), "later", again))
        return self

    def _start(self, judge: Judge, queue: deque[tuple[float, Asked]], now_s: float) -> None:
        if not queue:
            self.num_idle += 1
            return
        came_s, asked = queue.popleft()
        self.waits_s.append(now_s - came_s)
        judge.ended(asked, "default", now_s - came_s)


def written(waiting: int) -> GateState:
    """What the server writes."""
    return gate_state(waiting=waiting, starts_per_s=STARTS_PER_S, latest_start_s={"": LATEST_S})


@pytest.mark.parametrize("has_ids", [True, False])
@pytest.mark.parametrize("load", [1.5, 3.0])
def test_those_who_return_when_told_to_are_served(load: float, has_ids: bool) -> None:
    run = Overload(load * STARTS_PER_S, has_ids=has_ids).run()
    served, refused = run.outcomes["later passed"], run.outcomes["later refused"]
    assert served > 0.8 * END_S * STARTS_PER_S
    assert refused == 0
    assert max(run.waits_s) <= LATEST_S
    assert run.num_idle <= 1


@pytest.mark.parametrize("return_share", [0.0, 0.3, 1.0])
def test_places_of_those_who_never_come_keep_nobody_out(return_share: float) -> None:
    run = Overload(3.0 * STARTS_PER_S, return_share=return_share).run()
    assert run.num_idle <= 1
    assert max(run.waits_s) <= LATEST_S
    assert run.outcomes["later refused"] <= 0.02 * run.outcomes["later passed"]
    if return_share == 0:
        assert max(run.told_s[-1000:]) <= 3  # nobody who would have to be waited for


def asked_of(places: Places, comer: Comer, now_s: float, ahead: float = 30.0) -> int | None:
    """Of a queue that may be 20 long, of which 2 leave per second."""
    return places.retry_after(comer, now_s, ahead=ahead, room=20.0, per_s=2.0)


def test_each_who_is_refused_is_told_a_later_time() -> None:
    places = Places()
    told = [asked_of(places, Comer("", f"{i}", brings_id=True), 0.0) for i in range(6)]
    # 10 too many, at 2 a second: 5 s, and half a second more for each one before; then the margin, rounded up
    assert told == [6, 7, 7, 8, 8, 9]


def test_who_comes_too_early_keeps_the_place() -> None:
    places, comer = Places(), Comer("", "a", brings_id=True)
    assert [asked_of(places, comer, now_s) for now_s in (0.0, 1.0, 1.5, 4.0)] == [6, 5, 5, 2]
    assert len(places) == 1
    assert asked_of(places, comer, 6.0, ahead=18.0) is None
    assert len(places) == 0


def test_a_place_is_not_given_to_others_and_lapses() -> None:
    places, owner, other = Places(), Comer("", "a", brings_id=True), Comer("", "b", brings_id=True)
    assert asked_of(places, owner, 0.0) == 6
    assert asked_of(places, other, 5.1, ahead=19.5) == 2
    assert asked_of(places, owner, 6.0, ahead=19.5) is None
    late = 5.0 + GRACE_S + 1.0
    assert len(places) == 1
    assert asked_of(places, Comer("", "c", brings_id=True), late, ahead=20.0) is None
    assert len(places) == 0


def test_an_empty_queue_refuses_nobody() -> None:
    places = Places()
    for i in range(1000):
        places.retry_after(Comer("", f"{i}"), 0.0, ahead=30.0, room=20.0, per_s=1e3)
    assert places.retry_after(Comer("", "x"), 0.5, ahead=0.0, room=0.0, per_s=1e3) is None


def test_who_has_a_place_waits_for_a_slower_server_before_all_others() -> None:
    places = Places()
    told = [asked_of(places, Comer("", f"{i}", brings_id=True), 0.0) for i in range(4)]
    assert asked_of(places, Comer("", "0", brings_id=True), float(told[0] or 0), ahead=24.0) == 3


def test_who_comes_when_told_to_finds_more_room_than_others() -> None:
    """A queue that is a little longer than planned keeps out who comes for the first time, or too early."""
    places = Places()
    limits = {"room": 20.0, "per_s": 2.0, "kept_room": 25.0}
    told_s = places.retry_after(Comer("", "a", brings_id=True), 0.0, ahead=30.0, **limits)
    assert told_s is not None
    assert places.retry_after(Comer("", "a", brings_id=True), 1.0, ahead=24.0, **limits) is not None
    assert places.retry_after(Comer("", "b", brings_id=True), float(told_s), ahead=24.0, **limits) is not None
    assert places.retry_after(Comer("", "a", brings_id=True), float(told_s), ahead=24.0, **limits) is None


def test_the_impatient_do_not_make_the_patient_wait() -> None:
    """100 who may have 2 before them are refused first; one that may have 20 waits for 10 to go, and for its like."""
    places = Places()
    for i in range(100):
        places.retry_after(Comer("", f"{i}", brings_id=True), 0.0, ahead=30.0, room=2.0, per_s=2.0)
    told = [asked_of(places, Comer("", name, brings_id=True), 0.0) for name in ("a", "b", "c")]
    assert told == [6, 7, 7]
    # and the impatient for all: 28 too many, and 103 before it
    late = places.retry_after(Comer("", "d", brings_id=True), 0.0, ahead=30.0, room=2.0, per_s=2.0)
    assert late == 28 / 2 + 103 / 2 + 1.5
    assert len(places) == 104
    assert asked_of(places, Comer("", "e", brings_id=True), 1e6) == 6  # all places have lapsed


def test_a_flood_of_absurd_deadlines_makes_nobody_wait() -> None:
    judge, state = Judge({}), gate_state()
    honest = [Asked(request_id=name, brings_id=True) for name in ("a", "b")]
    before = judge.decide(honest[0], state, 0.0).retry_s
    for i in range(5000):
        refused = judge.decide(Asked(request_id=f"{i}", brings_id=True, total_s=1e-9), state, 0.0)
        assert refused.outcome == "refused"
    assert judge.decide(honest[1], state, 0.0).retry_s <= before + 1
