"""Who may pass: from the engines' state, and from what this API server has let through since it was written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

from fluidgate.serving.admission.doors import SINCE_WRITTEN, TURNED_AWAY, UNANSWERED, Doors
from fluidgate.serving.admission.headers import Asked
from fluidgate.serving.admission.limits import DEFAULT, OTHER
from fluidgate.serving.admission.places import Comer, Places, RecentMean
from fluidgate.serving.gate_state import GateState
from fluidgate.words import number

SLACK = 0.5
"""Standard deviations of the starts in a time by which the door is stricter than their mean: the gate looks at every
request in every iteration, and sheds whom it finds late once. With so much it sheds hardly any, at the same throughput
(`tests/serving/test_door_and_gate.py`); with more a short queue runs empty."""


@dataclass(frozen=True)
class Forecast:
    """Of a request that comes now: how many are before it, and until when it waits, in seconds; None: not known."""

    position: int
    wait_s: float | None


@dataclass(frozen=True)
class Decision:
    """What becomes of a request.

    Attributes:
        outcome: passed, channel_down (passed without a forecast), refused or limit.
        class_name: its class, or one of the two names for those without.
        retry_s: when a refused request should come again, in whole seconds.
        reason: why it is refused.
    """

    outcome: str
    class_name: str
    forecast: Forecast | None = None
    retry_s: int = 0
    reason: str = ""

    @property
    def passes(self) -> bool:
        """Whether it goes on to vLLM."""
        return self.outcome in ("passed", "channel_down")


class EngineQueue:
    """The engines' queue, as the API servers know it."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors
        self._unanswered: set[object] = set()
        self._since_written: dict[object, float] = {}
        self._running_when_full = 0

    def update(self, state: GateState, unchanged_until_s: float) -> None:
        """A new state: what came long before it was written is in it."""
        self._since_written = {key: at_s for key, at_s in self._since_written.items() if at_s >= unchanged_until_s}
        if state.waiting > 0:
            self._running_when_full = state.running
        self._tell()

    def entered(self, key: object, now_s: float) -> None:
        """A request was let through."""
        self._unanswered.add(key)
        self._since_written[key] = now_s
        self._tell()

    def left(self, key: object) -> None:
        """A request has its first byte, or has ended."""
        self._unanswered.discard(key)
        self._since_written.pop(key, None)
        self._tell()

    def _tell(self) -> None:
        self._doors.put(SINCE_WRITTEN, len(self._since_written))
        self._doors.put(UNANSWERED, len(self._unanswered))

    def forecast(self, state: GateState) -> Forecast:
        """Of a request that comes now.

        Requests on their way to the engine count too: those let through since the state was written, or, where vLLM
        takes its time to prepare prompts, all without a first byte that the engine has not counted.
        """
        unanswered = self._doors.total(UNANSWERED)
        on_the_way = max(self._doors.total(SINCE_WRITTEN), unanswered - state.running - state.waiting)
        free = max(self._running_when_full - state.running, 0) if state.waiting == 0 else 0
        position = max(state.waiting + on_the_way - free, 0)
        if position == 0:
            return Forecast(0, 0.0)
        return Forecast(position, position / state.starts_per_s if state.starts_per_s > 0 else None)


