"""Modes `sarathi` and `prefill-first`, worked on paper: blocks of one token, iterations of one second."""

from collections.abc import Callable

from fluidgate.engine import RunRecords

from .conftest import Batch

Simulate = Callable[..., RunRecords]
Batches = Callable[[RunRecords], list[Batch]]


def test_sarathi_decodes_first_and_takes_a_prompts_blocks_at_once(simulate: Simulate, batches: Batches) -> None:
    # Chunk 4. Row 1's prompt of 6 gets 2, 3 beside row 0's decode, and its last token runs with the decodes, which
    # leaves 2 for row 2. Row 1 holds 6 blocks from the start.
    r = simulate([(0.0, 2, 4), (0.0, 6, 2), (0.0, 1, 2)], blocks=16, mode="sarathi", max_num_batched_tokens=4)
    assert batches(r) == [
        (0.0, {0: 2, 1: 2}, []),
        (1.0, {0: 1, 1: 3}, []),
        (2.0, {0: 1, 1: 1, 2: 1}, []),
        (3.0, {0: 1, 1: 1, 2: 1}, []),
    ]
    assert r.steps is not None
    assert (16 - r.steps.free_blocks).tolist() == [8, 9, 11, 14]
    assert r.first_token_s.tolist() == [1.0, 3.0, 3.0]


def test_sarathi_fills_the_chunk_with_the_next_prompt(simulate: Simulate, batches: Batches) -> None:
    # Chunk 4. At 1 the prompt of row 0 has 1 token left, which leaves 3 for row 1; at 2 row 1 takes all; at 3 it
    # has 2 left, and row 2, there since 2.5, enters with its one token.
    r = simulate([(0.0, 5, 1), (0.0, 9, 1), (2.5, 1, 2)], mode="sarathi", max_num_batched_tokens=4)
    assert batches(r) == [
        (0.0, {0: 4}, []),
        (1.0, {0: 1, 1: 3}, []),
        (2.0, {1: 4}, []),
        (3.0, {1: 2, 2: 1}, []),
        (4.0, {2: 1}, []),
    ]


def test_sarathi_evicts_the_last_in(simulate: Simulate, batches: Batches) -> None:
    # The eviction of mode vllm, with the victim's blocks all taken when it comes back.
    r = simulate([(0.0, 2, 4), (0.0, 2, 3)], blocks=6, mode="sarathi", enable_prefix_caching=False)
    assert batches(r)[2:] == [(2.0, {0: 1}, [1]), (3.0, {0: 1}, []), (4.0, {1: 4}, [])]


def test_sarathi_admits_nobody_in_a_step_that_preempted(simulate: Simulate, batches: Batches) -> None:
    # With restart the victim needs its prompt's 2 blocks only, and 2 are free as soon as row 0 has its own; at 3 row
    # 0 has taken one of them.
    r = simulate(
        [(0.0, 2, 4), (0.0, 2, 3)], blocks=6, mode="sarathi", enable_prefix_caching=False, preemption="restart"
    )
    assert batches(r)[2:5] == [(2.0, {0: 1}, [1]), (3.0, {0: 1}, []), (4.0, {1: 2}, [])]


def test_sarathi_keeps_one_percent_free_by_default(simulate: Simulate) -> None:
    # int(0.01 · 100) = 1 block: 99 blocks, 9 + 90 would fit but for the watermark.
    r = simulate([(0.0, 9, 2), (0.0, 90, 1)], blocks=99, mode="sarathi")
    assert r.first_scheduled_s.tolist() == [0.0, 2.0]
    r = simulate([(0.0, 9, 2), (0.0, 90, 1)], blocks=99, mode="sarathi", watermark=0.0)
    assert r.first_scheduled_s.tolist() == [0.0, 0.0]


