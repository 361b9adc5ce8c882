"""Each policy, worked on paper: a block holds one token, an iteration lasts one second."""

from collections.abc import Callable

import pytest

from fluidgate.engine import EngineConfig, RunRecords
from fluidgate.policies import ConcurrencyCap, Greedy, NestedWait, Policy, RateLimited, Wait, Watermark

Simulate = Callable[..., RunRecords]
Rows = Callable[[RunRecords], list[tuple[float, list[int]]]]


def test_greedy_admits_what_fits_and_holds_nobody(simulate: Simulate) -> None:
    # 10 blocks: 4 + 4 fit; the third prompt enters when the first two, of one token each, have left.
    r = simulate(Greedy(), [(0.0, 4, 1), (0.0, 4, 1), (0.0, 4, 1)], blocks=10)
    assert r.first_scheduled_s.tolist() == [0.0, 0.0, 1.0]
    assert r.held_s.tolist() == [0.0, 0.0, 0.0]


def test_watermark_is_the_engines(simulate: Simulate) -> None:
    # int(0.3 · 11) = 3 blocks stay free: 4 + 4 > 10 - 3.
    requests = [(0.0, 4, 2), (0.0, 4, 1)]
    r = simulate(Watermark(0.3), requests, blocks=10)
    assert r.first_scheduled_s.tolist() == [0.0, 2.0]
    assert r.config.watermark == 0.3
    assert simulate(Watermark(0.2), requests, blocks=10).first_scheduled_s.tolist() == [0.0, 0.0]
    loose = EngineConfig(watermark=0.0)  # the policy's own share counts
    assert simulate(Watermark(0.3), requests, blocks=10, config=loose).first_scheduled_s.tolist() == [0.0, 2.0]


def test_concurrency_cap_counts_residents(simulate: Simulate) -> None:
    r = simulate(ConcurrencyCap(1.0), [(0.0, 1, 2)] * 3)
    assert r.first_scheduled_s.tolist() == [0.0, 2.0, 4.0]
    assert r.held_s.tolist() == [0.0, 2.0, 4.0]
    r = simulate(ConcurrencyCap(2.9), [(0.0, 1, 2), (0.0, 1, 3), (0.0, 1, 2), (0.0, 1, 1)])
    assert r.first_scheduled_s.tolist() == [0.0, 0.0, 2.0, 3.0]


def test_only_the_policys_own_hold_counts_as_held(simulate: Simulate) -> None:
    # 4 blocks: the cap of 2 would let row 1 in, but its prompt of 3 has to wait for row 0 to end.
    r = simulate(ConcurrencyCap(2.0), [(0.0, 3, 2), (0.0, 3, 1)], blocks=4)
    assert r.first_scheduled_s.tolist() == [0.0, 2.0]
    assert r.held_s.tolist() == [0.0, 0.0]


def test_a_hold_before_an_eviction_still_counts(simulate: Simulate) -> None:
    # 10 blocks. Row 1 enters at 2, when half a request per iteration allows it. KV 3 + 2, ... 6 + 4 in the step from
    # 4; at 5 row 0 evicts it, and at 8, when row 0 has ended, the credit has long been there again.
    config = EngineConfig(enable_prefix_caching=False)
    r = simulate(RateLimited(0.5), [(0.0, 2, 8), (0.0, 2, 4)], blocks=10, config=config)
    assert r.preemptions.tolist() == [0, 1]
    assert r.last_token_s.tolist() == [8.0, 9.0]
    assert r.held_s.tolist() == [0.0, 2.0]


def test_rate_limited_carries_fractions_over(simulate: Simulate) -> None:
    # Half a request per iteration: the first at once, then every second iteration.
    r = simulate(RateLimited(0.5), [(0.0, 1, 8)] * 4)
    assert r.first_scheduled_s.tolist() == [0.0, 2.0, 4.0, 6.0]
    assert r.held_s.tolist() == [0.0, 2.0, 4.0, 6.0]


