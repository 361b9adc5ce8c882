"""Mode `vllm`, worked on paper. Unless said otherwise a block holds one token and an iteration lasts one second."""

from collections.abc import Callable

import pytest

from fluidgate.engine import RunRecords
from fluidgate.hardware import StepTime

from .conftest import Batch

Simulate = Callable[..., RunRecords]
Batches = Callable[[RunRecords], list[Batch]]


def test_the_clock_adds_up_the_four_terms(simulate: Simulate) -> None:
    # Prompt 2, output 2. Prefill: 2 tokens, 2 KV tokens, pairs 1 + 2: 1 + 2/2 + 2/4 + 3/8 = 2.875 s.
    # Decode: 1 token, 3 KV tokens, no pairs: 1 + 1/2 + 3/4 = 2.25 s.
    r = simulate([(3.0, 2, 2)], step=StepTime(1.0, 0.5, 0.25, 0.125))
    assert r.first_scheduled_s.tolist() == [3.0]
    assert r.first_token_s.tolist() == [5.875]
    assert r.last_token_s.tolist() == [8.125]
    assert (r.end_s, r.busy_s, r.iterations) == (8.125, 5.125, 2)
    assert r.longest_gap_s.tolist() == [2.25]
    assert r.gap_edges_s[0] <= 2.25 < r.gap_edges_s[1]
    assert r.peak_blocks == 3
    assert r.mean_blocks == (2 * 2.875 + 3 * 2.25) / 5.125


def test_chunks_attend_to_what_is_there(simulate: Simulate) -> None:
    # Prompt 5 in chunks of 2, 2, 1: pairs 3, 2·2 + 3 = 7, 4 + 1 = 5, in all 5·6/2 = 15. Only c_attn counts here
    # beside c0; the one-token last chunk still is prefill.
    r = simulate([(0.0, 5, 1)], step=StepTime(1.0, c_attn=0.125), max_num_batched_tokens=2)
    assert r.steps is not None
    assert r.steps.end_s.tolist() == [1.375, 3.25, 4.875]


def test_arrivals_at_a_step_end_join_the_next_step(simulate: Simulate, batches: Batches) -> None:
    # Rows 0 and 1 tie at 0. Row 2 arrives exactly when the first step ends, row 3 within the second step, row 4
    # long after the engine ran dry: the clock jumps to it.
    r = simulate([(0.0, 1, 2), (0.0, 1, 2), (1.0, 1, 2), (1.5, 1, 2), (10.0, 1, 2)])
    assert batches(r) == [
        (0.0, {0: 1, 1: 1}, []),
        (1.0, {0: 1, 1: 1, 2: 1}, []),
        (2.0, {2: 1, 3: 1}, []),
        (3.0, {3: 1}, []),
        (10.0, {4: 1}, []),
        (11.0, {4: 1}, []),
    ]
    assert r.first_scheduled_s.tolist() == [0.0, 0.0, 1.0, 2.0, 10.0]
    assert r.last_token_s.tolist() == [2.0, 2.0, 3.0, 4.0, 12.0]


def test_chunked_prefill_under_one_budget(simulate: Simulate, batches: Batches) -> None:
    # Budget 4. Prompt 6 takes it all, then 2, which leaves 2 for the prompt of 3. Residents come first.
    r = simulate([(0.0, 6, 2), (0.0, 3, 2)], max_num_batched_tokens=4)
    assert batches(r) == [(0.0, {0: 4}, []), (1.0, {0: 2, 1: 2}, []), (2.0, {0: 1, 1: 1}, []), (3.0, {1: 1}, [])]
    assert r.first_token_s.tolist() == [2.0, 3.0]
    assert r.first_scheduled_s.tolist() == [0.0, 1.0]


def test_token_budget_of_one_serves_residents_in_order(simulate: Simulate, batches: Batches) -> None:
    r = simulate([(0.0, 1, 2), (0.0, 2, 1)], max_num_batched_tokens=1)
    assert batches(r) == [(0.0, {0: 1}, []), (1.0, {0: 1}, []), (2.0, {1: 1}, []), (3.0, {1: 1}, [])]


def test_long_prefill_threshold(simulate: Simulate, batches: Batches) -> None:
    # At most 2 prompt tokens each while somebody else is there; the last one left takes the whole budget of 4.
    r = simulate([(0.0, 8, 1), (0.0, 3, 1)], max_num_batched_tokens=4, long_prefill_token_threshold=2)
    assert batches(r) == [(0.0, {0: 2, 1: 2}, []), (1.0, {0: 2, 1: 1}, []), (2.0, {0: 4}, [])]


def test_up_to_vllm_0_30_the_threshold_cuts_a_lone_request(simulate: Simulate, batches: Batches) -> None:
    limits = {"max_num_batched_tokens": 4, "long_prefill_token_threshold": 2, "cut_lone_prefill": True}
    r = simulate([(0.0, 8, 1), (0.0, 3, 1)], **limits)
    assert batches(r) == [(0.0, {0: 2, 1: 2}, []), (1.0, {0: 2, 1: 1}, []), (2.0, {0: 2}, []), (3.0, {0: 2}, [])]


