"""`mc-sf`: shortest first under exact look-ahead."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluidgate.engine import RunRecords, run
from fluidgate.errors import InputError
from fluidgate.fluid import plan
from fluidgate.hardware import Hardware, StepTime
from fluidgate.policies import KnownLengths, McSf, Policy, make_policy
from fluidgate.testing import check_policy, small_hardware, small_workloads
from fluidgate.workload import Workload

Simulate = Callable[..., RunRecords]

REQUESTS = st.lists(st.tuples(st.integers(0, 8), st.integers(1, 12), st.integers(1, 12)), min_size=2, max_size=20)


def test_the_shortest_enters_first(simulate: Simulate) -> None:
    # 6 blocks: row 2 holds 1 beside row 0's 3; row 1 would make 7, and later stand beside row 0's 4 and 5.
    r = simulate(McSf(), [(0.0, 3, 3), (0.0, 3, 3), (0.0, 1, 1)], blocks=6)
    assert r.first_scheduled_s.tolist() == [0.0, 3.0, 0.0]


def test_the_first_that_does_not_fit_ends_the_round(simulate: Simulate) -> None:
    # 8 blocks; row 0 holds 2 to 7 from 0 to 5. Row 1 would be at 6 beside 4 in the step from 2, and holds back row 2,
    # which is longer, though its 1, 2, 3 fit beside 3, 4, 5.
    r = simulate(McSf(), [(0.0, 2, 6), (1.0, 5, 2), (1.0, 1, 3)], blocks=8)
    assert r.first_scheduled_s.tolist() == [0.0, 6.0, 6.0]
    r = simulate(McSf(), [(0.0, 2, 6), (1.0, 1, 3)], blocks=8)
    assert r.first_scheduled_s.tolist() == [0.0, 1.0]


def _run(policy: Policy, requests: list[tuple[int, int, int]], block_size: int, spare_tokens: int) -> RunRecords:
    arrival_s, prompt, output = (np.array(column) for column in zip(*sorted(requests), strict=True))
    blocks = int((-(-(prompt + output - 1) // block_size)).max()) + spare_tokens // block_size
    hardware = Hardware("by hand", StepTime(c0=1.0), blocks + 1, block_size)
    load = Workload(arrival_s.astype(float), prompt, output, name="generated")
    return run(load, hardware, policy, record="decisions")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(REQUESTS, st.sampled_from([1, 4]), st.integers(0, 20))
def test_never_evicts_nor_passes_over_a_shorter_one(
    requests: list[tuple[int, int, int]], block_size: int, spare: int
) -> None:
    r = _run(McSf(), requests, block_size, spare)
    assert r.preemptions.sum() == 0
    entered_s, output = r.first_scheduled_s, r.workload.output_tokens
    for long in range(len(r)):
        shorter = (r.arrival_s <= entered_s[long]) & (output < output[long])
        assert (entered_s[shorter] <= entered_s[long]).all()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(REQUESTS, st.integers(1, 9), st.sampled_from([1, 4]), st.integers(0, 20))
def test_equal_lengths_make_it_first_come_first_served(
    requests: list[tuple[int, int, int]], output: int, block_size: int, spare: int
) -> None:
    alike = [(arrival, prompt, output) for arrival, prompt, _ in requests]
    ours, fcfs = (_run(policy, alike, block_size, spare) for policy in (McSf(), KnownLengths()))
    assert ours.last_token_s.tolist() == fcfs.last_token_s.tolist()
    assert ours.steps is not None
    assert fcfs.steps is not None
    assert ours.steps.batch.tolist() == fcfs.steps.batch.tolist()


def test_takes_its_seats_from_the_plan() -> None:
    load = next(w for w in small_workloads() if w.name == "overload")
    planned = make_policy("mc-sf", plan(load, small_hardware(), max_num_seqs=6))
    assert planned == McSf(seats=6.0)


def test_conforms_with_one_seat() -> None:
    check_policy(McSf(seats=1.0))


def test_refuses_bad_seats() -> None:
    with pytest.raises(InputError, match=r"policy mc-sf: seats = 0\.5 must be from 1 to 1,000,000"):
        McSf(seats=0.5)
