"""`smallest-volume-first`: the order of KV held over a request's life."""

from collections.abc import Callable

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fluidgate.engine import RunRecords, run
from fluidgate.fluid import plan
from fluidgate.hardware import Hardware, StepTime
from fluidgate.policies import ShortestFirst, SmallestVolumeFirst, make_policy
from fluidgate.testing import small_hardware, small_workloads
from fluidgate.workload import Workload

Simulate = Callable[..., RunRecords]

ONE_AT_A_TIME = 10  # blocks, for prompts of 6 and more


def test_memory_counts_and_not_time_alone(simulate: Simulate) -> None:
    # Volumes: 7 + 8 + 9 = 24, 9 + 10 = 19, 6 + 7 + 8 + 9 = 30.
    requests = [(0.0, 7, 3), (0.0, 9, 2), (0.0, 6, 4)]
    r = simulate(SmallestVolumeFirst(), requests, blocks=ONE_AT_A_TIME)
    assert r.first_scheduled_s.tolist() == [2.0, 0.0, 5.0]


def test_a_longer_output_goes_first_if_it_holds_less(simulate: Simulate) -> None:
    # 9 + 10 = 19 against 5 + 6 + 7 = 18: shortest-first takes them the other way round.
    requests = [(0.0, 9, 2), (0.0, 5, 3)]
    r = simulate(SmallestVolumeFirst(), requests, blocks=ONE_AT_A_TIME)
    assert r.first_scheduled_s.tolist() == [3.0, 0.0]
    assert simulate(ShortestFirst(), requests, blocks=ONE_AT_A_TIME).first_scheduled_s.tolist() == [0.0, 2.0]


REQUESTS = st.lists(st.tuples(st.integers(0, 8), st.integers(1, 12), st.integers(1, 12)), min_size=2, max_size=20)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(REQUESTS, st.integers(0, 20))
def test_nobody_enters_before_a_smaller_one(requests: list[tuple[int, int, int]], spare: int) -> None:
    arrival_s, prompt, output = (np.array(column) for column in zip(*sorted(requests), strict=True))
    hardware = Hardware("by hand", StepTime(c0=1.0), int((prompt + output).max()) + spare, block_size=1)
    r = run(Workload(arrival_s.astype(float), prompt, output), hardware, SmallestVolumeFirst())
    volume = np.array([sum(range(first, first + n)) for first, n in zip(prompt, output, strict=True)])
    for large in range(len(r)):
        smaller = (arrival_s <= r.first_scheduled_s[large]) & (volume < volume[large])
        assert (r.first_scheduled_s[smaller] <= r.first_scheduled_s[large]).all()


def test_the_plan_sets_no_parameter() -> None:
    load = next(w for w in small_workloads() if w.name == "overload")
    planned = make_policy("smallest-volume-first", plan(load, small_hardware()))
    assert planned == SmallestVolumeFirst()
    assert planned.needs_output_length
