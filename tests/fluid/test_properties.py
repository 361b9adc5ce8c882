"""Laws that hold for every mix and machine."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fluidgate.fluid import (
    Guarantee,
    Limits,
    RequestMix,
    Stability,
    best_nested,
    decay_rate,
    equilibrium,
    largest_guaranteed_rate,
    plan,
    stability,
    wait_thresholds,
)
from fluidgate.hardware.core import Hardware, StepTime

types = st.lists(st.tuples(st.floats(0.01, 20.0), st.integers(1, 3000), st.integers(1, 1500)), min_size=1, max_size=30)
steps = st.builds(
    StepTime,
    st.floats(1e-4, 0.1),
    st.floats(0.0, 1e-3),
    st.floats(0.0, 1e-6),
    st.floats(0.0, 1e-8),
)
machines = st.builds(
    Limits,
    st.floats(5_000, 1e6),
    st.sampled_from([1, 16, 32]),
    st.none() | st.integers(1, 10_000),
    st.none() | st.integers(1, 1_000),
)


def mix_of(rows: list[tuple[float, int, int]], prefill_emits_token: bool = True) -> RequestMix:
    return RequestMix(*zip(*rows, strict=True), prefill_emits_token)


def below_boundary(mix: RequestMix, step: StepTime, limits: Limits, load: float) -> RequestMix:
    return mix.scaled(load * stability(mix, step, limits).boundary_rate)


@given(types, steps, st.floats(0.01, 0.98), st.floats(1.001, 1.02))
def test_equilibrium_memory_rises_with_the_rate(rows, step, busy, more) -> None:
    mix = mix_of(rows)
    most = 1.0 / mix.mean(mix.work_s(step)) if mix.mean(mix.work_s(step)) > 0 else 100.0
    less, greater = (equilibrium(mix.scaled(most * share), step) for share in (busy, busy * more))
    assert less is not None
    assert greater is None or greater.kv_tokens > less.kv_tokens


@given(types, steps, machines, st.floats(1.0, 10.0))
def test_more_of_anything_never_lowers_the_boundary(rows, step, limits, more) -> None:
    mix = mix_of(rows)
    base = stability(mix, step, limits).boundary_rate
    larger = [Limits(limits.kv_tokens * more, limits.block_size, limits.max_num_batched_tokens, limits.max_num_seqs)]
    if limits.max_num_batched_tokens:
        budget = int(limits.max_num_batched_tokens * more)
        larger.append(Limits(limits.kv_tokens, limits.block_size, budget, limits.max_num_seqs))
    if limits.max_num_seqs:
        seats = int(limits.max_num_seqs * more)
        larger.append(Limits(limits.kv_tokens, limits.block_size, limits.max_num_batched_tokens, seats))
    assert all(stability(mix, step, other).boundary_rate >= base * (1 - 1e-12) for other in larger)


@given(types, steps, machines, st.floats(0.1, 0.9))
def test_splitting_a_type_changes_nothing(rows, step, limits, share) -> None:
    (rate, prompt, output), *rest = rows
    split = [(rate * share, prompt, output), (rate * (1 - share), prompt, output), *rest]
    whole, parts = (stability(mix_of(r), step, limits) for r in (rows, split))
    for name in ("boundary_rate", "residents", "eta", "load", "kv_use", "watermark", "coherence"):
        assert getattr(whole, name) == pytest.approx(getattr(parts, name), rel=1e-9, abs=1e-12)
    assert (whole.binding, whole.onset_load is None) == (parts.binding, parts.onset_load is None)


@given(types, steps, machines)
def test_the_boundary_is_where_the_equilibrium_meets_the_least_limit(rows, step, limits) -> None:
    mix = mix_of(rows)
    s: Stability = stability(mix, step, limits)
    steady_state = equilibrium(mix.scaled(s.boundary_rate), step, limits.law)
    assume(s.eta > 1e-6)
    assert steady_state is not None
    assert steady_state.admissions_per_iteration == pytest.approx(s.admissions_per_iteration, rel=1e-6)
    use = (
        steady_state.memory_tokens / limits.kv_tokens,
        steady_state.admissions_per_iteration * mix.mean(mix.tokens) / limits.batched_tokens,
        steady_state.residents / limits.seats,
    )
    assert max(use) == pytest.approx(1.0, rel=1e-6)
    assert 0.0 < s.eta <= 1.0
    assert s.onset_load is None or 0.0 < s.onset_load <= 1.0 + 1e-12


@given(types, steps, machines, st.floats(0.05, 0.95))
def test_the_papers_convention_is_one_output_token_less(rows, step, limits, load) -> None:
    engine = mix_of(rows)
    paper = mix_of([(rate, prompt, output - 1) for rate, prompt, output in rows], prefill_emits_token=False)
    a, b = stability(engine, step, limits), stability(paper, step, limits)
    assert a == b
    rate = load * a.boundary_rate
    one, other = (equilibrium(mix.scaled(rate), step, limits.law) for mix in (engine, paper))
    assert one is not None
    assert other is not None
    assert one.kv_tokens == other.kv_tokens
    nested = [best_nested(mix.scaled(rate), step, limits) for mix in (engine, paper)]
    assert nested[0][0].thresholds == pytest.approx(nested[1][0].thresholds)
    assert nested[0][1].required_tokens == pytest.approx(nested[1][1].required_tokens)


@given(types, steps, machines, st.floats(0.01, 0.999))
def test_wait_conditions_hold(rows, step, limits, load) -> None:
    mix = below_boundary(mix_of(rows), step, limits, load)
    wait = wait_thresholds(mix, step, limits)
    low, high = wait.period_range_s
    assert low < wait.period_s < high
    assert np.all(wait.iteration_time_s <= wait.thresholds / wait.rate * (1 + 1e-12))
    assert wait.memory_tokens <= limits.kv_tokens * (1 + 1e-9)
    classes = mix.grouped(wait.output_edges)
    duration_s = step.c0 + float(wait.integer @ classes.mean(mix.work_s(step)))
    assert np.all(duration_s <= wait.integer / wait.rate * (1 + 1e-9))
    assert np.all(wait.integer >= 1)
    if wait.integer_feasible:
        assert wait.integer_memory_tokens <= limits.kv_tokens


@settings(deadline=None, max_examples=40)
@given(types, steps, machines, st.floats(0.01, 0.98), st.sampled_from(["mean", "max"]))
def test_nested_conditions_hold(rows, step, limits, load, bound) -> None:
    mix = below_boundary(mix_of(rows), step, limits, load)
    nested, buffer = best_nested(mix, step, limits, Guarantee(), bound)
    n, cut = nested.thresholds, nested.segments
    assert nested.rate <= mix.total_rate * (1 + 1e-12)
    assert nested.iteration_time_s < n[0] / nested.rate
    assert np.all(cut.survival[1:] < n[1:] / n[:-1])
    assert np.all(n[1:] < n[:-1])
    assert nested.memory_tokens <= limits.kv_tokens * (1 + 1e-9)
    if buffer.feasible:
        assert buffer.required_tokens <= limits.kv_tokens * (1 + 1e-9)
        assert nested.rate == mix.total_rate
        assert buffer.guaranteed_rate >= mix.total_rate * (1 - 1e-9)


@settings(deadline=None, max_examples=30)
@given(types, steps, machines)
def test_no_guarantee_beyond_the_fluid_boundary(rows, step, limits) -> None:
    mix = mix_of(rows)
    guaranteed = largest_guaranteed_rate(mix, step, limits, Guarantee())
    assert 0.0 <= guaranteed < stability(mix, step, limits).boundary_rate


@given(st.floats(1e-3, 0.999), st.floats(1e-3, 0.999))
def test_decay_rate_solves_its_equation(p, slack) -> None:
    q = p + slack * (1 - p)
    assume(p < q < 1)
    theta = decay_rate(np.array([p]), np.array([q]))[0]
    assert theta > 8 * (q - p) * (1 - 1e-9)
    # Both sides of exp(-θ n_k)(1 - p + p e^θ)^n_{k-1} = 1, as logarithms per n_{k-1}.
    assert np.logaddexp(np.log1p(-p), np.log(p) + theta) == pytest.approx(q * theta, rel=1e-9)


@settings(deadline=None, max_examples=30)
@given(types, steps, st.floats(0.01, 5.0), st.integers(400, 50_000))
def test_every_plan_keeps_its_promises(rows, step, load, blocks) -> None:
    hardware = Hardware("any", step, blocks)
    mix = mix_of(rows)
    p = plan(mix, hardware, rate=load * stability(mix, step, Limits.of(hardware, 2048, 256)).boundary_rate)
    assert (p.equilibrium is None) == (p.stability.load > 1.0)
    assert p.threshold_rate <= p.stability.boundary_rate
    assert p.wait.memory_tokens <= hardware.kv_capacity_tokens
    if p.safety_buffer.feasible:
        assert p.safety_buffer.required_tokens <= hardware.kv_capacity_tokens * (1 + 1e-9)
    assert 0.01 <= p.watermark <= 0.3
    assert p.concurrency_cap <= 256 * (1 + 1e-12)
    assert len(p.verdict) >= 3
    assert len(p.thresholds_verdict) >= 1
