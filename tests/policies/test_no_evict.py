"""`no-evict`: worst-case reservation."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluidgate.engine import RunRecords, run
from fluidgate.errors import InputError
from fluidgate.fluid import plan
from fluidgate.hardware import Hardware, StepTime
from fluidgate.policies import Greedy, NoEvict, Policy, make_policy
from fluidgate.testing import check_policy, small_hardware, small_workloads
from fluidgate.workload import Workload

Simulate = Callable[..., RunRecords]
Decide = Callable[..., int]


def test_everybody_may_reach_the_maximum(simulate: Simulate) -> None:
    # Prompt 2 and maximum 4 reserve 6 of 12 blocks: two at a time, though the third, of one token, would have fitted.
    requests = [(0.0, 2, 4), (0.0, 2, 3), (0.0, 2, 1)]
    assert simulate(NoEvict(4.0), requests, blocks=12).first_scheduled_s.tolist() == [0.0, 0.0, 3.0]
    assert simulate(NoEvict(4.0), requests, blocks=11).first_scheduled_s.tolist() == [0.0, 4.0, 7.0]


def test_a_lone_request_is_let_in(simulate: Simulate) -> None:
    # 2 + 10 tokens never fit in 5 blocks, yet they have to run.
    r = simulate(NoEvict(10.0), [(0.0, 2, 2)] * 3, blocks=5)
    assert r.first_scheduled_s.tolist() == [0.0, 2.0, 4.0]


def test_reserves_whole_blocks(decide: Decide) -> None:
    # 4 tokens per block: 3 + 4 take 2 blocks, 5 + 4 take 3.
    assert decide(NoEvict(4.0), [(3, 2)], [(3, 0), (3, 0)], blocks=5, block_size=4) == 1
    assert decide(NoEvict(4.0), [(3, 2)], [(5, 0), (3, 0)], blocks=5, block_size=4) == 1
    assert decide(NoEvict(4.0), [(3, 2)], [(5, 0), (3, 0)], blocks=4, block_size=4) == 0


def test_what_outgrew_the_maximum_counts_as_it_is(decide: Decide) -> None:
    # The resident holds 2 + 9, the newcomer may come to 1 + 4; one evicted at 2 + 3 generated is still bound by 2 + 4.
    assert decide(NoEvict(4.0), [(2, 9)], [(1, 0)], blocks=16) == 1
    assert decide(NoEvict(4.0), [(2, 9)], [(1, 0)], blocks=15) == 0
    assert decide(NoEvict(4.0), [(2, 0, 1)], [(2, 3)], blocks=12) == 1
    assert decide(NoEvict(4.0), [(2, 0, 1)], [(2, 3)], blocks=11) == 0


def _run(policy: Policy, requests: list[tuple[int, int, int]], block_size: int, spare_blocks: int) -> RunRecords:
    gap, prompt, output = (np.array(column) for column in zip(*requests, strict=True))
    blocks = int((-(-(prompt + output) // block_size)).max()) + spare_blocks
    hardware = Hardware("crowded", StepTime(c0=1.0), blocks + 1, block_size)
    return run(Workload(np.cumsum(gap).astype(float), prompt, output), hardware, policy)


REQUESTS = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 20), st.integers(1, 30)), min_size=2, max_size=20)


@settings(max_examples=60, deadline=None)
@given(REQUESTS, st.integers(1, 5), st.integers(0, 40), st.integers(0, 3))
def test_never_evicts(requests: list[tuple[int, int, int]], block_size: int, spare: int, more: int) -> None:
    longest = max(output for _, _, output in requests)
    r = _run(NoEvict(float(longest + more)), requests, block_size, spare)
    assert r.preemptions.sum() == 0
    assert r.finished.all()


def test_greedy_admission_of_the_same_requests_evicts() -> None:
    requests = [(0, 2, 20)] * 6
    assert _run(Greedy(), requests, 1, 20).preemptions.sum() > 0
    assert _run(NoEvict(20.0), requests, 1, 20).preemptions.sum() == 0
    assert _run(NoEvict(2.0), requests, 1, 20).preemptions.sum() > 0  # the promise holds for a true maximum only


def test_the_plan_knows_the_longest_output() -> None:
    overload = next(w for w in small_workloads() if w.name == "overload")
    planned = make_policy("no-evict", plan(overload, small_hardware()))
    assert planned == NoEvict(float(overload.output_tokens.max()))


@pytest.mark.parametrize("most", [1.0, 1e6])
def test_conforms_at_its_extremes(most: float) -> None:
    check_policy(NoEvict(most))


@pytest.mark.parametrize("most", [0.0, -3.0, np.nan, np.inf])
def test_refuses_what_is_no_length(most: float) -> None:
    with pytest.raises(InputError, match=r"policy no-evict: max_output_tokens = .* must be at least 1 token"):
        NoEvict(most)
