"""`fluid` over whole runs: greedy where memory is far, evictions at the share asked for, a pace where cohorts form."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fluidgate.engine import EngineConfig, RunRecords, run
from fluidgate.fluid import plan
from fluidgate.hardware import Hardware, StepTime
from fluidgate.policies import Fluid, Greedy
from fluidgate.testing import check_same
from fluidgate.workload import Workload

STEP = StepTime(0.012, 4e-5, 3.5e-7)
Ints = NDArray[np.int64]


def machine(blocks: int) -> Hardware:
    return Hardware("small", STEP, blocks + 1, 16)


def burst(output_tokens: Ints, prompt_tokens: int = 60, **labels: Any) -> Workload:
    """All requests at once."""
    n = len(output_tokens)
    return Workload(np.zeros(n), np.full(n, prompt_tokens), output_tokens, name="burst", **labels)


def admissions(records: RunRecords) -> Ints:
    """Requests that started in each iteration."""
    assert records.steps is not None
    started = np.searchsorted(records.steps.start_s, records.first_scheduled_s)
    return np.bincount(started, minlength=len(records.steps))


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.sampled_from(["one length", "dispersed"]), st.floats(0.2, 0.7))
def test_far_from_memorys_end_it_is_greedy(seed: int, lengths: str, share_of_onset: float) -> None:
    """Below the load at which two standard deviations of greedy's memory reach capacity."""
    rng = np.random.default_rng(seed)
    n = 120
    output = np.full(n, 100) if lengths == "one length" else np.clip(rng.lognormal(4.0, 0.8, n), 1, 800).astype(int)
    workload = Workload(np.cumsum(rng.exponential(1.0, n)), np.full(n, 200), output)
    planned = plan(workload, machine(2400))
    assert planned.stability.onset_rate is not None
    lighter = workload.scaled(share_of_onset * planned.stability.onset_rate / planned.stability.rate)
    theirs, ours = (run(lighter, machine(2400), p, record="decisions") for p in (Greedy(), Fluid.from_plan(planned)))
    check_same(replace(ours, policy=theirs.policy), theirs, "fluid is greedy")


def long_outputs(seed: int, n: int = 2500) -> Ints:
    return np.clip(np.random.default_rng(seed).lognormal(np.log(600), 0.6, n), 1, 4000).astype(int)


def knowing(output_tokens: Ints, evicted_share: float, *, times: float = 1.0) -> Fluid:
    """`fluid` with the law of these lengths, or one that is off by a factor."""
    quantiles = times * np.quantile(output_tokens, (np.arange(64) + 0.5) / 64)
    return Fluid(evicted_share, (1.0,), (60.0,), tuple(quantiles.tolist()))