def test_rate_limited_does_not_save_up_a_burst(simulate: Simulate) -> None:
    # From 0 to 10 credit would reach 5 and is cut at 1.5: one enters at 10 (0.5 is left), one at 11, one at 13.
    r = simulate(RateLimited(0.5), [(0.0, 1, 20)] + [(10.0, 1, 5)] * 3)
    assert r.first_scheduled_s.tolist() == [0.0, 10.0, 11.0, 13.0]


def test_rate_limited_admits_several_per_iteration(simulate: Simulate) -> None:
    # The first credit is one; then two per iteration.
    r = simulate(RateLimited(2.0), [(0.0, 1, 3)] * 5)
    assert r.first_scheduled_s.tolist() == [0.0, 1.0, 1.0, 2.0, 2.0]


def test_rate_limited_never_holds_an_idle_engine(simulate: Simulate) -> None:
    # Output 1: each has left when the next iteration begins, so none waits for its credit of 0.01.
    r = simulate(RateLimited(0.01), [(0.0, 1, 1)] * 3)
    assert r.first_scheduled_s.tolist() == [0.0, 1.0, 2.0]


def test_wait_to_the_letter_idles_and_does_not_drain(simulate: Simulate, rows: Rows) -> None:
    # n = 2, outputs of 2. One waiting at 0: idle. Two at 1: both enter. One at 2: the residents pause. Two at 3:
    # rows 0 and 1 run beside the new ones and end. One at 4: nothing happens any more.
    policy = Wait(hold_s=0.0, strict=True, thresholds=(2.0,), output_edges=())
    r = simulate(policy, [(float(t), 1, 2) for t in range(5)])
    assert rows(r) == [(1.0, [0, 1]), (3.0, [0, 1, 2, 3])]
    assert r.stalled
    assert r.finished.tolist() == [True, True, False, False, False]
    assert r.generated_tokens.tolist() == [2, 2, 1, 1, 0]
    assert r.end_s == 4.0
    assert r.computed_tokens == 6
    # row 0 is held for 1 s; 2 is there from 2 to 3; 4 comes when the run ends
    assert r.held_s.tolist() == [1.0, 0.0, 1.0, 0.0, 0.0]


def test_wait_to_the_letter_runs_eligible_types_only(simulate: Simulate, rows: Rows) -> None:
    # Type 1 (output at most 2) needs one waiting, type 2 needs two. At 1 both are eligible; at 2 nobody waits, so
    # all pause; row 4 wakes type 1 alone, whose row 3 ends.
    policy = Wait(hold_s=0.0, strict=True, thresholds=(1.0, 2.0), output_edges=(2.0,))
    r = simulate(policy, [(0.0, 1, 2), (0.0, 1, 3), (1.0, 1, 3), (1.0, 1, 2), (5.0, 1, 2)])
    assert rows(r) == [(0.0, [0]), (1.0, [0, 1, 2, 3]), (5.0, [3, 4])]
    assert r.finished.tolist() == [True, False, False, True, False]


def test_wait_to_the_letter_admits_n_per_iteration(simulate: Simulate, rows: Rows) -> None:
    policy = Wait(hold_s=0.0, strict=True, thresholds=(1.0,), output_edges=())
    r = simulate(policy, [(0.0, 1, 3)] * 3)
    assert rows(r) == [(0.0, [0]), (1.0, [0, 1]), (2.0, [0, 1, 2])]
    assert r.generated_tokens.tolist() == [3, 2, 1]


def test_wait_to_the_letter_runs_n_per_stage(simulate: Simulate, rows: Rows) -> None:
    # Prompts of 3 in chunks of 1, so rows 0 and 1 are both at stage 0 when the step from 2 begins: n = 1 of them runs.
    policy = Wait(hold_s=0.0, strict=True, thresholds=(1.0,), output_edges=())
    r = simulate(policy, [(0.0, 3, 2)] * 3, config=EngineConfig(long_prefill_token_threshold=1))
    assert rows(r) == [(0.0, [0]), (1.0, [0, 1]), (2.0, [0, 2])]


