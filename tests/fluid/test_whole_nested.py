"""Whole thresholds of Nested WAIT: the paper's conditions, and no smaller ones that meet them."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluidgate.errors import ThresholdWarning
from fluidgate.fluid import (
    Limits,
    RequestMix,
    Segments,
    WholeNestedThresholds,
    nested_shape,
    plan,
    segments,
    stability,
    whole_nested_thresholds,
)
from fluidgate.fluid.segments import candidate_cuts
from fluidgate.hardware import Hardware, StepTime
from fluidgate.policies import NestedWait, make_policy

FIXED = StepTime(c0=0.1)
LARGE = Limits(10**9)


def memory_of(cut: Segments, n: np.ndarray) -> float:
    return float(n @ (cut.stages * cut.memory_tokens))


def test_one_length_needs_what_arrives_in_an_iteration() -> None:
    """4.9 requests arrive per 0.1 s: 5 enter together. At 50 req/s just 5 do, and the paper asks for more."""
    for rate, entry in ((49.0, 5), (50.0, 6), (9.0, 1)):
        whole = whole_nested_thresholds(RequestMix([rate], [10], [20]), FIXED, LARGE)
        assert whole.thresholds.tolist() == [entry]
        assert whole.feasible
        assert whole.rate == pytest.approx(entry / 0.1)


def test_whole_ratios_lie_strictly_between_survival_and_one() -> None:
    """Half survive: 2, 1 falls only as fast as they do, 3, 2 does it; of one segment 1 is enough."""
    cut = segments(RequestMix([1.0, 1.0], [10, 10], [20, 400]), np.array([20, 400]), LARGE.law, "mean")
    whole = whole_nested_thresholds(RequestMix([1.0, 1.0], [10, 10], [20, 400]), FIXED, LARGE)
    assert whole.thresholds.tolist() == [1]
    assert memory_of(cut, np.array([3, 2])) > memory_of(whole.segments, np.array([1]))
    # at 24 req/s 3 must enter, and of two segments the second needs only 2
    busy = whole_nested_thresholds(RequestMix([12.0, 12.0], [10, 10], [20, 400]), FIXED, LARGE)
    assert busy.thresholds.tolist() == [3, 2]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.floats(0.1, 5.0), st.integers(1, 200), st.integers(1, 60)), min_size=1, max_size=4),
    st.floats(0.1, 0.9),
    st.floats(1e-6, 1e-4),
)
def test_no_smaller_thresholds_meet_the_conditions(
    rows: list[tuple[float, int, int]], load: float, c_kv: float
) -> None:
    """Against every chain of whole numbers up to 9, in every way to cut the decode."""
    step_time, limits = StepTime(0.02, c_tok=1e-4, c_kv=c_kv), Limits(20_000)
    mix = RequestMix(*zip(*rows, strict=True))
    mix = mix.scaled(load * stability(mix, step_time, limits).boundary_rate)
    found = whole_nested_thresholds(mix, step_time, limits)
    chains = [
        (memory_of(cut, n), n[0] / _seconds(cut, n, step_time))
        for cut in (segments(mix, cuts, limits.law, "mean") for cuts in candidate_cuts(mix))
        for n in map(np.array, product(range(1, 10), repeat=len(cut)) if len(cut) <= 4 else ())
        if np.all((n[1:] / n[:-1] > cut.survival[1:] * (1 + 1e-9)) & (n[1:] < n[:-1]))
    ]
    check(found, step_time)
    serving = [memory for memory, rate in chains if rate > mix.total_rate * (1 + 1e-9)]
    fitting = [rate for memory, rate in chains if memory <= limits.kv_tokens]
    if serving:
        assert found.required_memory_tokens <= min(serving) * (1 + 1e-9)
    if serving and min(serving) <= limits.kv_tokens:
        assert found.feasible
    if found.feasible:
        assert found.rate > mix.total_rate
        assert found.memory_tokens == found.required_memory_tokens <= limits.kv_tokens
    elif fitting:
        assert found.memory_tokens <= limits.kv_tokens
        assert found.rate >= max(fitting) * (1 - 1e-9)
    else:
        assert found.memory_tokens <= min(memory for memory, _ in chains) * (1 + 1e-9)


def _seconds(cut: Segments, n: np.ndarray, step_time: StepTime) -> float:
    """n_k requests at every stage of segment k; n_1 of them have their whole prompt computed in stage 0."""
    requests = float(n @ cut.stages)
    kv_tokens = float(n @ (cut.stages * (cut.prompt_tokens + cut.mean_stage)))
    tokens = requests + n[0] * (cut.prompt_tokens[0] - 1)
    return float(step_time.duration_s(tokens, kv_tokens, n[0] * cut.attention_pairs, requests))


def check(found: WholeNestedThresholds, step_time: StepTime) -> None:
    """Ratios in their range, and what the thresholds cost."""
    cut, n = found.segments, found.thresholds
    assert np.all(n >= 1)
    assert np.all(n[1:] < n[:-1])
    assert np.all(n[1:] > cut.survival[1:] * n[:-1])
    assert found.iteration_time_s == pytest.approx(_seconds(cut, n, step_time))
    assert found.memory_tokens == pytest.approx(memory_of(cut, n))
    assert found.rate == pytest.approx(n[0] / found.iteration_time_s)


def test_real_thresholds_are_the_same_formula() -> None:
    """M^π and the iteration's time of thresholds that happen to be whole."""
    cut = segments(RequestMix([3.0, 1.0], [30, 50], [20, 90]), np.array([20, 90]), LARGE.law, "mean")
    step_time = StepTime(0.01, 1e-4, 1e-6, 1e-8)
    shape = nested_shape(cut, 1.0 / 3.0, step_time)  # a quarter survives, so the ratio is a half
    n = np.array([2, 1])
    assert shape.profile.tolist() == pytest.approx([1.0, 0.5])
    assert memory_of(cut, n) == pytest.approx(2 * shape.memory_tokens)
    assert _seconds(cut, n, step_time) == pytest.approx(step_time.c0 + 2 * shape.work_s)


