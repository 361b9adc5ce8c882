"""The prefix cache, worked on paper: blocks of two tokens, iterations of one second."""

from collections.abc import Callable

import pytest

from fluidgate.engine import RunRecords

from .conftest import Batch

Simulate = Callable[..., RunRecords]
Batches = Callable[[RunRecords], list[Batch]]

SHARED = ([[7, 8, 9], [7, 8, 10], [7, 8, 9]], 2)
"""Three prompts of 6 tokens; all share the first four, and rows 0 and 2 are equal."""


def test_content_of_a_finished_request_is_found_again(simulate: Simulate, batches: Batches) -> None:
    # Row 1 finds 7 and 8. Row 2 could find all of its prompt, but the last token is computed anew for its logits.
    r = simulate([(0.0, 6, 1), (1.0, 6, 1), (2.0, 6, 1)], block_size=2, prefixes=SHARED)
    assert batches(r) == [(0.0, {0: 6}, []), (1.0, {1: 2}, []), (2.0, {2: 2}, [])]
    assert r.cached_tokens.tolist() == [0, 4, 4]
    assert r.computed_tokens == 10


def test_content_is_shared_in_the_step_that_computes_it(simulate: Simulate, batches: Batches) -> None:
    r = simulate([(0.0, 6, 1)] * 3, block_size=2, blocks=20, prefixes=SHARED)
    assert batches(r) == [(0.0, {0: 6, 1: 2, 2: 2}, [])]
    assert r.peak_blocks == 3 + 1 + 1


def test_shared_blocks_stay_while_anyone_holds_them(simulate: Simulate, batches: Batches) -> None:
    # Row 0 ends at 1; its 7 and 8 stay with row 1, of 5 blocks in all. Row 2 finds them at 2 although row 0 left.
    r = simulate([(0.0, 6, 1), (0.0, 6, 5), (2.0, 6, 1)], block_size=2, blocks=8, prefixes=SHARED)
    assert r.cached_tokens.tolist() == [0, 4, 4]
    assert r.steps is not None
    # used: 3 + 1 own; row 1 alone 3 + 1; at 2 row 1 has 8 tokens in 4 blocks and row 2 adds its own last block
    assert (8 - r.steps.free_blocks).tolist() == [4, 4, 5, 5, 5]


def test_sharing_makes_room(simulate: Simulate) -> None:
    # 4 blocks: without sharing the second prompt of 3 blocks does not fit beside the first.
    requests = [(0.0, 6, 1), (0.0, 6, 1)]
    prefixes = ([[7, 8, 9], [7, 8, 10]], 2)
    assert simulate(requests, block_size=2, blocks=4, prefixes=prefixes).first_scheduled_s.tolist() == [0.0, 0.0]
    off = simulate(requests, block_size=2, blocks=4, prefixes=prefixes, enable_prefix_caching=False)
    assert off.first_scheduled_s.tolist() == [0.0, 1.0]
    assert off.cached_tokens.tolist() == [0, 0]


def test_one_trace_block_spans_several_kv_blocks(simulate: Simulate) -> None:
    # Trace blocks of 4 tokens: prompts of 7 share the first; the second differs.
    r = simulate([(0.0, 7, 1), (1.0, 7, 1)], block_size=2, prefixes=([[1, 2], [1, 3]], 4))
    assert r.cached_tokens.tolist() == [0, 4]


def test_overwritten_content_is_gone(simulate: Simulate) -> None:
    # 3 blocks: row 1 overwrites all that row 0 left, so row 2, equal to row 0, computes everything.
    prefixes = ([[7, 8, 9], [1, 2, 3], [7, 8, 9]], 2)
    r = simulate([(0.0, 6, 1), (1.0, 6, 1), (2.0, 6, 1)], block_size=2, blocks=3, prefixes=prefixes)
    assert r.cached_tokens.tolist() == [0, 0, 0]
    r = simulate([(0.0, 6, 1), (1.0, 6, 1), (2.0, 6, 1)], block_size=2, blocks=6, prefixes=prefixes)
    assert r.cached_tokens.tolist() == [0, 0, 4]


def test_the_tail_of_old_content_is_overwritten_first(simulate: Simulate) -> None:
    # 5 blocks. Row 0 leaves 7, 8, 9 and two blocks never used; row 1 takes those two and then 9's block, the tail
    # of what row 0 left. Row 2 still finds 7 and 8.
    prefixes = ([[7, 8, 9], [], [7, 8, 9]], 2)
    r = simulate([(0.0, 6, 1), (1.0, 6, 1), (2.0, 6, 1)], block_size=2, blocks=5, prefixes=prefixes)
    assert r.cached_tokens.tolist() == [0, 0, 4]
    # with 4 blocks row 1 takes 9's and 8's: only 7 is left
    r = simulate([(0.0, 6, 1), (1.0, 6, 1), (2.0, 6, 1)], block_size=2, blocks=4, prefixes=prefixes)
    assert r.cached_tokens.tolist() == [0, 0, 2]


def test_blocks_that_hold_nothing_whole_are_overwritten_first(simulate: Simulate) -> None:
    # 3 blocks. Row 0 leaves 7 and 8; rows 1 and 2, of one token, use the third block one after the other.
    prefixes = ([[7, 8], [], [], [7, 8]], 2)
    r = simulate([(0.0, 4, 1), (1.0, 1, 1), (2.0, 1, 1), (3.0, 5, 1)], block_size=2, blocks=3, prefixes=prefixes)
    assert r.cached_tokens.tolist() == [0, 0, 0, 4]


def test_different_content_is_never_taken_for_the_same(simulate: Simulate) -> None:
    # 33 contents in a table of 32 places (for 17 blocks): the first and the last share one.
    ids = [0, 32, *range(1, 32)]
    r = simulate([(float(t), 3, 1) for t in range(33)], block_size=2, blocks=16, prefixes=([[i] for i in ids], 2))
    assert r.cached_tokens.sum() == 0
    again = simulate([(0.0, 3, 1), (1.0, 3, 1), (2.0, 3, 1)], block_size=2, blocks=16, prefixes=([[0], [32], [0]], 2))
    assert again.cached_tokens.tolist() == [0, 0, 2]


@pytest.mark.parametrize(("caching", "tokens", "recomputed"), [(True, 4, 3), (False, 6, 5)])
def test_a_victim_finds_its_own_blocks(
    simulate: Simulate, batches: Batches, caching: bool, tokens: int, recomputed: int
) -> None:
    # 5 blocks. At 2 row 0 needs a third block and row 1 (5 tokens, blocks b0 b1 full, b2 half) is evicted. Row 0
    # takes b2, which holds no whole block, and at 4 b1, the tail of what can be found. When row 0 ends at 6, b0
    # is left: row 1 computes 4 of its 4 + 2 tokens, 3 of them (tokens 3 to 5) for the second time.
    r = simulate([(0.0, 3, 6), (0.0, 4, 4)], block_size=2, blocks=5, enable_prefix_caching=caching)
    assert batches(r) == [
        (0.0, {0: 3, 1: 4}, []),
        (1.0, {0: 1, 1: 1}, []),
        (2.0, {0: 1}, [1]),
        (3.0, {0: 1}, []),
        (4.0, {0: 1}, []),
        (5.0, {0: 1}, []),
        (6.0, {1: tokens}, []),
        (7.0, {1: 1}, []),
    ]
    assert r.recomputed_tokens.tolist() == [0, recomputed]
    assert r.cached_tokens.tolist() == [0, 0]  # of the first admission