@pytest.mark.parametrize(("hold_s", "start_s"), [(4.0, 5.0), (3.5, 5.0), (3.0, 4.0), (0.0, 1.0)])
@pytest.mark.parametrize("kind", ["wait", "nested-wait"])
def test_the_hold_of_an_incomplete_group_is_bounded(
    simulate: Simulate, kind: str, hold_s: float, start_s: float
) -> None:
    # Pace 2. Row 1 arrives alone at 1 and enters in the first iteration from 1 + hold on, beside the running row 0.
    policy: Policy = Wait(hold_s, False, (2.0,), ()) if kind == "wait" else NestedWait(hold_s, False, (2.0,), ())
    r = simulate(policy, [(0.0, 1, 10), (1.0, 1, 2)])
    assert r.first_scheduled_s.tolist() == [0.0, start_s]
    assert r.held_s.tolist() == [0.0, start_s - 1.0]
    # a second one completes the group at 2
    r = simulate(policy, [(0.0, 1, 10), (1.0, 1, 2), (2.0, 1, 2)])
    assert r.first_scheduled_s.tolist() == [0.0, min(start_s, 2.0), 2.0]


@pytest.mark.parametrize("kind", ["wait", "nested-wait"])
def test_paced_entry(simulate: Simulate, kind: str) -> None:
    policy: Policy = Wait(9.0, False, (0.5,), ()) if kind == "wait" else NestedWait(9.0, False, (0.5,), ())
    r = simulate(policy, [(0.0, 1, 8)] * 4)
    assert r.first_scheduled_s.tolist() == [0.0, 2.0, 4.0, 6.0]


def test_wait_paces_each_type(simulate: Simulate) -> None:
    # Short ones (output at most 2) every second iteration, long ones every fourth; the earliest may start an idle
    # engine, and each type's first credit is there at once.
    policy = Wait(0.0, False, (0.5, 0.25), (2.0,))
    r = simulate(policy, [(0.0, 1, 9), (0.0, 1, 9), (0.0, 1, 2), (0.0, 1, 2), (0.0, 1, 9)])
    assert r.first_scheduled_s.tolist() == [0.0, 4.0, 0.0, 2.0, 8.0]


def test_wait_starts_an_idle_engine_with_the_earliest(simulate: Simulate) -> None:
    # Rows 0 and 1 take both types' first credit; the last of them ends at 4. Of the two that wait, without a whole
    # credit, row 2 of type 2 came first; it ends at 8.
    policy = Wait(0.0, False, (0.01, 0.01), (2.0,))
    r = simulate(policy, [(0.0, 1, 1), (0.0, 1, 4), (0.25, 1, 4), (0.5, 1, 1)])
    assert r.first_scheduled_s.tolist() == [0.0, 0.0, 4.0, 8.0]


def test_wait_pauses_the_last_in_instead_of_evicting(simulate: Simulate, rows: Rows) -> None:
    # 6 blocks, three prompts of 1 that enter at 0, 1, 1. KV 1; 2 1 1; at 2 three need a block each and two are
    # free: row 2 pauses. KV 3 2 1: nothing is free, rows 2 and 1 pause, and row 0, of 3 outputs, has ended.
    policy = Wait(0.0, False, (2.0,), ())
    r = simulate(policy, [(0.0, 1, 3), (0.0, 1, 3), (0.0, 1, 3)], blocks=6)
    assert rows(r) == [(0.0, [0]), (1.0, [0, 1, 2]), (2.0, [0, 1]), (3.0, [1, 2]), (4.0, [2])]
    assert r.preemptions.sum() == 0