@pytest.mark.parametrize("seed", [1, 2])
def test_evictions_settle_at_the_share_asked_for(seed: int) -> None:
    output = long_outputs(seed)
    evicted = {}
    for asked in (0.1, 0.4):
        records = run(burst(output), machine(1600), knowing(output, asked))
        evicted[asked] = records.preemptions[len(output) // 4 :].mean()
        assert 0.3 * asked < evicted[asked] < 1.6 * asked
    assert evicted[0.1] < evicted[0.4]
    assert run(burst(output), machine(1600), knowing(output, 0.0)).preemptions.mean() < evicted[0.1] / 2
    assert run(burst(output), machine(1600), Greedy()).preemptions.mean() > 5 * evicted[0.4]


def test_a_wrong_prior_is_soon_put_right() -> None:
    output = long_outputs(3)
    right, *others = (
        run(burst(output), machine(1600), policy).end_s
        for policy in (
            knowing(output, 0.1),
            knowing(output, 0.1, times=0.5),
            knowing(output, 0.1, times=2.0),
            Fluid(0.1),
        )
    )
    assert max(others) < 1.1 * right


def test_equal_lengths_are_paced() -> None:
    """One after the other at x*, with room to run ahead by 2, however long it lasts; unpaced ones come in crowds."""
    output = np.full(1200, 100)
    planned = plan(replace(burst(output), arrival_s=np.arange(1200) / 10), machine(400))
    assert planned.stability.coherence == 1.0
    pace = planned.rate_limit
    saturated = slice(800, -200)
    paced = admissions(run(burst(output), machine(400), Fluid.from_plan(planned), record="steps"))[saturated]
    assert np.quantile(paced, 0.99) <= 2 + pace
    assert paced.max() <= 3 + pace  # where the law is in doubt of what lies past the one length
    over_a_while = np.convolve(paced, np.ones(50), "valid")
    assert over_a_while.max() <= 2 + 1.1 * pace * 50  # E[a], and so x*, is known to within half a cell of lengths
    assert over_a_while.min() >= 0.8 * pace * 50
    assert admissions(run(burst(output), machine(400), Greedy(), record="steps"))[saturated].max() > 10


def test_dispersed_lengths_are_not_paced() -> None:
    output = np.random.default_rng(0).geometric(1 / 100, 1200)
    planned = plan(replace(burst(output), arrival_s=np.arange(1200) / 10), machine(400))
    assert planned.stability.coherence < 0.8
    records = run(burst(output), machine(400), Fluid.from_plan(planned), record="steps")
    assert admissions(records)[400:-200].max() > 4 + planned.rate_limit


def test_labelled_classes_have_credits_of_their_own() -> None:
    """All short ones came first, and yet both kinds enter side by side; without labels they enter as they came."""
    output = np.repeat([100, 200], 300)
    labelled = burst(output, class_id=np.repeat([0, 1], 300), class_names=("short", "long"))
    policies = {
        "labels": Fluid(0.1, (0.5, 0.5), (60.0, 60.0), (100.0, 200.0)),
        "none": Fluid(0.1, (1.0,), (60.0,), (100.0, 200.0)),
    }
    long_of_first_half = {}
    for name, policy in policies.items():
        records = run(labelled, machine(400), policy)
        first = np.argsort(records.first_scheduled_s, kind="stable")[:300]
        long_of_first_half[name] = (first >= 300).mean()
    assert long_of_first_half["none"] == 0.0
    assert 0.4 < long_of_first_half["labels"] < 0.6


def test_classes_of_dispersed_lengths_enter_in_order_of_arrival() -> None:
    output = np.random.default_rng(1).geometric(1 / 100, 600)
    classes = np.random.default_rng(2).integers(0, 2, 600)
    labelled = replace(burst(output, class_id=classes, class_names=("a", "b")), arrival_s=np.arange(600) / 1000)
    planned = plan(labelled, machine(400))
    records = run(labelled, machine(400), Fluid.from_plan(planned))
    assert len(planned.mix.classes) == 2
    assert (np.diff(records.first_scheduled_s) >= 0).all()
    assert records.held_s.max() > 1.0


@pytest.mark.parametrize("shared", [True, False])
def test_residents_on_one_prefix_leave_room(shared: bool) -> None:
    """Three prompts of 640, 600 of them in common, on 1900 tokens: 600 + 3·(40 + 50) fit, 3·690 do not."""
    blocks = np.arange(600 // 20)
    own = 100 * np.arange(1, 4)[:, None] * (not shared)
    workload = Workload(
        np.array([0.0, 0.1, 0.2]),
        np.full(3, 640),
        np.full(3, 50),
        prefix_ids=(blocks + own).ravel(),
        prefix_offsets=30 * np.arange(4),
        prefix_block_tokens=20,
        name="one prefix",
    )
    hardware = Hardware("by hand", StepTime(c0=0.01), 1901, 1)
    policy = Fluid(0.1, (1.0,), (640.0,), (50.0,))
    records = run(workload, hardware, policy, EngineConfig(enable_prefix_caching=True))
    assert records.preemptions.sum() == 0
    assert (records.first_scheduled_s[2] < records.last_token_s[0]) == shared
