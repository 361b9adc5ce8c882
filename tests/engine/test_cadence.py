"""`prefill_schedule_interval`, worked on paper: a block holds one token, an iteration lasts one second."""

from collections.abc import Callable

import pytest

from fluidgate.engine import RunRecords
from fluidgate.errors import InputError
from fluidgate.policies import Wait

from .conftest import Batch

Simulate = Callable[..., RunRecords]
Batches = Callable[[RunRecords], list[Batch]]


def test_a_prompt_waits_for_the_third_step_after_the_last(simulate: Simulate, batches: Batches) -> None:
    r = simulate([(0.0, 2, 6), (1.0, 2, 2)], prefill_schedule_interval=3)
    assert batches(r) == [
        (0.0, {0: 2}, []),
        (1.0, {0: 1}, []),
        (2.0, {0: 1}, []),
        (3.0, {0: 1, 1: 2}, []),
        (4.0, {0: 1, 1: 1}, []),
        (5.0, {0: 1}, []),
    ]


def test_nothing_is_held_while_nobody_decodes(simulate: Simulate) -> None:
    # Row 0 has ended when row 1 comes, one step after the last prompt.
    assert simulate([(0.0, 2, 1), (1.0, 2, 1)], prefill_schedule_interval=9).first_scheduled_s.tolist() == [0.0, 1.0]


def test_chunks_are_held_as_well(simulate: Simulate, batches: Batches) -> None:
    # A budget of 3: beside row 0's decode there is room for 2 of row 1's 4 tokens.
    r = simulate([(0.0, 2, 9), (1.0, 4, 1)], prefill_schedule_interval=3, max_num_batched_tokens=3)
    assert [batch for _, batch, _ in batches(r)[3:7]] == [{0: 1, 1: 2}, {0: 1}, {0: 1}, {0: 1, 1: 2}]


def test_a_prompt_of_one_token_counts_as_a_decode(simulate: Simulate) -> None:
    # Row 1 passes at once and does not restart the interval: row 2 enters at 3 as if it had not been.
    r = simulate([(0.0, 2, 9), (1.0, 1, 1), (1.5, 2, 1)], prefill_schedule_interval=3)
    assert r.first_scheduled_s.tolist() == [0.0, 1.0, 3.0]


def test_requests_that_pile_up_end_the_hold(simulate: Simulate) -> None:
    # Two seats: at 3 row 1 enters and row 2 is left waiting, so it enters at 5, when row 1 has gone, and not at 6.
    r = simulate([(0.0, 2, 12), (1.0, 2, 2), (1.0, 2, 2)], prefill_schedule_interval=3, max_num_seqs=2)
    assert r.first_scheduled_s.tolist() == [0.0, 3.0, 5.0]


def test_an_evicted_request_waits_like_a_new_one(simulate: Simulate, batches: Batches) -> None:
    # 7 blocks. KV 2 + 3, 3 + 4; for the step from 2 row 0 evicts row 1, which has 5 tokens. Row 0 ends at 3.
    r = simulate([(0.0, 2, 3), (0.0, 3, 4)], blocks=7, prefill_schedule_interval=9, enable_prefix_caching=False)
    assert batches(r)[2:4] == [(2.0, {0: 1}, [1]), (3.0, {1: 5}, [])]
    # 12 blocks. KV 1 + 1 + 1 + 2, then 9; for the step from 2 row 3 is evicted, with 4 tokens. At 3 it would fit
    # beside row 0, which is alone by then; at 6 it still does, 7 + 4.
    requests = [(0.0, 1, 9), (0.0, 1, 3), (0.0, 1, 3), (0.0, 2, 4)]
    for interval, back_s in ((1, 3.0), (6, 6.0)):
        r = simulate(requests, blocks=12, prefill_schedule_interval=interval, enable_prefix_caching=False)
        assert [start_s for start_s, batch, _ in batches(r) if batch.get(3, 0) > 1][:2] == [0.0, back_s]


def test_asynchronous_steps_are_counted_as_they_are_formed(simulate: Simulate, batches: Batches) -> None:
    # Row 1 comes within the first step and is seen when the third batch is formed, at 1: it is the one after two.
    r = simulate([(0.0, 2, 6), (0.5, 2, 2)], prefill_schedule_interval=3, async_scheduling=True)
    assert [batch for _, batch, _ in batches(r)][:4] == [{0: 2}, {0: 1}, {0: 1}, {0: 1, 1: 2}]


def test_a_policy_that_pauses_is_refused(simulate: Simulate) -> None:
    with pytest.raises(InputError, match="policy wait pauses residents, and prefill_schedule_interval holds prompts"):
        simulate([(0.0, 2, 2)], policy=Wait(0.0, False, (1.0,), ()), prefill_schedule_interval=2)
