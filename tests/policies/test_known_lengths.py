"""`known-lengths`: exact look-ahead in order of arrival."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluidgate.engine import EngineConfig, RunRecords, run
from fluidgate.errors import InputError
from fluidgate.fluid import plan
from fluidgate.hardware import Hardware, StepTime
from fluidgate.policies import KnownLengths, make_policy
from fluidgate.testing import check_policy, small_hardware, small_workloads
from fluidgate.workload import Workload

Simulate = Callable[..., RunRecords]
Requests = list[tuple[int, int, int]]


def test_memory_binds_just_before_a_completion(simulate: Simulate) -> None:
    # Row 0 holds 2, 3, 4, 5 tokens in the steps from 0 to 3, row 1 holds 2 and 3: 2 + 2 and 3 + 3 if it enters at once,
    # 3 + 2 and 4 + 3 if at 1, 4 + 2 and 5 + 3 if at 2, 5 + 2 if at 3. With 5 blocks it has to wait for row 0's end.
    requests = [(0.0, 2, 4), (0.0, 2, 2)]
    assert simulate(KnownLengths(), requests, blocks=6).first_scheduled_s.tolist() == [0.0, 0.0]
    assert simulate(KnownLengths(), requests, blocks=5).first_scheduled_s.tolist() == [0.0, 4.0]


def test_a_newcomer_must_not_outlive_the_room(simulate: Simulate) -> None:
    # 9 blocks. Row 0 holds 2 to 6 tokens in the steps from 0 to 4. Row 1 arrives at 1 with a prompt of 1: with output
    # 3 it ends beside 5 + 3; with 5 it would be at 6 + 4 in the step from 4, so it enters one step later, at 6 + 3.
    short = simulate(KnownLengths(), [(0.0, 2, 5), (1.0, 1, 3)], blocks=9)
    assert short.first_scheduled_s.tolist() == [0.0, 1.0]
    long = simulate(KnownLengths(), [(0.0, 2, 5), (1.0, 1, 5)], blocks=9)
    assert long.first_scheduled_s.tolist() == [0.0, 2.0]
    assert long.held_s.tolist() == [0.0, 1.0]
    assert long.preemptions.sum() == 0


def test_the_first_in_line_is_never_overtaken(simulate: Simulate) -> None:
    # 6 blocks: row 1 does not fit beside row 0, and row 2, which would, stays behind it.
    r = simulate(KnownLengths(), [(0.0, 3, 3), (0.0, 3, 3), (0.0, 1, 1)], blocks=6)
    assert r.first_scheduled_s.tolist() == [0.0, 3.0, 3.0]


def test_seats_are_a_cap(simulate: Simulate) -> None:
    r = simulate(KnownLengths(seats=2.0), [(0.0, 1, 3)] * 4)
    assert r.first_scheduled_s.tolist() == [0.0, 0.0, 3.0, 3.0]


def test_a_prompt_longer_than_the_budget_takes_its_time(simulate: Simulate) -> None:
    # Budget 2. Row 0, a prompt of 6, ends its prefill in the step from 2 and holds 7 tokens at last, in that from 3.
    # Row 1 enters at 3 at the earliest: then 7 + 1, and 2 when it is alone.
    config = EngineConfig(max_num_batched_tokens=2)
    assert simulate(KnownLengths(), [(0.0, 6, 2), (0.0, 1, 2)], blocks=8, config=config).preemptions.sum() == 0


def test_decodes_slow_a_prompt_down(simulate: Simulate) -> None:
    # Budget 6: beside five that decode, a prompt of 12 gets one token per iteration and ends in the step from 11, where
    # the five hold 12 each. In 71 blocks it has to wait for their end, at 14.
    config = EngineConfig(max_num_batched_tokens=6)
    requests = [(0.0, 1, 14)] * 5 + [(0.0, 12, 1)]
    assert simulate(KnownLengths(), requests, blocks=72, config=config).first_scheduled_s.tolist() == [0.0] * 6
    r = simulate(KnownLengths(), requests, blocks=71, config=config)
    assert r.first_scheduled_s.tolist() == [0.0] * 5 + [14.0]
    assert r.preemptions.sum() == 0


def test_the_whole_budget_may_begin(simulate: Simulate) -> None:
    config = EngineConfig(max_num_batched_tokens=2)
    r = simulate(KnownLengths(), [(0.0, 1, 2)] * 3, config=config)
    assert r.first_scheduled_s.tolist() == [0.0, 0.0, 2.0]


def _reference(records: RunRecords) -> None:
    """Every head that a decision left out, and that blocks and seats would let in, would have overflowed memory."""
    steps, load = records.steps, records.workload
    assert steps is not None
    total, size = records.total_blocks, records.hardware.block_size
    prompt, output = load.prompt_tokens.tolist(), load.output_tokens.tolist()
    first = {}
    batches = np.split(steps.batch[:, 0], np.cumsum(steps.scheduled)[:-1])
    for k, batch in enumerate(batches):
        for row in batch.tolist():
            first.setdefault(row, k)

    def peak(started: dict[int, int], now: int) -> int:
        most = 0
        for k in range(now, now + max(output) + 1):
            held = [prompt[row] + k - at for row, at in started.items() if 0 <= k - at < output[row]]
            most = max(most, sum(-(-tokens // size) for tokens in held))
        return most

    for k in range(len(batches)):
        started = {row: at for row, at in first.items() if at <= k < at + output[row]}
        assert peak(started, k) <= total
        waiting = [row for row, at in first.items() if at > k and load.arrival_s[row] <= steps.start_s[k]]
        if waiting:
            assert peak(started | {min(waiting): k}, k) > total


LENGTHS = st.tuples(st.integers(0, 8), st.integers(1, 12), st.integers(1, 12))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(LENGTHS, min_size=1, max_size=20), st.sampled_from([1, 3, 4]), st.integers(0, 30))
def test_admits_exactly_what_memory_allows(requests: Requests, block_size: int, spare: int) -> None:
    arrival_s, prompt, output = (np.array(column) for column in zip(*sorted(requests), strict=True))
    blocks = int((-(-(prompt + output - 1) // block_size)).max()) + spare // block_size
    hardware = Hardware("by hand", StepTime(c0=1.0), blocks + 1, block_size)
    load = Workload(arrival_s.astype(float), prompt, output, name="generated")
    records = run(load, hardware, KnownLengths(), record="decisions")
    assert records.preemptions.sum() == 0
    _reference(records)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(LENGTHS, min_size=2, max_size=20),
    st.sampled_from([1, 4]),
    st.integers(0, 12),
    st.integers(1, 12),
    st.booleans(),
)
def test_never_evicts(requests: Requests, block_size: int, spare: int, budget: int, caching: bool) -> None:
    arrival_s, prompt, output = (np.array(column) for column in zip(*sorted(requests), strict=True))
    blocks = int((-(-(prompt + output - 1) // block_size)).max()) + spare // block_size
    hardware = Hardware("by hand", StepTime(c0=1.0), blocks + 1, block_size)
    load = Workload(arrival_s.astype(float), prompt, output, name="generated")
    config = EngineConfig(max_num_batched_tokens=budget, enable_prefix_caching=caching)
    assert run(load, hardware, KnownLengths(), config).preemptions.sum() == 0


def test_takes_its_seats_from_the_plan() -> None:
    load = next(w for w in small_workloads() if w.name == "overload")
    assert make_policy("known-lengths", plan(load, small_hardware(), max_num_seqs=6)) == KnownLengths(6.0)
    assert make_policy("known-lengths", plan(load, small_hardware(), max_num_seqs=None)) == KnownLengths(24.0)


@pytest.mark.parametrize("seats", [1.0, 3.0])
def test_conforms_with_few_seats(seats: float) -> None:
    check_policy(KnownLengths(seats))


@pytest.mark.parametrize("seats", [0.0, -1.0, np.nan, np.inf])
def test_refuses_bad_seats(seats: float) -> None:
    with pytest.raises(InputError, match=r"policy known-lengths: seats = .* must be from 1 to 1,000,000"):
        KnownLengths(seats)