EVICTION = [(0.0, 2, 4), (0.0, 2, 3)]
"""On 6 blocks: KV 2 + 2, 3 + 3, and then row 0 needs a seventh block, so row 1, the last in, loses its three."""


def test_preemption_recomputes(simulate: Simulate, batches: Batches) -> None:
    # After its eviction row 1 needs 2 + 2 blocks; row 0 holds 4, then 5, of 6, until it ends at 4.
    r = simulate(EVICTION, blocks=6, enable_prefix_caching=False)
    assert batches(r) == [
        (0.0, {0: 2, 1: 2}, []),
        (1.0, {0: 1, 1: 1}, []),
        (2.0, {0: 1}, [1]),
        (3.0, {0: 1}, []),
        (4.0, {1: 4}, []),
    ]
    assert r.steps is not None
    assert r.steps.free_blocks.tolist() == [2, 0, 2, 1, 2]
    assert r.last_token_s.tolist() == [4.0, 5.0]
    assert r.preemptions.tolist() == [0, 1]
    assert r.recomputed_tokens.tolist() == [0, 3]
    assert r.computed_tokens == 5 + 4 + 3
    assert r.longest_gap_s.tolist() == [1.0, 3.0]
    assert r.peak_blocks == 6
    assert r.nearly_full_s == 1.0


def test_restart_streams_no_token_twice(simulate: Simulate, batches: Batches) -> None:
    # The victim keeps nothing: it fits again at 4 with its prompt of 2, and repeats tokens 1 and 2, which the
    # stream has had; token 3 comes at 7.
    r = simulate(EVICTION, blocks=6, enable_prefix_caching=False, preemption="restart")
    assert batches(r)[4:] == [(4.0, {1: 2}, []), (5.0, {1: 1}, []), (6.0, {1: 1}, [])]
    assert r.first_token_s.tolist() == [1.0, 1.0]
    assert r.last_token_s.tolist() == [4.0, 7.0]
    assert r.longest_gap_s.tolist() == [1.0, 5.0]
    assert r.recomputed_tokens.tolist() == [0, 3]
    assert r.computed_tokens == 5 + 3 + 4


def test_an_offloaded_victim_goes_on_where_it_was(simulate: Simulate, batches: Batches) -> None:
    # Its KV of 3 comes back for nothing, but needs its 3 blocks and one for token 4: they are there when row 0 ends.
    r = simulate(EVICTION, blocks=6, enable_prefix_caching=False, preemption="offload")
    assert batches(r)[2:] == [(2.0, {0: 1}, [1]), (3.0, {0: 1}, []), (4.0, {1: 1}, [])]
    assert r.steps is not None
    assert r.steps.free_blocks.tolist() == [2, 0, 2, 1, 2]
    assert r.last_token_s.tolist() == [4.0, 5.0]
    assert r.preemptions.tolist() == [0, 1]
    assert r.recomputed_tokens.tolist() == [0, 0]
    assert r.computed_tokens == 5 + 4
    assert r.longest_gap_s.tolist() == [1.0, 3.0]


def test_an_offloaded_prompt_goes_on_mid_way(simulate: Simulate, batches: Batches) -> None:
    # Budget 4, no reservation: row 1 loses 5 of its 7 prompt tokens at 2 and finds them at 4, when row 0 has ended.
    r = simulate(
        [(0.0, 2, 4), (0.0, 7, 1)],
        blocks=8,
        max_num_batched_tokens=4,
        enable_prefix_caching=False,
        scheduler_reserve_full_isl=False,
        preemption="offload",
    )
    assert batches(r) == [
        (0.0, {0: 2, 1: 2}, []),
        (1.0, {0: 1, 1: 3}, []),
        (2.0, {0: 1}, [1]),
        (3.0, {0: 1}, []),
        (4.0, {1: 2}, []),
    ]
    assert r.recomputed_tokens.tolist() == [0, 0]


def test_offloaded_blocks_may_also_be_in_the_cache(simulate: Simulate, batches: Batches) -> None:
    # Blocks of 2. The victim has computed 2 + 1: one full block, still cached when it comes back, and a third token.
    r = simulate([(0.0, 2, 5), (0.0, 2, 4)], blocks=4, block_size=2, preemption="offload")
    restored = [batch for _, batch, _ in batches(r) if 1 in batch][-1]
    assert r.preemptions.tolist() == [0, 1]
    assert restored == {1: 1}
    assert r.recomputed_tokens.tolist() == [0, 0]


def test_no_admission_in_a_step_that_preempted(simulate: Simulate, batches: Batches) -> None:
    # Budget 3 without reservation. At 2 row 0 takes the last block and row 1, needing one more, evicts itself:
    # its 2 blocks are free and a chunk of 2 would fit at once, but the step has preempted.
    r = simulate(
        EVICTION, blocks=6, enable_prefix_caching=False, max_num_batched_tokens=3, scheduler_reserve_full_isl=False
    )
    assert batches(r) == [
        (0.0, {0: 2, 1: 1}, []),
        (1.0, {0: 1, 1: 1}, []),
        (2.0, {0: 1}, [1]),
        (3.0, {0: 1}, []),
        (4.0, {1: 3}, []),
        (5.0, {1: 1}, []),
    ]


