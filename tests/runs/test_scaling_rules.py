"""Rules and the autoscaler on looks made by hand."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluidgate.engine import Seen
from fluidgate.errors import InputError
from fluidgate.runs.scaling import Asked, Autoscaler, Boundary, InFlight, KvUse, Limits, Line, Queue


def look(
    time_s: float,
    arrived: int = 0,
    *,
    waiting: Sequence[int] = (0,),
    running: int = 0,
    kv: float = 0.0,
    starting: int = 0,
) -> Seen:
    """So many run in each replica."""
    n = len(waiting)
    return Seen(time_s, arrived, np.array(waiting), np.full(n, running), np.full(n, kv), starting, 0)


def looks(rate: Callable[[float], float], replicas: int = 2, until_s: float = 900.0) -> list[Seen]:
    """Every 15 s, with the requests that arrive at a rate, to the second."""
    arrived = np.concatenate(([0.0], np.cumsum([rate(s + 0.5) for s in range(int(until_s))])))
    return [look(t, round(arrived[t]), waiting=[0] * replicas) for t in range(15, int(until_s) + 1, 15)]


def test_the_line_is_numpys() -> None:
    times, values = [10.0, 25.0, 40.0, 70.0], [1.0, 3.0, 2.0, 7.0]
    slope, intercept = np.polyfit(times, values, 1)
    line = Line.through(times, values)
    assert line is not None
    assert (line.slope, line.at(30.0)) == pytest.approx((slope, intercept + slope * 100.0))
    assert Line.through([1.0], [2.0]) is None


def test_an_even_rate_asks_for_what_it_needs() -> None:
    asked = Boundary(replica_rate=4.0).asked(looks(lambda t: 10.0))
    assert asked.replicas == pytest.approx(2.5)
    assert asked.ratio == pytest.approx(1.25)


def test_a_rising_rate_is_followed_for_the_start_up_time() -> None:
    """0.02 req/s more every second; the window lags by half of what it covers, 52.5 s."""
    rule, seen = Boundary(replica_rate=5.0, lead_s=180.0), looks(lambda t: 2.0 + 0.02 * t)
    now = 2.0 + 0.02 * (900.0 - 52.5)
    assert rule.rate(seen) == pytest.approx(now, rel=0.01)
    assert rule.asked(seen).replicas == pytest.approx((now + 0.02 * 180.0) / 5.0, rel=0.01)


def test_a_trend_needs_half_of_its_time() -> None:
    rule = Boundary(replica_rate=5.0, trend_s=600.0)
    assert rule.trend(looks(lambda t: 2.0, until_s=300.0)) is None
    assert rule.trend(looks(lambda t: 2.0, until_s=315.0)) is not None
    young = looks(lambda t: 0.02 * t, until_s=300.0)
    assert rule.asked(young).replicas == rule.rate(young) / 5.0


def test_a_falling_rate_is_not_followed_down() -> None:
    rule, seen = Boundary(replica_rate=5.0), looks(lambda t: 30.0 - 0.02 * t)
    assert rule.asked(seen).replicas == pytest.approx(rule.rate(seen) / 5.0)
    assert rule.seconds_until_crossed(seen) == math.inf


@given(
    st.lists(st.integers(0, 300), min_size=21, max_size=60),
    st.integers(1, 6),
    st.floats(0.5, 20.0),
    st.floats(0.0, 600.0),
)
def test_it_fires_when_the_boundary_is_crossed_within_the_start_up_time(
    counts: list[int], replicas: int, replica_rate: float, lead_s: float
) -> None:
    """More are asked for exactly if the time until the crossing is below the start-up time, or the rate is beyond."""
    seen = [look(15.0 * (k + 1), int(arrived), waiting=[0] * replicas) for k, arrived in enumerate(np.cumsum(counts))]
    rule = Boundary(replica_rate, lead_s)
    line = rule.trend(seen)
    assert line is not None
    held = replicas * replica_rate
    crossed = rule.rate(seen) > held or (line.slope <= 0 and line.at(lead_s) > held)
    until_s = rule.seconds_until_crossed(seen)
    if abs(line.at(lead_s) - held) > 1e-6 and abs(rule.rate(seen) - held) > 1e-6:
        assert (rule.asked(seen).replicas > replicas) == (crossed or until_s < lead_s)


def test_a_window_of_one_look_is_refused() -> None:
    rule, seen = Boundary(5.0, window_s=15.0), looks(lambda t: 2.0, until_s=30.0)
    assert rule.rate(seen[:1]) == pytest.approx(2.0)
    with pytest.raises(InputError, match="window_s = 15: a rate needs two looks"):
        rule.rate(seen)


def test_thresholds() -> None:
    assert Queue(5.0).asked([look(15, waiting=[4, 8])]) == Asked(12 / 5, 12 / 10)
    assert InFlight(6.0).asked([look(15, waiting=[4, 8], running=7, starting=1)]) == Asked(26 / 6, 26 / 18)
    assert KvUse(0.8).asked([look(15, waiting=[0, 0], kv=0.9, starting=1)]) == pytest.approx((2 * 0.9 / 0.8, 0.9 / 0.8))


class Script:
    """A rule that asks for these, one a look."""

    name = "script"

    def __init__(self, *asked: float) -> None:
        self.replicas = asked

    def asked(self, seen: Sequence[Seen]) -> Asked:
        replicas = self.replicas[len(seen) - 1]
        return Asked(replicas, replicas / seen[-1].asked)


def counts(rule: Script, limits: Limits, every_s: float = 100.0) -> list[int]:
    """What the autoscaler makes of a script; replicas are there at once."""
    scaler, now = Autoscaler(rule, limits), 2
    made = []
    for k in range(len(rule.replicas)):
        now = scaler(look(every_s * (k + 1), waiting=[0] * now))
        made.append(now)
    return made


def test_within_the_tolerance_nothing_changes() -> None:
    assert counts(Script(2.19, 2.21, 2.71), Limits(stabilise_s=0)) == [2, 3, 3]
    assert counts(Script(2.19, 2.21), Limits(stabilise_s=0, tolerance=0.0)) == [3, 3]


def test_it_grows_at_once_and_shrinks_after_a_while() -> None:
    """At 100 s a look, the most that was asked for in the last 300 s stays."""
    assert counts(Script(5, 1, 1, 1, 1, 1), Limits()) == [5, 5, 5, 5, 1, 1]


def test_replicas_that_could_not_start_are_not_asked_for_again() -> None:
    """As Kubernetes has it: the past keeps a fleet from shrinking, and lets none grow."""
    scaler = Autoscaler(Script(5, 1), Limits())
    assert scaler(look(15, waiting=[0, 0])) == 5
    assert scaler(look(30, waiting=[0, 0])) == 2


def test_it_stays_within_its_limits() -> None:
    assert counts(Script(99, 0.1), Limits(2, 4, stabilise_s=0)) == [4, 2]


@pytest.mark.parametrize("wrong", [lambda: Boundary(0.0), lambda: Queue(0.0), lambda: KvUse(1.5), lambda: Limits(3, 2)])
def test_settings_that_cannot_be(wrong: Callable[[], object]) -> None:
    with pytest.raises(InputError):
        wrong()
