"""The wait behind a number of requests: the exact law of one seat, of exponential services, and departures drawn."""

import numpy as np
import pytest

from fluidgate.errors import InputError
from fluidgate.fluid import RequestMix, wait_ahead
from fluidgate.fluid.limits import Limits
from fluidgate.hardware import StepTime

STEP = StepTime(1.0)


def seats(count: int) -> Limits:
    return Limits(1e12, max_num_seqs=count)


@pytest.mark.parametrize("ahead", [0, 1, 20])
def test_one_seat_with_equal_services(ahead: int) -> None:
    """The rest of the one in service, uniform, and a service for each ahead."""
    wait = wait_ahead(RequestMix([1.0], [1], [60]), STEP, seats(1), ahead)
    assert wait.mean_s == pytest.approx(60 * (ahead + 0.5))
    assert wait.variance_s2 == pytest.approx(60**2 / 12)


@pytest.mark.parametrize(("count", "ahead"), [(1, 0), (1, 20), (50, 0), (50, 20), (50, 1000)])
def test_memoryless_services(count: int, ahead: int) -> None:
    """The sum of so many exponential times and one, whatever the seats: Gamma."""
    lengths = np.arange(1, 6000)
    mix = RequestMix(np.exp(-lengths / 300), np.ones_like(lengths), lengths)
    wait, mean = wait_ahead(mix, STEP, seats(count), ahead), mix.mean(lengths) / count
    assert wait.mean_s == pytest.approx(mean * (ahead + 1), rel=1e-2)
    assert wait.variance_s2 == pytest.approx(mean**2 * (ahead + 1), rel=2e-2)


@pytest.mark.parametrize("sigma", [0.3, 1.2])
@pytest.mark.parametrize("ahead", [5, 40, 400])
def test_departures_of_many_seats(ahead: int, sigma: float) -> None:
    """Each seat serves one request after another, the first from a random moment of a service on."""
    rng, count, draws = np.random.default_rng(1), 40, 3000
    lengths = np.maximum(1, np.exp(rng.normal(5.0, sigma, 4000))).astype(int)
    mix = RequestMix(np.ones(4000), np.ones(4000, int), lengths)
    wait = wait_ahead(mix, STEP, seats(count), ahead)
    renewals = 12 + 3 * ahead // count
    found = []
    for _ in range(draws):
        services = rng.choice(lengths, (count, renewals)).astype(float)
        services[:, 0] = rng.choice(lengths, count, p=lengths / lengths.sum()) * rng.random(count)
        found.append(np.partition(services.cumsum(axis=1).ravel(), ahead)[ahead])
    assert np.mean(found) == pytest.approx(wait.mean_s, rel=0.04)
    assert np.std(found) == pytest.approx(wait.variance_s2**0.5, rel=0.25)
    for share in (0.1, 0.5, 0.9):
        assert wait.within(float(np.quantile(found, share))) == pytest.approx(share, abs=0.1)


def test_refused() -> None:
    with pytest.raises(InputError, match="at least 0"):
        wait_ahead(RequestMix([1.0], [1], [60]), STEP, seats(1), -1)