class ClassLimit:
    """The requests of a class in flight, of which there may be so many."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._places = Places()
        self._durations_s = RecentMean()

    def ended(self, after_s: float) -> None:
        """A request of the class took that long."""
        self._durations_s.add(after_s)

    def retry_after(self, comer: Comer, num_in_flight: int, now_s: float) -> int | None:
        """None where one more may pass, else when to come again."""
        mean_s = self._durations_s.value
        per_s = self.most / mean_s if mean_s else 0.0
        return self._places.retry_after(comer, now_s, ahead=num_in_flight, room=self.most - 1, per_s=per_s)


class Judge:
    """Decides who passes.

    Args:
        limits: requests in flight by class, in all API servers together.
        doors: what the API servers count together; None: this one is alone.

    Attributes:
        in_flight: requests let through here and not ended, by class.
    """

    def __init__(self, limits: Mapping[str, int], doors: Doors | None = None) -> None:
        self.in_flight: Counter[str] = Counter()
        self._doors = doors or Doors(sorted(limits))
        self._limits = {name: ClassLimit(most) for name, most in limits.items()}
        self._queue = EngineQueue(self._doors)
        self._places = Places()
        self._known = set(limits)

    def update(self, state: GateState, unchanged_until_s: float) -> None:
        """There is a new state."""
        self._queue.update(state, unchanged_until_s)
        self._known.update(filter(None, state.latest_start_s))

    def class_of(self, asked: Asked) -> str:
        """The class by which a request is counted; never a name that only a client knows."""
        if asked.class_name is None:
            return DEFAULT
        return asked.class_name if asked.class_name in self._known else OTHER

    def decide(self, asked: Asked, state: GateState | None, now_s: float) -> Decision:
        """What becomes of a request that comes now."""
        decision = self._decided(asked, state, now_s)
        if not decision.passes:
            self._doors.add(TURNED_AWAY)
        return decision

    def _decided(self, asked: Asked, state: GateState | None, now_s: float) -> Decision:
        name = self.class_of(asked)
        comer = _comer(asked, name)
        limit = self._limits.get(name)
        if limit is not None:
            retry_s = limit.retry_after(comer, self._doors.total(name), now_s)
            if retry_s is not None:
                reason = f"Class {name} has {limit.most:,} requests in flight, its limit"
                return Decision("limit", name, retry_s=retry_s, reason=reason)
        if state is None:
            return Decision("channel_down", name)
        return self._in_time(asked, comer, state, now_s)

    def forecast(self, state: GateState) -> Forecast:
        """Of a request that comes now."""
        return self._queue.forecast(state)

    def retry_after_shed(self, asked: Asked, state: GateState, now_s: float) -> int:
        """When a request that the engine has shed should come again, in whole seconds; a place is kept for it."""
        comer, per_s = _comer(asked, self.class_of(asked)), state.starts_per_s
        ahead, room = self.forecast(state).position, most_before(latest_start_s(asked, state) or 0.0, per_s)
        return self._places.lost(comer, now_s, ahead=ahead, room=room, per_s=per_s)

    def entered(self, key: object, name: str, now_s: float) -> None:
        """A request was let through."""
        self.in_flight[name] += 1
        if name in self._limits:
            self._doors.add(name)
        self._queue.entered(key, now_s)

    def answered(self, key: object) -> None:
        """A request has its first byte."""
        self._queue.left(key)

    def ended(self, key: object, name: str, after_s: float) -> None:
        """A request that was let through is over."""
        self.in_flight[name] -= 1
        self._queue.left(key)
        if name in self._limits:
            self._doors.add(name, -1)
            self._limits[name].ended(after_s)

    def _in_time(self, asked: Asked, comer: Comer, state: GateState, now_s: float) -> Decision:
        """Whether it would be started while it is worth it."""
        forecast, latest_s = self.forecast(state), latest_start_s(asked, state)
        if forecast.wait_s is None or latest_s is None:
            return Decision("passed", comer.class_name, forecast)
        per_s = state.starts_per_s
        room = most_before(latest_s, per_s)
        retry_s = self._places.retry_after(
            comer, now_s, ahead=forecast.position, room=room, per_s=per_s, kept_room=latest_s * per_s
        )  # who was told when to come takes a chance with the gate rather than come once more
        if retry_s is None:
            return Decision("passed", comer.class_name, forecast)
        reason = (
            f"{forecast.position:,} requests are waiting, for about {number(forecast.wait_s)} s; this one would have "
            f"to start within {number(latest_s)} s, for which {max(int(room), 0):,} at most may be before it"
        )
        return Decision("refused", comer.class_name, forecast, retry_s, reason)


def _comer(asked: Asked, class_name: str) -> Comer:
    return Comer(class_name, asked.request_id, asked.brings_id, asked.is_first_try)


def most_before(latest_s: float, per_s: float) -> float:
    """How many requests may be before one that has to start within `latest_s`: its own start comes after theirs."""
    starts = latest_s * per_s
    return starts - 1.0 - SLACK * sqrt(starts)


def latest_start_s(asked: Asked, state: GateState) -> float | None:
    """The age beyond which a request is not worth starting; None: none.

    The engine sees no header: they can shorten what it gives a class, and not lengthen it. A request that names no
    class it knows may be of any, and has the longest.
    """
    ages = state.latest_start_s
    name = asked.class_name if asked.class_name in ages else ""
    of_class = [ages[name]] if name in ages else list(ages.values())
    known = [age for age in of_class if age is not None]
    longest = [max(known)] if known and len(known) == len(of_class) else []
    limits = [*longest, *(limit for limit in (asked.ttft_s, asked.total_s) if limit is not None)]
    return min(limits, default=None)