def test_nested_wait_to_the_letter(simulate: Simulate, rows: Rows) -> None:
    # Segment 1 is stage 0 (n = 2), segment 2 begins at stage 1 (n = 1). At 1 one waits: idle. At 2 two wait and two
    # stand at stage 1: both segments run, one request per stage in the second, so row 1 pauses. At 5 the same:
    # row 0 (stage 2) and row 1, the first at stage 1, run, and row 0 ends.
    policy = NestedWait(0.0, True, (2.0, 1.0), (1.0,))
    r = simulate(policy, [(t, 1, 3) for t in (0.0, 0.0, 1.0, 2.0, 5.0, 5.0)])
    assert rows(r) == [(0.0, [0, 1]), (2.0, [0, 2, 3]), (5.0, [0, 1, 4, 5])]
    assert r.stalled
    assert r.generated_tokens.tolist() == [3, 2, 1, 1, 1, 1]
    assert r.finished.tolist() == [True, False, False, False, False, False]


def test_strict_nested_wait_has_no_seats(simulate: Simulate) -> None:
    """Of one arrival per second one runs and the others pause behind it, more than there are seats."""
    requests = [(float(t), 1, 3) for t in range(6)]
    r = simulate(NestedWait(0.0, True, (1.0, 4.0), (1.0,)), requests, config=EngineConfig(max_num_seqs=2))
    assert r.first_scheduled_s.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert r.steps is not None
    assert r.steps.running.max() == 6


def test_strict_nested_wait_counts_stages_beyond_its_table(monkeypatch: pytest.MonkeyPatch, simulate: Simulate) -> None:
    policy = NestedWait(0.0, True, (2.0, 1.0), (1.0,))
    requests = [(t, 1, 6) for t in (0.0, 0.0, 1.0, 2.0, 5.0, 5.0, 6.0, 7.0, 8.0, 8.0)]
    counted = simulate(policy, requests)
    monkeypatch.setattr("fluidgate.policies.nested_wait.COUNTED_STAGES", 2)
    looked_for = simulate(policy, requests)
    assert looked_for.last_token_s.tolist() == pytest.approx(counted.last_token_s.tolist(), nan_ok=True)
    assert looked_for.generated_tokens.tolist() == counted.generated_tokens.tolist()
    assert counted.generated_tokens.max() > 3


def test_nested_wait_stops_at_the_first_segment_that_lacks(simulate: Simulate, rows: Rows) -> None:
    # n = 1, 2, 1 from stages 0, 1, 2; one arrival per second. At 3 segment 3 has its one (rows 0 and 1 at stage 2),
    # but segment 2 has one of two, so segment 1 runs alone. At 4 all three run, one per stage in the third.
    policy = NestedWait(0.0, True, (1.0, 2.0, 1.0), (1.0, 2.0))
    r = simulate(policy, [(float(t), 1, 4) for t in range(5)])
    assert rows(r) == [(0.0, [0]), (1.0, [1]), (2.0, [0, 1, 2]), (3.0, [3]), (4.0, [0, 2, 3, 4])]
    assert r.generated_tokens.tolist() == [3, 2, 2, 2, 1]


def test_nested_wait_pauses_deep_segments_first(simulate: Simulate, rows: Rows) -> None:
    # 9 blocks, segment 2 from stage 2 with n = 3. KV 1; 2 1 1; 3 2 2, and then three blocks are needed of two free:
    # two of three stand at stage 2, so the segment pauses but for the first row, which ends at 5. No eviction.
    policy = NestedWait(0.0, False, (4.0, 3.0), (2.0,))
    r = simulate(policy, [(0.0, 1, 5), (0.0, 1, 4), (0.0, 1, 4)], blocks=9)
    assert rows(r) == [
        (0.0, [0]),
        (1.0, [0, 1, 2]),
        (2.0, [0, 1, 2]),
        (3.0, [0]),
        (4.0, [0]),
        (5.0, [1, 2]),
        (6.0, [1, 2]),
    ]
    assert r.preemptions.sum() == 0
    # with n = 2 the segment is complete, and only the last in pauses
    r = simulate(NestedWait(0.0, False, (4.0, 2.0), (2.0,)), [(0.0, 1, 5), (0.0, 1, 4), (0.0, 1, 4)], blocks=9)
    assert rows(r)[3] == (3.0, [0, 1])
