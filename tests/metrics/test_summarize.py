"""`summarize` on records small enough to work out by hand."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluidgate.metrics import METRICS, Slo, Summary, summarize
from fluidgate.metrics.summarize import gap_percentiles_s

NAN = math.nan


@pytest.fixture(scope="module")
def five(make_records):
    """Five requests; the first three finish, the fourth is never scheduled, the fifth has two of five tokens.

    gaps between tokens: row 0: 0.25 and 0.75, row 2: 2.0, row 4: 1.0 (s)
    """
    edges_s = np.array([0.25, 0.2501, 0.75, 0.7501, 1.0, 1.0001, 2.0, 2.0001])
    return make_records(
        [0.0, 1.0, 2.0, 3.0, 4.0],
        prompt_tokens=[10, 20, 30, 40, 50],
        output_tokens=[3, 1, 2, 4, 5],
        first_scheduled_s=[0.5, 1.0, 2.5, NAN, 5.0],
        first_token_s=[1.0, 1.5, 4.0, NAN, 7.0],
        last_token_s=[2.0, 1.5, 6.0, NAN, 8.0],
        finished=[True, True, True, False, False],
        generated_tokens=[3, 1, 2, 0, 2],
        longest_gap_s=[0.75, 0.0, 2.0, 0.0, 1.0],
        held_s=[0.0, 0.0, 0.2, 0.0, 0.6],
        preemptions=[0, 0, 2, 0, 1],
        recomputed_tokens=[0, 0, 25, 0, 5],
        cached_tokens=[0, 11, 0, 0, 0],
        end_s=8.0,
        busy_s=6.0,
        iterations=12,
        computed_tokens=300,
        peak_blocks=80,
        mean_blocks=50.0,
        nearly_full_s=1.5,
        gap_sum_s=4.0,
        gap_counts=np.array([1, 0, 1, 0, 1, 0, 1]),
        gap_edges_s=edges_s,
        stalled=True,
    )


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        # TTFT 1000, 500, 2000, 3000 (rows 0, 1, 2, 4)
        ("mean_ttft_ms", 1625),
        ("median_ttft_ms", 1500),
        ("p90_ttft_ms", 2700),  # 0.9 · 3 = 2.7: between 2000 and 3000
        ("p99_ttft_ms", 2970),
        # TPOT (2 − 1)/2 and (6 − 4)/1; row 1 has one token, row 4 did not finish
        ("mean_tpot_ms", 1250),
        ("p90_tpot_ms", 1850),
        # E2EL 2000, 500, 4000
        ("mean_e2el_ms", 6500 / 3),
        ("median_e2el_ms", 2000),
        ("p95_e2el_ms", 3800),
        ("mean_itl_ms", 1000),  # 4 s over 4 gaps
        # from 0 s, the first arrival, to 8 s, the last token
        ("duration_s", 8),
        ("output_throughput", 1),  # 3 + 1 + 2 + 2 tokens
        ("effective_throughput", 0.75),  # without the 2 of the unfinished request
        ("request_throughput", 3 / 8),
        ("offered", 5),
        ("completed", 3),
        ("unfinished", 2),
        ("preemptions", 3),
        ("preempted_requests", 2),
        ("recomputed_tokens", 30),
        ("recompute_tax", 0.1),
        # silences 0.75, 2, 1 (rows 0, 2, 4); 1 s is not yet a stall
        ("mean_longest_silence_s", 1.25),
        ("p99_longest_silence_s", 1.98),
        ("max_longest_silence_s", 2),
        ("stalled_share", 1 / 3),
        # four requests were scheduled
        ("mean_held_s", 0.2),
        ("p99_held_s", 0.2 + 0.97 * 0.4),
        ("mean_queued_s", 0.5),  # 0.5, 0, 0.5, 1
        ("cached_share", 0.1),  # 11 of 10 + 20 + 30 + 50
        ("kv_peak", 0.8),
        ("kv_mean", 0.5),
        ("kv_above_90", 0.25),
        ("mean_iteration_ms", 500),
        ("busy_share", 0.75),
        ("end_s", 8),
    ],
)
def test_every_number_by_hand(five, key, expected):
    assert getattr(summarize(five), key) == pytest.approx(expected)


def test_itl_percentiles_by_hand(five):
    summary = summarize(five)  # gaps 250, 750, 1000, 2000 ms
    assert summary.median_itl_ms == pytest.approx(875, rel=1e-3)
    assert summary.p90_itl_ms == pytest.approx(1700, rel=1e-3)


@pytest.mark.parametrize(
    ("slo", "good"),
    [
        (Slo(ttft_ms=1000), 2),  # rows 0 and 1; a bound that is just met counts
        (Slo(ttft_ms=5000), 3),  # row 4 has its first token in time, but never finishes
        (Slo(tpot_ms=1000), 2),  # row 1 has no second token to be late
        (Slo(e2el_ms=1999), 1),
        (Slo(ttft_ms=999, tpot_ms=499), 1),
    ],
)
def test_goodput_counts_over_all_offered_requests(five, slo, good):
    summary = summarize(five, slo)
    assert summary.goodput_share == pytest.approx(good / 5)
    assert summary.request_goodput == pytest.approx(good / 8)


def test_no_slo_no_goodput(five):
    assert math.isnan(summarize(five).goodput_share)
    assert math.isnan(summarize(five).request_goodput)


def test_nothing_ever_scheduled(make_records):
    nothing = np.full(2, NAN)
    summary = summarize(
        make_records(
            [0.0, 1.0],
            first_scheduled_s=nothing,
            first_token_s=nothing,
            last_token_s=nothing,
            finished=[False, False],
            generated_tokens=[0, 0],
            stalled=True,
        ),
        Slo(ttft_ms=1000),
    )
    values = summary.to_dict()
    for key in ("mean_ttft_ms", "p99_tpot_ms", "p90_itl_ms", "mean_e2el_ms", "mean_queued_s", "recompute_tax"):
        assert values[key] is None
    assert values["output_throughput"] == values["request_goodput"] == values["goodput_share"] == 0
    assert values["unfinished"] == 2


def test_rates_count_from_the_first_arrival(make_records):
    late = make_records([100.0, 101.0], last_token_s=[100.5, 104.0], busy_s=2.0, end_s=104.0)
    summary = summarize(late)
    assert summary.duration_s == pytest.approx(4)
    assert summary.request_throughput == pytest.approx(0.5)
    assert summary.busy_share == pytest.approx(0.5)


def test_to_dict_is_plain_json(five):
    text = json.dumps(summarize(five).to_dict(), allow_nan=False)
    assert json.loads(text)["goodput_share"] is None
    assert json.loads(text)["completed"] == 3


def test_metrics_describe_every_number():
    words = {"stable", "stability_reason", "objectives"}
    assert set(METRICS) == {field.name for field in fields(Summary)} - words
    assert len({metric.label for metric in METRICS.values()}) == len(METRICS)
    for key, metric in METRICS.items():
        assert metric.key == key
        assert key.endswith("_ms") == (metric.unit == "ms")
        assert key.endswith("_s") == (metric.unit == "s")


def test_metric_text():
    assert METRICS["output_throughput"].text(12345.6) == "12,346"
    assert METRICS["recompute_tax"].text(0.125) == "12.5%"
    assert METRICS["mean_ttft_ms"].text(NAN) == "–"


def log_edges_s():
    """Bin edges of relative width at most 2**-10, from 2**-14 s to 2**6 s."""
    octaves = [np.linspace(2.0**e, 2.0 ** (e + 1), 1024, endpoint=False) for e in range(-14, 6)]
    return np.append(np.concatenate(octaves), 2.0**6)


@given(st.lists(st.floats(2.0**-14, 63.9), min_size=1, max_size=60), st.sampled_from([1, 7]))
def test_histogram_percentiles_are_exact_to_a_thousandth(gaps_s, times):
    gaps = np.repeat(gaps_s, times)
    edges_s = log_edges_s()
    counts, _ = np.histogram(gaps, edges_s)
    wanted = [0.0, 50.0, 90.0, 95.0, 99.0, 100.0]
    np.testing.assert_allclose(gap_percentiles_s(counts, edges_s, wanted), np.percentile(gaps, wanted), rtol=1e-3)


def test_the_hardwares_overhead_is_part_of_ttft_and_e2e_latency_alone(five):
    outside = replace(five, hardware=replace(five.hardware, overhead_s=0.25))
    without, added = summarize(five, Slo(ttft_ms=1100)), summarize(outside, Slo(ttft_ms=1100))
    for key in ("mean_ttft_ms", "p99_ttft_ms", "mean_e2el_ms", "median_e2el_ms"):
        assert getattr(added, key) == getattr(without, key) + 250, key
    for key in ("mean_tpot_ms", "mean_itl_ms", "output_throughput", "duration_s"):
        assert getattr(added, key) == getattr(without, key), key
    assert without.goodput_share > added.goodput_share, "a first token after 1,000 ms and 250 ms is late"
