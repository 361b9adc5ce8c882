"""Bursty arrivals: the variance of the KV against closed forms, and the onset against runs."""

from dataclasses import replace

import numpy as np
import pytest

from fluidgate.fluid import FluidPlan, RequestMix, plan
from fluidgate.fluid.limits import Limits
from fluidgate.fluid.onset import Fluctuation
from fluidgate.hardware import Hardware, StepTime, get_hardware
from fluidgate.runs import compare
from fluidgate.workload import Workload, generate

STEP = StepTime(0.012, 4e-5, 3.5e-7)
A100 = Hardware("7B on A100", STEP, num_gpu_blocks=6876)
SINGLE = RequestMix([1.0], [100], [300])
MIXED = RequestMix([3.0, 2.0, 1.0], [900, 40, 300], [20, 700, 150])


def fluctuation(mix: RequestMix, step: StepTime = STEP) -> Fluctuation:
    return Fluctuation.of(mix, step, Limits.of(A100, None, None))


@pytest.mark.parametrize("mix", [SINGLE, MIXED])
def test_the_footprint_is_that_of_requests_followed_one_by_one(mix: RequestMix) -> None:
    footprint = np.zeros(mix.output_tokens.max())
    for rate, prompt, output in zip(mix.rate, mix.prompt_tokens, mix.output_tokens, strict=True):
        footprint[:output] += rate * (prompt + np.arange(output))
    expected = footprint.sum() ** 2 / (footprint**2).sum()
    assert fluctuation(mix).footprint_iterations == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("rate_variance", [1e-6, -1e-6])
def test_small_bursts_add_the_variance_that_the_rate_gives_the_mean(rate_variance: float) -> None:
    """dM*/dλ·λ is the mean's move with the rate, taken from the equilibrium by differences."""
    f, x, step = fluctuation(MIXED), 0.3, 1e-6

    def mean_at(rate: float) -> float:
        return f.kv_iterations * rate / (1.0 - f.work_share * rate)

    rate = x / (1.0 + f.work_share * x)
    move = (mean_at(rate * (1 + step)) - mean_at(rate * (1 - step))) / (2 * step)
    expected = 2.0 * np.sqrt(f.variance(x) + rate_variance * move**2)
    assert f.peak(x, rate_variance) - f.mean(x) == pytest.approx(expected, rel=1e-3)


def test_without_noise_of_its_own_the_cache_fills_where_the_burst_reaches_it() -> None:
    """Where requests are tiny beside the cache, two deviations of the rate are all: ρ(1 + 2σ) = 1."""
    f = replace(fluctuation(SINGLE), squared_kv_iterations=0.0, iterations=1e12)
    x = f.onset(f.capacity / f.kv_iterations, 0.1**2)
    assert x is not None
    load = (x / (1 + f.work_share * x)) / (1 / (f.kv_iterations / f.capacity + f.work_share))
    assert load == pytest.approx(1 / 1.2, rel=1e-6)


def planned(work: Workload | RequestMix, **given: float) -> FluidPlan:
    """Where memory alone limits."""
    return plan(work, A100, max_num_seqs=None, max_num_batched_tokens=None, **given)


def drawn(arrival_s: np.ndarray) -> Workload:
    return Workload(arrival_s, np.full(len(arrival_s), 100), np.full(len(arrival_s), 300))


def test_poisson_arrivals_plan_as_their_mix_does() -> None:
    arrivals = np.cumsum(np.random.default_rng(1).exponential(size=20_000))
    measured, assumed = planned(drawn(arrivals)), planned(SINGLE)
    assert measured.burstiness.index == 1.0
    assert measured.burstiness.window_s is not None
    assert assumed.burstiness.window_s is None
    assert measured.stability.onset_load == assumed.stability.onset_load


def test_batches_fill_the_cache_earlier_and_even_arrivals_later() -> None:
    rng = np.random.default_rng(2)
    batched = np.repeat(np.cumsum(rng.exponential(20, 2000)), 20)
    even = np.arange(40_000.0)
    onsets = [planned(work).stability.onset_load for work in (drawn(batched), SINGLE, drawn(even))]
    assert onsets[0] < onsets[1] - 0.05 < onsets[1] < onsets[2]
    assert planned(drawn(batched)).burstiness.index == pytest.approx(20, rel=0.2)


def test_the_onset_does_not_depend_on_the_rate_it_is_asked_at() -> None:
    work = generate("azure-conv-2023", n=4000, seed=0)
    hardware = get_hardware("llama-2-7b", "a100-80gb")
    slow, fast = (plan(work.scaled(scale), hardware) for scale in (0.5, 1.5))
    assert slow.stability.onset_load == pytest.approx(fast.stability.onset_load, rel=1e-6)
    assert slow.burstiness.window_s == pytest.approx(3 * fast.burstiness.window_s, rel=1e-6)


def test_random_shares_of_bursts_are_less_bursty() -> None:
    work = generate("azure-conv-2023", n=20_000, seed=0)
    hardware = get_hardware("llama-2-7b", "a100-80gb")
    whole, shared = plan(work, hardware), plan(work, hardware, rate=work.rate / 8, shared_by=8)
    assert 1.0 <= shared.burstiness.index < whole.burstiness.index


def test_sentences_name_the_bursts() -> None:
    batched = drawn(np.repeat(np.cumsum(np.random.default_rng(2).exponential(20, 2000)), 20))
    onset = planned(batched).stability.onset_rate
    assert onset is not None
    above, below = (planned(batched, rate=factor * onset) for factor in (1.05, 0.95))
    assert any("their bursts fill the KV cache" in sentence for sentence in above.verdict)
    assert any("times as bursty as Poisson's, so at this load" in sentence for sentence in below.verdict)
    assert any("Poisson arrivals" in sentence for sentence in planned(SINGLE, rate=1.0).verdict)


def test_too_few_requests_to_measure_are_taken_as_poisson() -> None:
    few = plan(drawn(np.repeat(np.arange(9.0), 10)), A100)
    assert few.burstiness.window_s is None
    assert few.burstiness.row == "taken as Poisson"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("preset", ["azure-conv-2023", "r1-reasoning"])
def test_greedy_runs_fill_the_cache_from_the_onset_on(preset: str, seed: int) -> None:
    """The simulator knows nothing of the formula: next to never 90% full below the onset, often above it."""
    work, hardware = generate(preset, n=4000, seed=seed), get_hardware("llama-2-7b", "a100-80gb")
    onset = plan(work, hardware).stability.onset_load
    assert onset is not None
    result = compare([work], hardware, ["greedy"], loads=[0.85 * onset, min(1.0, 1.2 * onset)])
    below, above = (cell.summaries[0].kv_above_90 for cell in result.cells)
    assert below < 0.02
    assert above > 0.05