def test_a_victim_returns_before_those_that_wait(simulate: Simulate, batches: Batches) -> None:
    # Row 2 arrives at 2, before row 1 is evicted in the step from 2, and would fit from then on; row 1 blocks it.
    r = simulate([*EVICTION, (2.0, 1, 1)], blocks=6, enable_prefix_caching=False)
    assert batches(r)[2:] == [(2.0, {0: 1}, [1]), (3.0, {0: 1}, []), (4.0, {1: 4, 2: 1}, [])]


def test_the_last_admitted_go_first(simulate: Simulate, batches: Batches) -> None:
    # 6 blocks, prompts of 1 + 2 + 3: row 0's second token evicts row 2, and KV grows to 2 + 3. At 2 row 0 takes the
    # last block and row 1 evicts itself. Row 0 ends at 6; row 1 (2 + 2 tokens) then comes before row 2 (3 + 1).
    r = simulate([(0.0, 1, 6), (0.0, 2, 5), (0.0, 3, 3)], blocks=6, enable_prefix_caching=False)
    assert batches(r)[:4] == [
        (0.0, {0: 1, 1: 2, 2: 3}, []),
        (1.0, {0: 1, 1: 1}, [2]),
        (2.0, {0: 1}, [1]),
        (3.0, {0: 1}, []),
    ]
    assert r.first_scheduled_s.tolist() == [0.0, 0.0, 0.0]
    assert r.preemptions.tolist() == [0, 1, 1]
    assert batches(r)[6] == (6.0, {1: 4}, [])


@pytest.mark.parametrize(
    ("watermark", "start_s"),
    [(0.0, 0.0), (0.2, 3.0)],  # 0.2 of 11 blocks is 2: 7 free - 2 < 6 while row 0 is there
)
def test_watermark(simulate: Simulate, watermark: float, start_s: float) -> None:
    r = simulate([(0.0, 3, 3), (0.0, 6, 1)], blocks=10, watermark=watermark)
    assert r.first_scheduled_s.tolist() == [0.0, start_s]


def test_watermark_spares_an_empty_engine(simulate: Simulate) -> None:
    r = simulate([(0.0, 10, 1)], blocks=10, watermark=0.5)
    assert r.first_scheduled_s.tolist() == [0.0]


def test_full_prompt_reservation(simulate: Simulate, batches: Batches) -> None:
    # 8 blocks, budget 4. With it, prompt 7 waits until row 0 ends at 4. Without it, its first chunks fit, it is
    # evicted at 2 with 5 tokens computed, comes back with 3, and ends at 5.
    requests = [(0.0, 2, 4), (0.0, 7, 1)]
    settings = {"blocks": 8, "max_num_batched_tokens": 4, "enable_prefix_caching": False}
    r = simulate(requests, **settings)
    assert batches(r)[4:] == [(4.0, {1: 4}, []), (5.0, {1: 3}, [])]
    assert r.preemptions.sum() == 0
    r = simulate(requests, **settings, scheduler_reserve_full_isl=False)
    assert batches(r) == [
        (0.0, {0: 2, 1: 2}, []),
        (1.0, {0: 1, 1: 3}, []),
        (2.0, {0: 1}, [1]),
        (3.0, {0: 1, 1: 3}, []),
        (4.0, {1: 4}, []),
    ]
    assert r.recomputed_tokens.tolist() == [0, 5]


@pytest.mark.parametrize(
    ("settings", "starts_s"),
    [
        ({"max_num_seqs": 2}, [0.0, 0.0, 2.0]),
        ({"max_num_seqs": 1}, [0.0, 2.0, 4.0]),
        ({"max_num_seqs": 2, "max_num_active_seqs": 1}, [0.0, 2.0, 4.0]),
        ({"max_num_seqs": 9}, [0.0, 0.0, 0.0]),
    ],
)
def test_seats(simulate: Simulate, settings: dict[str, int], starts_s: list[float]) -> None:
    r = simulate([(0.0, 1, 2)] * 3, **settings)
    assert r.first_scheduled_s.tolist() == starts_s
    assert r.held_s.tolist() == [0.0, 0.0, 0.0]  # the engine's own limits are not the policy's hold


def test_a_block_is_taken_when_its_first_token_is(simulate: Simulate) -> None:
    # Blocks of 4: prompt 4 fills one, tokens 5..8 the second, token 9 the third; 6 outputs make 9 tokens of KV.
    r = simulate([(0.0, 4, 6)], blocks=3, block_size=4)
    assert r.steps is not None
    assert r.steps.free_blocks.tolist() == [2, 1, 1, 1, 1, 0]


def test_no_idling_with_a_cache_that_fits_exactly_one(simulate: Simulate) -> None:
    r = simulate([(0.0, 3, 2), (0.0, 4, 1), (0.0, 1, 4)], blocks=4)
    assert r.first_scheduled_s.tolist() == [0.0, 2.0, 3.0]
    assert r.end_s == 7.0
