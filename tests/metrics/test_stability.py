"""Number in system and stability verdict, on queues worked out without the engine."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluidgate.metrics import number_in_system, stability_verdict, summarize

from .in_system import mean_in_system


def lindley(rho, n, seed):
    """Arrival, start and end times of M/D/1 with service 1 s, from Lindley's recursion W' = max(0, W + S − T)."""
    gaps_s = np.random.default_rng(seed).exponential(1 / rho, n)
    arrival_s, waits_s = np.cumsum(gaps_s), np.zeros(n)
    for i in range(1, n):
        waits_s[i] = max(0.0, waits_s[i - 1] + 1 - gaps_s[i])
    return arrival_s, arrival_s + waits_s, arrival_s + waits_s + 1


def test_number_in_system_by_hand(make_queue_records):
    # in at 0, 1, 1, 5; out at 2, 4, 5 (as the last one comes in), 6
    times, counts = number_in_system(make_queue_records([0, 1, 1, 5], [0, 1, 1, 5], [2, 4, 5, 6]))
    assert times.tolist() == [0, 1, 2, 4, 5, 6]
    assert counts.tolist() == [1, 3, 2, 1, 1, 0]


def test_unfinished_requests_never_leave(make_records):
    times, counts = number_in_system(
        make_records([0, 1, 2], last_token_s=[3.0, math.nan, 2.5], finished=[True, False, False])
    )
    assert times.tolist() == [0, 1, 2, 3]
    assert counts.tolist() == [1, 2, 3, 2]


stays = st.lists(st.tuples(st.floats(0, 100), st.floats(0.01, 50)), min_size=1, max_size=30)


@given(stays)
def test_littles_law(make_queue_records, pairs):
    arrival_s, stay_s = np.array(sorted(pairs)).T
    records = make_queue_records(arrival_s, arrival_s, arrival_s + stay_s)
    span_s = (arrival_s + stay_s).max() - arrival_s[0]
    arrival_rate, time_in_system_s = len(arrival_s) / span_s, stay_s.mean()
    assert mean_in_system(records) == pytest.approx(arrival_rate * time_in_system_s)


def test_mean_in_system_of_md1(make_queue_records):
    rho = 0.8
    # Pollaczek–Khinchine with constant service: L = ρ + ρ²/(2(1 − ρ)) = 2.4
    records = make_queue_records(*lindley(rho, 60_000, seed=1))
    assert mean_in_system(records) == pytest.approx(rho + rho**2 / (2 * (1 - rho)), rel=0.05)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("rho", "n", "stable"),
    [(0.5, 3000, True), (0.8, 3000, True), (0.95, 20_000, True), (1.1, 10_000, False), (1.3, 3000, False)],
)
def test_md1(make_queue_records, rho, n, stable, seed):
    verdict = stability_verdict(make_queue_records(*lindley(rho, n, seed)))
    assert verdict.stable is stable
    assert verdict.reason.startswith("stable: " if stable else "unstable: ")


@pytest.mark.parametrize("rho", [1.1, 1.3])
def test_growth_estimates_what_stays_behind(make_queue_records, rho):
    growths = [stability_verdict(make_queue_records(*lindley(rho, 6000, seed))).growth for seed in range(8)]
    assert np.mean(growths) == pytest.approx(1 - 1 / rho, abs=0.02)


def test_a_short_run_near_the_boundary_says_so(make_queue_records):
    verdicts = [stability_verdict(make_queue_records(*lindley(1.0, 300, seed))) for seed in range(10)]
    undecided = [v for v in verdicts if v.stable is None]
    assert len(undecided) >= 5
    assert all(v.reason.startswith("too short to tell: between ") for v in undecided)
    assert sum(v.stable is False for v in verdicts) <= 1


def test_a_short_overloaded_run_is_seldom_called_stable(make_queue_records):
    verdicts = [stability_verdict(make_queue_records(*lindley(1.1, 600, seed))) for seed in range(100)]
    assert sum(v.stable is True for v in verdicts) <= 7


def test_many_in_system_at_ease(make_queue_records):
    """M/M/∞ with 400 in system: N wanders by ±20, often too much for the increments, and settles for the levels."""
    verdicts = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        arrival_s, stay_s = np.cumsum(rng.exponential(1.0, 8000)), rng.exponential(400, 8000)
        verdicts.append(stability_verdict(make_queue_records(arrival_s, arrival_s, arrival_s + stay_s)).stable)
    assert sum(stable is True for stable in verdicts) >= 38


def test_too_few_arrivals(make_queue_records):
    verdict = stability_verdict(make_queue_records(*lindley(0.5, 60, seed=0)))
    assert verdict.stable is None
    assert "a verdict needs 100" in verdict.reason
    assert math.isnan(verdict.growth)


def test_all_at_once_is_not_applicable(make_queue_records):
    end_s = np.arange(1.0, 501.0)
    verdict = stability_verdict(make_queue_records(np.zeros(500), end_s - 1, end_s))
    assert verdict.stable is None
    assert verdict.reason == "not applicable: all requests arrived at once"


def test_filling_up_is_not_instability(make_queue_records):
    """Infinitely many servers are always stable, but a service of 0.7 windows fills them for 0.7 windows.

    In the second half (0.5 windows) N grows for 0.2 windows: 40% of the half's arrivals stay behind.
    """
    arrival_s = np.cumsum(np.random.default_rng(0).exponential(1.0, 4000))
    service_s = 0.7 * (arrival_s[-1] - arrival_s[0])
    verdict = stability_verdict(make_queue_records(arrival_s, arrival_s, arrival_s + service_s))
    assert verdict.growth == pytest.approx(0.4, abs=0.05)
    assert verdict.stable is None
    assert "filling up from empty explains up to 40.0%" in verdict.reason


def test_steady_arrivals_without_any_noise(make_queue_records):
    arrival_s = np.arange(1000.0)
    steady = stability_verdict(make_queue_records(arrival_s, arrival_s, arrival_s + 0.5))
    assert steady.stable is True
    end_s = 1.25 * np.arange(1, 1001)  # a service of 1.25 s for arrivals every second leaves 20% behind
    growing = stability_verdict(make_queue_records(arrival_s, end_s - 1.25, end_s))
    assert growing.stable is False
    assert growing.growth == pytest.approx(0.2, abs=0.01)


def test_nothing_served_is_unstable(make_records):
    n = 1000
    nothing = np.full(n, math.nan)
    records = make_records(
        np.arange(float(n)),
        first_scheduled_s=nothing,
        first_token_s=nothing,
        last_token_s=nothing,
        finished=np.zeros(n, np.bool_),
        generated_tokens=np.zeros(n, np.int64),
    )
    verdict = stability_verdict(records)
    assert verdict.stable is False
    assert verdict.growth == pytest.approx(1)  # the last arrival is outside the window, and not counted in N either


def test_all_resident_for_ever_may_still_be_filling(make_records):
    arrival_s, n = np.arange(1000.0), 1000
    nothing = np.full(n, math.nan)
    records = make_records(
        arrival_s, first_token_s=nothing, last_token_s=nothing, finished=np.zeros(n, np.bool_), stalled=True
    )
    verdict = stability_verdict(records)
    assert verdict.stable is None
    assert "filling up from empty explains up to 100.0%" in verdict.reason


def test_the_summary_carries_the_verdict(make_queue_records):
    records = make_queue_records(*lindley(1.3, 3000, seed=0))
    summary, verdict = summarize(records), stability_verdict(records)
    assert (summary.stable, summary.stability_reason) == (verdict.stable, verdict.reason)
