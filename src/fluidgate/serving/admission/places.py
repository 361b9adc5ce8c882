"""The places of those who were told to come again: a queue outside the server."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass
from math import inf
from operator import attrgetter

MARGIN_S = 1.0
"""Retry-After is by as much later than the time from which a place is kept: in whole seconds, many are told the same,
and they come in any order."""
GRACE_S = MARGIN_S + 2.0
"""A place is kept for as long: until its owner, told in whole seconds, should have come, and one second longer."""

SAME_ROOM = 0.8
"""Patience changes a little from one state to the next: a place with so much of one's own room is of the like of it."""

MAX_PLACES = 100_000
MEMORY = 256
"""Outcomes that a mean remembers, about."""


@dataclass
class RecentMean:
    """The mean of the last few hundred values, the older the less they count."""

    total: float = 0.0
    count: float = 0.0

    def add(self, value: float) -> None:
        """Count one value more."""
        if self.count >= MEMORY:
            self.total, self.count = self.total / 2, self.count / 2
        self.total += value
        self.count += 1

    @property
    def value(self) -> float | None:
        """The mean; None: nothing was added yet."""
        return self.total / self.count if self.count else None


@dataclass(frozen=True)
class Place:
    """Whose place it is, from when, when that one was told to come, and how many may be before it then."""

    owner: Comer
    from_s: float
    told_s: float
    room: float


@dataclass(frozen=True)
class Comer:
    """A request that comes now.

    Attributes:
        request_id: by which it has its place back.
        brings_id: whether the client chose it. Who brings none may be anybody who brought none before.
        is_first_try: whether the client says that it was not here before.
    """

    class_name: str
    request_id: str = ""
    brings_id: bool = False
    is_first_try: bool = False


class Places:
    """Who was refused, and when each may come again.

    A place counts for as much as the share of the refused who did come again lately: those who never do keep nobody
    out. Those with less room, who can only come later, keep nobody waiting who has more.
    """

    def __init__(self) -> None:
        self._places: list[Place] = []  # by time
        self._rooms: list[float] = []  # of all places, sorted
        self._by_id: dict[str, Place] = {}
        self._came = RecentMean(1.0, 1.0)

    def __len__(self) -> int:
        return len(self._places)

    def retry_after(
        self, comer: Comer, now_s: float, *, ahead: float, room: float, per_s: float, kept_room: float | None = None
    ) -> int | None:
        """None: the request that comes now may pass. Otherwise when to come again, in whole seconds.

        Args:
            ahead: requests that are before it.
            room: as many may be.
            kept_room: as many may be before one that comes when it was told to, if that is more.
            per_s: as many leave per second; 0: not known, and no place is kept.
        """
        self._lapse(now_s)
        place = self._place_of(comer, now_s)
        is_its_time = place is not None and place.from_s <= now_s
        others = 0.0 if is_its_time else self._share * self._num_due(now_s)
        most = kept_room if is_its_time and kept_room is not None else room
        if ahead <= 0 or ahead + others <= most:
            self._came_back(place)
            return None
        if place is not None and not is_its_time:  # too early: its place is still its own
            return max(math.ceil(place.told_s - now_s), 1)
        if per_s <= 0:
            return 1
        before_it = ahead if is_its_time else ahead + self._share * self._num_before(room)
        self._came_back(place)
        return self._keep(comer, now_s, (before_it - room) / per_s, room)

    def lost(self, comer: Comer, now_s: float, *, ahead: float, room: float, per_s: float) -> int:
        """When a request that was let through, and has lost its place in the engine's queue, should come again."""
        if per_s <= 0:
            return 1
        return self._keep(comer, now_s, (ahead + self._share * self._num_before(room) - room) / per_s, room)

    def _num_before(self, room: float) -> int:
        """The places that come before a new one of that room."""
        return len(self._rooms) - bisect_left(self._rooms, SAME_ROOM * room if room > 0 else -inf)

    def _keep(self, comer: Comer, now_s: float, delay_s: float, room: float) -> int:
        """Keep a place from `delay_s` on; when to come for it, in whole seconds."""
        retry_s = max(math.ceil(delay_s + MARGIN_S), 1)
        if len(self._places) < MAX_PLACES:
            place = Place(comer, now_s + max(delay_s, 0.0), now_s + retry_s, room)
            insort(self._places, place, key=_from_s)
            insort(self._rooms, room)
            self._by_id[comer.request_id] = place
        return retry_s

    def _place_of(self, comer: Comer, now_s: float) -> Place | None:
        """Its own place, or else that of a request of its class without an id which was told to be here by now."""
        if comer.brings_id:
            return self._by_id.get(comer.request_id)
        if comer.is_first_try:
            return None
        for place in self._places[: self._num_due(now_s)]:
            owner = place.owner
            if not owner.brings_id and owner.class_name == comer.class_name and place.told_s <= now_s:
                return place
        return None

    def _came_back(self, place: Place | None) -> None:
        if place is None:
            return
        last = bisect_right(self._places, place.from_s, key=_from_s)
        del self._places[next(i for i in range(last - 1, -1, -1) if self._places[i] is place)]
        self._forget(place)
        self._came.add(1.0)

    @property
    def _share(self) -> float:
        return self._came.value or 0.0

    def _num_due(self, now_s: float) -> int:
        return bisect_right(self._places, now_s, key=_from_s)

    def _lapse(self, now_s: float) -> None:
        if self._places and self._places[0].from_s < now_s - GRACE_S:
            late = bisect_right(self._places, now_s - GRACE_S, key=_from_s)
            for place in self._places[:late]:
                self._came.add(0.0)
                self._forget(place)
            del self._places[:late]

    def _forget(self, place: Place) -> None:
        del self._rooms[bisect_left(self._rooms, place.room)]
        name = place.owner.request_id
        if self._by_id.get(name) is place:
            del self._by_id[name]


_from_s = attrgetter("from_s")
