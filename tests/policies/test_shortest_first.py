"""`shortest-first`: the order alone, memory left to the engine."""

from collections.abc import Callable

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fluidgate.engine import RunRecords, run
from fluidgate.fluid import plan
from fluidgate.hardware import Hardware, StepTime
from fluidgate.policies import McSf, ShortestFirst, make_policy
from fluidgate.testing import small_hardware, small_workloads
from fluidgate.workload import Workload

Simulate = Callable[..., RunRecords]


def test_the_shortest_enters_first(simulate: Simulate) -> None:
    # 8 blocks: rows 1 and 2 fill them; from 1 on row 2 holds 5, and the 4 of row 0 fit when it has ended.
    r = simulate(ShortestFirst(), [(0.0, 4, 3), (0.0, 4, 1), (0.0, 4, 2)], blocks=8)
    assert r.first_scheduled_s.tolist() == [2.0, 0.0, 0.0]
    assert r.held_s.tolist() == [0.0, 0.0, 0.0]


def test_does_not_look_ahead(simulate: Simulate) -> None:
    # 6 blocks: two that start at 1 token hold 3 + 3 in the step from 2, and have two tokens to go.
    requests = [(0.0, 1, 5), (0.0, 1, 5)]
    r = simulate(ShortestFirst(), requests, blocks=6)
    assert r.first_scheduled_s.tolist() == [0.0, 0.0]
    assert r.preemptions.tolist() == [0, 1]
    assert simulate(McSf(), requests, blocks=6).preemptions.tolist() == [0, 0]


REQUESTS = st.lists(st.tuples(st.integers(0, 8), st.integers(1, 12), st.integers(1, 12)), min_size=2, max_size=20)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(REQUESTS, st.integers(0, 20))
def test_nobody_enters_before_a_shorter_one(requests: list[tuple[int, int, int]], spare: int) -> None:
    arrival_s, prompt, output = (np.array(column) for column in zip(*sorted(requests), strict=True))
    hardware = Hardware("by hand", StepTime(c0=1.0), int((prompt + output).max()) + spare, block_size=1)
    r = run(Workload(arrival_s.astype(float), prompt, output), hardware, ShortestFirst())
    for long in range(len(r)):
        shorter = (arrival_s <= r.first_scheduled_s[long]) & (output < output[long])
        assert (r.first_scheduled_s[shorter] <= r.first_scheduled_s[long]).all()


def test_the_plan_sets_no_parameter() -> None:
    load = next(w for w in small_workloads() if w.name == "overload")
    planned = make_policy("shortest-first", plan(load, small_hardware()))
    assert planned == ShortestFirst()
    assert planned.needs_output_length
