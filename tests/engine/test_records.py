"""The derived records: silences, memory, and the run as a whole, on numbers worked out by hand."""

from collections.abc import Callable

import numpy as np
import pytest

from fluidgate.engine import RunRecords
from fluidgate.hardware import StepTime
from fluidgate.policies import Wait

Simulate = Callable[..., RunRecords]


def gaps_near(records: RunRecords, gap_s: float) -> int:
    """Gaps counted in the bin that holds `gap_s`."""
    i = int(np.searchsorted(records.gap_edges_s, gap_s, side="right")) - 1
    return int(records.gap_counts[i]) if 0 <= i < len(records.gap_counts) else 0


def test_gaps_between_tokens(simulate: Simulate) -> None:
    # Steps of 1 s + 0.5 s per token. Row 0 alone: prefill 1.5, decode 1.5 (gap 1.5); from 3.0 row 1's prompt of 3
    # beside it: 1 + 0.5·4 = 3 (gap 3); then both decode: 2 s each.
    r = simulate([(0.0, 1, 4), (2.0, 3, 2)], step=StepTime(1.0, 0.5))
    assert r.last_token_s.tolist() == [8.0, 8.0]
    assert r.gap_counts.sum() == 3 + 1
    assert (gaps_near(r, 1.5), gaps_near(r, 3.0), gaps_near(r, 2.0)) == (1, 1, 2)
    assert r.gap_sum_s == 1.5 + 3.0 + 2.0 + 2.0
    assert r.longest_gap_s.tolist() == [3.0, 2.0]
    assert (np.diff(r.gap_edges_s) / r.gap_edges_s[:-1] <= 2**-10).all()


def test_memory_over_time(simulate: Simulate) -> None:
    # 10 blocks; KV 8, 9, 10 for a second each, and then nothing: above 9 of 10 only in the last.
    r = simulate([(0.0, 8, 3), (20.0, 1, 1)], blocks=10)
    assert r.peak_blocks == 10
    assert r.mean_blocks == (8 + 9 + 10 + 1) / 4
    assert r.nearly_full_s == 1.0
    assert (r.busy_s, r.end_s, r.iterations) == (4.0, 21.0, 4)


def test_left_over_requests_are_reported(simulate: Simulate) -> None:
    r = simulate([(0.0, 3, 9)], policy=Wait(0.0, True, (1.0,), ()))
    assert r.stalled
    assert not r.finished.any()
    assert r.generated_tokens.tolist() == [1]
    assert r.computed_tokens == 3
    assert r.first_token_s.tolist() == [1.0]
    r = simulate([(0.0, 3, 9)], policy=Wait(0.0, True, (2.0,), ()))
    assert np.isnan(r.first_scheduled_s).all()
    assert np.isnan(r.first_token_s).all()
    assert (r.end_s, r.busy_s, r.mean_blocks, len(r)) == (0.0, 0.0, 0.0, 1)


@pytest.mark.parametrize("long", [5_000, 9_000])
def test_the_log_grows_with_the_run(simulate: Simulate, long: int) -> None:
    r = simulate([(0.0, 1, long)], blocks=long)
    assert r.steps is not None
    assert len(r.steps) == len(r.steps.batch) == long
    assert r.last_token_s.tolist() == [float(long)]
    assert r.steps.end_s[-1] == long
