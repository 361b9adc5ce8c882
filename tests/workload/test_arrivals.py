"""Arrival processes against their closed forms."""

import numpy as np
import pytest

from fluidgate.errors import InputError
from fluidgate.workload import MMPP2, AllAtOnce, Cox, Gamma, Poisson, dispersion

PROCESSES = [
    Poisson(3.0),
    Gamma(3.0, 2.5),
    MMPP2(0.5, 8.0, 30.0, 10.0),
    MMPP2(0.0, 12.0, 5.0, 1.0),
    Cox(5.0, 0.5, 0.3, 0.3, 20.0),
]
COUNT = 200_000


def cox_dispersion(process, window_s):
    """1 + (2·rate/w)·∫(w − t)(e^{c(t)} − 1)dt, c the autocovariance of the log rate; by the midpoint rule."""
    t = (np.arange(200_000) + 0.5) * window_s / 200_000
    c = process.s1**2 * np.exp(-t / process.tau1_s) + process.s2**2 * np.exp(-t / process.tau2_s)
    return 1 + 2 * process.rate * np.mean((window_s - t) * np.expm1(c))


def mmpp_dispersion(process, window_s):
    """1 + 2·pq·Δ²/(rate·σ)·(1 − (1 − e^{−σw})/(σw)), σ the sum of the switching rates."""
    total = process.mean_low_s + process.mean_high_s
    pq = process.mean_low_s * process.mean_high_s / total**2
    sigma = 1 / process.mean_low_s + 1 / process.mean_high_s
    step = sigma * window_s
    scale = 2 * pq * (process.rate_high - process.rate_low) ** 2 / (process.rate * sigma)
    return 1 + scale * (1 - (1 - np.exp(-step)) / step)


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_times_rise_and_keep_the_rate(process):
    times = process.sample(COUNT, np.random.default_rng(1))
    assert times.shape == (COUNT,)
    assert times[0] > 0
    assert (np.diff(times) >= 0).all()
    # The count over a long time has variance (dispersion) × mean; five standard errors.
    spread = {Poisson: lambda p: 1.0, Gamma: lambda p: p.cv**2}.get(
        type(process), lambda p: (mmpp_dispersion if isinstance(p, MMPP2) else cox_dispersion)(p, 1000.0)
    )(process)
    assert COUNT / times[-1] == pytest.approx(process.rate, rel=5 * np.sqrt(spread / COUNT))


@pytest.mark.parametrize(("process", "cv"), [(Poisson(3.0), 1), (Gamma(3.0, 2.5), 2.5), (Gamma(3.0, 0.3), 0.3)])
def test_gaps_have_their_coefficient_of_variation(process, cv):
    gaps = np.diff(process.sample(COUNT, np.random.default_rng(2)))
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.03)
    # A renewal process: neighbouring gaps are not correlated.
    assert abs(np.corrcoef(gaps[1:], gaps[:-1])[0, 1]) < 5 / np.sqrt(COUNT)


@pytest.mark.parametrize("window_s", [0.2, 1.0, 10.0, 60.0])
@pytest.mark.parametrize("process", PROCESSES[2:], ids=repr)
def test_dispersion_of_modulated_arrivals(process, window_s):
    expected = (mmpp_dispersion if isinstance(process, MMPP2) else cox_dispersion)(process, window_s)
    got = [dispersion(process.sample(COUNT, np.random.default_rng(s)), window_s) for s in range(4)]
    assert np.mean(got) == pytest.approx(expected, rel=0.08)


def test_the_reference_poisson_has_dispersion_one():
    times = Poisson(7.0).sample(COUNT, np.random.default_rng(3))
    for window_s in (1, 10):
        assert dispersion(times, window_s) == pytest.approx(1, abs=0.05)


def test_mmpp_rate_is_the_time_average():
    assert MMPP2(1.0, 5.0, 30.0, 10.0).rate == pytest.approx((1 * 30 + 5 * 10) / 40)


def test_mmpp_starts_in_its_stationary_law():
    """A quarter of the time is high, where the first arrival comes at once."""
    process = MMPP2(0.0, 1000.0, 30.0, 10.0)
    prompt = [process.sample(1, np.random.default_rng(seed))[0] < 0.05 for seed in range(1_000)]
    assert np.mean(prompt) == pytest.approx(0.25, abs=5 * np.sqrt(0.25 * 0.75 / 1_000))


def test_an_off_state_leaves_gaps_as_long_as_its_stay():
    process = MMPP2(0.0, 100.0, 10.0, 10.0)
    gaps = np.diff(process.sample(100_000, np.random.default_rng(4)))
    silent = gaps[gaps > 1]
    # Exponential stays of mean 10 s, seen above 1 s: memoryless, so 1 + 10 on average.
    assert silent.mean() == pytest.approx(11, rel=5 / np.sqrt(len(silent)))


def test_cox_without_modulation_is_poisson():
    gaps = np.diff(Cox(4.0, 0.0, 1.0, 0.0, 10.0).sample(COUNT, np.random.default_rng(5)))
    assert gaps.std() / gaps.mean() == pytest.approx(1, rel=0.02)
    assert np.mean(gaps > 0.25) == pytest.approx(np.exp(-1), abs=5 * 0.5 / np.sqrt(COUNT))


@pytest.mark.parametrize("process", [*PROCESSES, AllAtOnce()], ids=repr)
def test_longer_samples_extend_shorter_ones_and_seeds_decide(process):
    short, long, same = (process.sample(n, np.random.default_rng(6)) for n in (1_000, 30_000, 1_000))
    np.testing.assert_array_equal(short, same)
    np.testing.assert_allclose(long[:1_000], short, rtol=1e-12)
    assert process.sample(0, np.random.default_rng(6)).shape == (0,)
    if not isinstance(process, AllAtOnce):
        assert not np.array_equal(short, process.sample(1_000, np.random.default_rng(7)))


def test_all_at_once():
    assert AllAtOnce().sample(3, np.random.default_rng(0)).tolist() == [0, 0, 0]
    assert AllAtOnce().rate == np.inf


@pytest.mark.parametrize("bad", [0, -1, float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("rate", Poisson),
        ("rate", lambda x: Gamma(x, 1)),
        ("cv", lambda x: Gamma(1, x)),
        ("rate_high", lambda x: MMPP2(0, x, 1, 1)),
        ("mean_low_s", lambda x: MMPP2(0, 1, x, 1)),
        ("mean_high_s", lambda x: MMPP2(0, 1, 1, x)),
        ("rate", lambda x: Cox(x, 1, 1, 1, 1)),
        ("tau1_s", lambda x: Cox(1, 1, x, 1, 1)),
        ("tau2_s", lambda x: Cox(1, 1, 1, 1, x)),
    ],
)
def test_parameters_must_be_positive(name, make, bad):
    with pytest.raises(InputError, match=rf"{name} = .* must be a finite number above 0"):
        make(bad)


@pytest.mark.parametrize("low", [-1, 2, float("nan")])
def test_the_low_rate_must_be_low(low):
    with pytest.raises(InputError, match=r"rate_low = .* must be between 0 and rate_high"):
        MMPP2(low, 1, 1, 1)


@pytest.mark.parametrize("s", [-0.1, float("nan"), float("inf")])
def test_cox_deviations_must_be_plausible(s):
    with pytest.raises(InputError, match=r"s1 = .* must be at least 0"):
        Cox(1, s, 1, 1, 1)
    with pytest.raises(InputError, match=r"s2 = .* must be at least 0"):
        Cox(1, 1, 1, s, 1)