def test_prefill_first_runs_no_decode_beside_a_prompt(simulate: Simulate, batches: Batches) -> None:
    # Budget 4: prompts of 2 and 3 do not share an iteration. Row 2 arrives at 1.5, so the decodes wait for it too.
    r = simulate([(0.0, 2, 3), (0.0, 3, 2), (1.5, 2, 2)], mode="prefill-first", max_num_batched_tokens=4)
    assert batches(r) == [
        (0.0, {0: 2}, []),
        (1.0, {1: 3}, []),
        (2.0, {2: 2}, []),
        (3.0, {0: 1, 1: 1, 2: 1}, []),
        (4.0, {0: 1}, []),
    ]
    assert r.longest_gap_s.tolist() == [3.0, 2.0, 1.0]


def test_prefill_first_recomputes_a_victim_in_one_prefill(simulate: Simulate, batches: Batches) -> None:
    # 5 blocks: at 1 row 0 takes the last one and row 1 evicts itself. Its prompt and token need 3, free when row 0
    # ends at 4.
    r = simulate([(0.0, 2, 4), (0.0, 2, 2)], blocks=5, mode="prefill-first", enable_prefix_caching=False)
    assert batches(r) == [
        (0.0, {0: 2, 1: 2}, []),
        (1.0, {0: 1}, [1]),
        (2.0, {0: 1}, []),
        (3.0, {0: 1}, []),
        (4.0, {1: 3}, []),
    ]
    assert r.recomputed_tokens.tolist() == [0, 2]


def test_prefill_first_seats(simulate: Simulate) -> None:
    r = simulate([(0.0, 1, 2)] * 3, mode="prefill-first", max_num_seqs=2)
    assert r.first_scheduled_s.tolist() == [0.0, 0.0, 2.0]


def test_a_decode_that_needs_a_spare_block(simulate: Simulate, batches: Batches) -> None:
    # 4 blocks of 2, all taken by two prompts of 3. At 1 both decode within their blocks, but none is free: row 1 makes
    # room for row 0, which takes none, so that row 1's blocks are there for its prompt and token again.
    limits = {"blocks": 4, "block_size": 2, "mode": "sarathi", "watermark": 0.0, "enable_prefix_caching": False}
    requests = [(0.0, 3, 2), (0.0, 3, 2)]
    assert batches(simulate(requests, **limits)) == [(0.0, {0: 3, 1: 3}, []), (1.0, {0: 1, 1: 1}, [])]
    r = simulate(requests, **limits, decodes_need_spare_block=True)
    assert batches(r) == [(0.0, {0: 3, 1: 3}, []), (1.0, {0: 1, 1: 4}, [1])]
    assert (r.preemptions.tolist(), r.last_token_s.tolist()) == ([0, 1], [2.0, 2.0])


def test_a_prompt_in_chunks_needs_no_spare_block(simulate: Simulate, batches: Batches) -> None:
    # 3 blocks of 2, all taken at 0. Chunk 5: row 1 has 1 of its 4 tokens left at 1, and runs without a free block.
    r = simulate(
        [(0.0, 2, 1), (0.0, 4, 1)],
        blocks=3,
        block_size=2,
        mode="sarathi",
        max_num_batched_tokens=5,
        watermark=0.0,
        decodes_need_spare_block=True,
    )
    assert batches(r) == [(0.0, {0: 2, 1: 3}, []), (1.0, {1: 1}, [])]


def test_prompts_padded_to_the_longest(simulate: Simulate, batches: Batches) -> None:
    # 2 + 5 = 7 tokens are within 8, 2 · 5 are not; 3 + 5 count as 2 · 5 as well; 3 · 2 are within 8.
    requests = [(0.0, tokens, 1) for tokens in (2, 5, 3, 2, 2, 2)]
    limits = {"mode": "prefill-first", "max_num_batched_tokens": 8}
    r = simulate(requests, **limits)
    assert [batch for _, batch, _ in batches(r)] == [{0: 2, 1: 5}, {2: 3, 3: 2, 4: 2}, {5: 2}]
    r = simulate(requests, **limits, pad_prompt_batches=True)
    assert [batch for _, batch, _ in batches(r)] == [{0: 2}, {1: 5}, {2: 3, 3: 2}, {4: 2, 5: 2}]
