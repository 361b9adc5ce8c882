"""`a-min`: look-ahead on the least possible output."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluidgate.engine import RunRecords, run
from fluidgate.errors import InputError
from fluidgate.fluid import plan
from fluidgate.hardware import Hardware, StepTime
from fluidgate.policies import AMin, KnownLengths, McSf, Policy, make_policy
from fluidgate.testing import check_policy, small_hardware
from fluidgate.workload import Workload

Simulate = Callable[..., RunRecords]


def test_counts_with_the_lower_end(simulate: Simulate) -> None:
    # 6 blocks, outputs of 6 from prompts of 1. A lower end of 4 lets row 1 in at 2: 4 + 2 in the step from 3, where
    # row 0 could end. It does not, and evicts row 1 at 4. With known lengths row 1 waits until row 0 has ended.
    requests = [(0.0, 1, 6), (0.0, 1, 6)]
    r = simulate(AMin(lower_ends=(1.0, 4.0)), requests, blocks=6)
    assert r.first_scheduled_s.tolist() == [0.0, 2.0]
    assert r.preemptions.tolist() == [0, 1]
    assert simulate(KnownLengths(), requests, blocks=6).first_scheduled_s.tolist() == [0.0, 6.0]


@pytest.mark.parametrize(("lower_end", "second_s"), [(1.0, 0.0), (3.0, 0.0), (5.0, 4.0), (6.0, 6.0)])
def test_one_interval_for_all(simulate: Simulate, lower_end: float, second_s: float) -> None:
    # As above: with lower end e, both hold e tokens in the step from e - 1, so row 1 enters at 0 if 2 e <= 6, and else
    # where it has 6 - e tokens in that step; with e = 6 there are none left.
    r = simulate(AMin(lower_ends=(lower_end,)), [(0.0, 1, 6), (0.0, 1, 6)], blocks=6)
    assert r.first_scheduled_s.tolist() == [0.0, second_s]


def test_the_bound_rises_with_what_is_generated(simulate: Simulate) -> None:
    # 6 blocks, a lower end of 3. Row 0 has outlived it from 3 on and counts no more; row 1, from 3 on, may end with 3.
    # Row 0 has 5 in the step from 4, so the 2 of row 1 do not fit beside it, and it is evicted.
    r = simulate(AMin(lower_ends=(3.0,)), [(0.0, 1, 6), (3.0, 1, 6)], blocks=6)
    assert r.first_scheduled_s.tolist() == [0.0, 3.0]
    assert r.preemptions.tolist() == [0, 1]


def test_the_smaller_lower_end_goes_first(simulate: Simulate) -> None:
    # Two intervals, 1 to 3 and from 4 on: row 1 before row 0; row 2, as short as row 1, after it though it is shorter.
    r = simulate(AMin(seats=1.0, lower_ends=(1.0, 4.0)), [(0.0, 1, 5), (0.0, 1, 3), (0.0, 1, 2)])
    assert r.first_scheduled_s.tolist() == [5.0, 0.0, 3.0]


REQUESTS = st.lists(st.tuples(st.integers(0, 8), st.integers(1, 12), st.integers(1, 12)), min_size=2, max_size=20)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(REQUESTS, st.sampled_from([1, 4]), st.integers(0, 20))
def test_intervals_of_one_length_make_it_mc_sf(
    requests: list[tuple[int, int, int]], block_size: int, spare: int
) -> None:
    arrival_s, prompt, output = (np.array(column) for column in zip(*sorted(requests), strict=True))
    blocks = int((-(-(prompt + output - 1) // block_size)).max()) + spare // block_size
    hardware = Hardware("by hand", StepTime(c0=1.0), blocks + 1, block_size)
    load = Workload(arrival_s.astype(float), prompt, output)
    exact: Policy = AMin(lower_ends=tuple(np.unique(output).astype(float).tolist()))
    ours, theirs = (run(load, hardware, policy, record="decisions") for policy in (exact, McSf()))
    assert ours.steps is not None
    assert theirs.steps is not None
    assert ours.steps.batch.tolist() == theirs.steps.batch.tolist()
    assert ours.last_token_s.tolist() == theirs.last_token_s.tolist()


def test_takes_its_intervals_from_the_plan() -> None:
    load = Workload(np.arange(4.0), np.full(4, 3), np.array([2, 2, 9, 9]))
    planned = make_policy("a-min", plan(load, small_hardware(), max_num_seqs=6))
    assert planned == AMin(6.0, (1.0, 3.0))  # 1 to 2, and from 3 on


@pytest.mark.parametrize("policy", [AMin(), AMin(seats=1.0), AMin(lower_ends=(40.0,))], ids=repr)
def test_conforms_at_its_extremes(policy: Policy) -> None:
    check_policy(policy)


@pytest.mark.parametrize(
    ("seats", "lower_ends", "what"),
    [
        (np.nan, (1.0,), "seats = nan must be from 1"),
        (8.0, (), "needs the lower end of at least one interval"),
        (8.0, (0.0, 3.0), "must rise, be above 0 tokens"),
        (8.0, (3.0, 3.0), "must rise"),
        (8.0, (3.0, np.nan), "must rise"),
        (8.0, (3.0, np.inf), "and finite"),
    ],
)
def test_refuses_bad_parameters(seats: float, lower_ends: tuple[float, ...], what: str) -> None:
    with pytest.raises(InputError, match=f"policy a-min: .*{what}"):
        AMin(seats, lower_ends)
