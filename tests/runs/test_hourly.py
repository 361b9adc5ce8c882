"""Replicas by the hour: rates off a trace, the search at each, and what a day is paid for."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluidgate.engine import EngineConfig
from fluidgate.errors import InputError
from fluidgate.hardware import Hardware, StepTime
from fluidgate.metrics import parse_objectives
from fluidgate.runs.scaling.hourly import Day, HourlyFleet, Level, bucket_of, hourly, replica_s
from fluidgate.runs.size import Certainty, Flags, Machine
from fluidgate.runs.size.demand import Demand
from fluidgate.runs.size.search import Count
from fluidgate.runs.size.trials import Replications, Trial
from fluidgate.workload import Fixed, Independent, Poisson, Synthetic, Workload

CHIP = Hardware("chip", StepTime(c0=0.02, c_tok=1e-4, c_kv=1e-7), num_gpu_blocks=1001, block_size=16)
MACHINE = Machine("chip", 2, CHIP, price=1.5)
SOURCE = Synthetic("fixed", Poisson(1.0), Independent(Fixed(200), Fixed(20)))
DEMAND = Demand(SOURCE, 1.0, parse_objectives(["p90:ttft:500"], None), requests=800)


def trace(times_s: list[float]) -> Workload:
    n = len(times_s)
    return Workload(np.array(times_s), np.full(n, 8), np.full(n, 2), name="trace")


def test_rates_of_a_trace() -> None:
    """Ten requests in the first hour, five in the second, which has half an hour more of the trace in it."""
    times = [*np.linspace(0.0, 3599.0, 10), *np.linspace(3600.0, 8640.0, 5)]
    day = Day.of(trace(times))
    assert day.rates == pytest.approx((10 / 3600, 5 / 5040))
    assert bucket_of(trace(times), 3600.0).tolist() == [0] * 10 + [1] * 5
    assert Day.of(trace(times), 600.0).rates[0] == pytest.approx(2 / 600)
    assert Day.of(trace(times), 5000.0).rates == pytest.approx((12 / 5000, 3 / 3640))  # more than half a bucket


def test_all_at_once_has_no_hours() -> None:
    with pytest.raises(InputError, match="give hourly rates"):
        Day.of(trace([0.0, 0.0]))


@pytest.mark.parametrize("rates", [(), (0.0,), (1.0, -1.0), (1.0, np.nan)])
def test_rates_that_cannot_be(rates: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="a day needs rates"):
        Day(rates)


def test_steps_cover_the_rates() -> None:
    day = Day((0.0, 1.0, 2.0, 2.5, 10.0))
    assert day.steps(10) == [1, 1, 2, 3, 10]


def test_paid_from_the_start_on() -> None:
    """Four quarters of 100 s with a start-up of 30 s: one replica more is paid for 30 s longer."""
    assert replica_s([1, 2, 2, 1], 100.0, 30.0) == pytest.approx(600 + 30)
    assert replica_s([2, 1, 1, 1], 100.0, 30.0) == pytest.approx(500 + 30)  # the day repeats
    assert replica_s([3, 3], 100.0, 30.0) == pytest.approx(600)
    assert replica_s([1, 3, 1], 100.0, 150.0) == pytest.approx(3 * 300 - 2 * 50)  # asked for in the hour before last
    assert replica_s([1, 3], 100.0, 500.0) == pytest.approx(600)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(1, 50), st.integers(0, 120))
def test_paid_as_counted_second_by_second(needed: list[int], bucket: int, startup: int) -> None:
    day = len(needed) * bucket
    ready = np.repeat(needed, bucket)
    paid = sum(max(ready[(t + lead) % day] for lead in range(startup + 1)) for t in range(day))
    more = sum(max(ready[(t + lead) % day] for lead in range(startup + 2)) for t in range(day))
    assert paid - 1e-6 <= replica_s(needed, bucket, startup + 0.5) <= more + 1e-6


@pytest.fixture(scope="module")
def fleet() -> HourlyFleet:
    """A day of four hours on small machines."""
    return hourly(
        DEMAND, Day((8.0, 80.0, 160.0, 80.0)), MACHINE, startup_s=360.0, levels=4, certainty=Certainty(0.1, 8)
    )


def test_every_hour_has_what_its_rate_needs(fleet: HourlyFleet) -> None:
    """On seeds that the search never saw."""
    assert [level.rate for level in fleet.levels] == [40.0, 80.0, 160.0]
    assert fleet.needed[1] == fleet.needed[3]
    assert 1 <= fleet.needed[0] < fleet.needed[2] == fleet.fixed
    for level in fleet.levels:
        assert level.found is not None
        trial = Trial(CHIP, Flags(), level.found.replicas, first_seed=1000, replications=4)
        assert Replications(trial, replace(DEMAND, rate=level.rate), EngineConfig(), 0.1).outcome().excess <= 0.0


def test_a_peak_that_is_known_is_not_searched(fleet: HourlyFleet) -> None:
    certainty = Certainty(0.1, 8)
    known = hourly(DEMAND, fleet.day, MACHINE, levels=4, at_peak=fleet.fixed + 1, certainty=certainty)
    assert known.levels == (*fleet.levels[:-1], Level(160.0, None, fleet.fixed + 1))
    assert known.needed == (*fleet.needed[:2], fleet.fixed + 1, fleet.needed[3])
    assert 0 < known.runs < fleet.runs
    assert hourly(DEMAND, Day((160.0,)), MACHINE, at_peak=3).runs == 0


def test_no_hour_gets_more_than_is_enough_at_the_peak(fleet: HourlyFleet) -> None:
    """Where the search shows no such count to hold at a lower rate, that of the peak is taken."""
    assert fleet.fixed > 1
    known = hourly(DEMAND, Day((120.0, 160.0)), MACHINE, at_peak=1, certainty=Certainty(0.1, 8))
    assert known.needed == (1, 1)
    assert known.levels[0].found is not None
    assert not known.levels[0].found.holds


def test_what_the_day_costs(fleet: HourlyFleet) -> None:
    a, b, c, _ = fleet.needed
    assert a < b < c
    ready_hours = a + 2 * b + c
    startup_hours = 0.1 * (c - a)  # 6 minutes for each that starts, in two steps
    assert fleet.fixed_cost == pytest.approx(3.0 * 4 * c)
    assert fleet.cost == pytest.approx(3.0 * (ready_hours + startup_hours))
    assert fleet.startup_cost == pytest.approx(3.0 * startup_hours)
    head, rows = fleet.table()
    assert len(rows) == 4
    assert rows[0][:3] == ("00:00", "8", "40")
    assert [row[4] for row in rows] == ["", f"+{b - a}", f"+{c - b}", ""]
    assert all(len(row) == len(head) for row in rows)
    assert f"for {c} replicas all day" in fleet.words
    assert json.loads(json.dumps(fleet.to_dict()))["fixed"] == c


def test_a_rate_that_needs_fewer_gets_what_a_lower_one_needs() -> None:
    counts = [Count(n, True, "", Flags(), None, 0.5) for n in (2, 1)]
    levels = (Level(1.0, counts[0], 2), Level(2.0, counts[1], 2))
    made = HourlyFleet(Day((1.0, 2.0)), MACHINE, Flags(), 0.0, (2, 2), levels, 0)
    assert made.raised == (2.0,)


def test_a_promise_that_no_count_keeps() -> None:
    with pytest.raises(InputError, match=r"at 160 req/s at most 2 × chip × 2 do not keep the promise \(overloaded"):
        hourly(DEMAND, Day((160.0,)), MACHINE, most=2)


def test_flags_are_those_of_every_hour() -> None:
    day, certainty = Day((10.0,)), Certainty(0.1, 4)
    capped = hourly(DEMAND, day, MACHINE, Flags(max_num_seqs=2), certainty=certainty)
    assert capped.needed > hourly(DEMAND, day, MACHINE, certainty=certainty).needed


def test_a_policy_of_ones_own_is_loaded_where_the_searches_run(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text("import fluidgate\n\n\n@fluidgate.policy('hourly-own')\nclass Own(fluidgate.Policy):\n    pass\n")
    made = hourly(DEMAND, Day((10.0,)), MACHINE, Flags("hourly-own"), certainty=Certainty(0.1, 4), policy_file=file)
    assert made.needed == hourly(DEMAND, Day((10.0,)), MACHINE, certainty=Certainty(0.1, 4)).needed