def test_what_does_not_fit_is_said_and_runs_with_a_warning() -> None:
    """Outputs of 900 tokens: one at each stage holds 900·(100 + 450) tokens, more than there are."""
    mix = RequestMix([0.5], [100], [900])
    small = plan(mix, Hardware("small", FIXED, 10_001, 16))
    sentence = "Nested WAIT with whole-number thresholds is infeasible: it needs 50[0-9],[0-9]{3} KV tokens"
    assert not small.nested_whole.feasible
    assert [s for s in small.thresholds_verdict if "Nested WAIT with whole" in s]
    with pytest.warns(ThresholdWarning, match=sentence):
        policy = make_policy("nested-wait:strict=true", small)
    assert isinstance(policy, NestedWait)
    assert policy.thresholds == (1.0,)


def test_where_memory_is_short_they_serve_what_it_holds() -> None:
    """5 of 20 tokens each hold 5·20·(10 + 10) tokens and more; 4 fit, which serve 40 req/s."""
    found = whole_nested_thresholds(RequestMix([49.0], [10], [20]), FIXED, Limits(4.5 * 20 * 20))
    assert not found.feasible
    assert found.thresholds.tolist() == [4]
    assert found.rate == pytest.approx(40.0)
    assert found.required_memory_tokens > 4.5 * 20 * 20


def test_what_fits_runs_without_a_word(recwarn: pytest.WarningsRecorder) -> None:
    roomy = plan(RequestMix([0.5], [100], [900]), Hardware("roomy", FIXED, 100_001, 16))
    assert not [s for s in roomy.thresholds_verdict if "Nested WAIT with whole" in s]
    make_policy("nested-wait:strict=true", roomy)
    assert not recwarn.list


def test_wait_warns_too() -> None:
    small = plan(RequestMix([0.5], [100], [900]), Hardware("small", FIXED, 10_001, 16))
    with pytest.warns(ThresholdWarning, match=r"^WAIT with whole-number thresholds is infeasible: .* wait:strict=true"):
        make_policy("wait:strict=true", small)
