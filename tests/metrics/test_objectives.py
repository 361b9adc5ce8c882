"""Objectives: the statistic over all offered requests, its excess, and the verdict over repeats."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluidgate.engine import RunRecords
from fluidgate.errors import InputError
from fluidgate.metrics import Objective, Slo, judge_objectives, parse_objectives, summarize

Make = Callable[..., RunRecords]
NAN, INF = math.nan, math.inf
FIRST_MS = st.lists(st.one_of(st.integers(1, 5000).map(float), st.just(NAN)), min_size=1, max_size=40)


def served(make_records: Make, first_ms: list[float]) -> RunRecords:
    """Two tokens each, 100 ms apart; NaN: never served."""
    first_s = np.array(first_ms) / 1e3
    n = len(first_ms)
    return make_records(
        np.zeros(n),
        output_tokens=np.full(n, 2),
        first_token_s=first_s,
        last_token_s=first_s + 0.1,
        finished=~np.isnan(first_s),
        longest_gap_s=np.where(np.isnan(first_s), 0.0, 0.1),
    )


@given(FIRST_MS, st.sampled_from([50.0, 90.0, 99.0]), st.floats(1, 6000))
def test_a_percentile_is_over_all_and_its_excess_has_the_sign_of_a_miss(
    make_records: Make, first_ms: list[float], percentile: float, bound: float
) -> None:
    records = served(make_records, first_ms)
    objective = Objective("ttft", percentile, bound)
    late = np.nan_to_num(1e3 * records.first_token_s, nan=INF)
    assert objective.excess(records, None) == pytest.approx((late > bound).mean() - (1 - percentile / 100))
    value = objective.value(records, None)
    if np.isfinite(late).all():
        assert value == pytest.approx(np.percentile(late, percentile))
        assert summarize(records, objectives=[objective]).objectives == [value]
    else:  # numpy has no order for what is infinite twice over
        lower, higher = (np.percentile(late, percentile, method=m) for m in ("lower", "higher"))
        assert lower <= value <= higher


@given(FIRST_MS, st.floats(1, 6000))
def test_a_mean_is_infinite_where_somebody_is_never_served(
    make_records: Make, first_ms: list[float], bound: float
) -> None:
    records = served(make_records, first_ms)
    objective = Objective("e2el", None, bound)
    mean_ms = float(np.nan_to_num(1e3 * records.last_token_s, nan=INF).mean())
    assert objective.value(records, None) == pytest.approx(mean_ms)
    assert objective.excess(records, None) == pytest.approx(mean_ms / bound - 1)


def test_silence_and_time_per_token(make_records: Make) -> None:
    records = served(make_records, [1000.0, 2000.0, 3000.0])
    assert Objective("silence", 99.0, 1.0).value(records, None) == pytest.approx(100.0)
    assert Objective("tpot", 50.0, 1.0).value(records, None) == pytest.approx(100.0)
    single = make_records([0.0, 0.0], first_token_s=[1.0, NAN], last_token_s=[1.0, NAN], finished=[True, False])
    assert Objective("tpot", 50.0, 1.0).value(single, None) == INF  # between 0 and never
    assert Objective("tpot", 50.0, 1.0).excess(single, None) == 0.0  # half of them meet any bound


def test_goodput_is_the_share_that_meets_the_slo(make_records: Make) -> None:
    records = served(make_records, [1000.0, 2000.0, 3000.0, NAN])
    slo = Slo(ttft_ms=2000.0)
    assert Objective("goodput", None, 0.9).value(records, slo) == 0.5
    assert Objective("goodput", None, 0.9).excess(records, slo) == pytest.approx(0.4)
    assert Objective("goodput", None, 0.5).value(records, slo) == summarize(records, slo).goodput_share


def test_requests_that_are_too_long_miss_the_goodput_alone(make_records: Make) -> None:
    whole = replace(served(make_records, [1000.0, 2000.0]).workload, output_tokens=np.array([2, 99]))
    one = replace(served(make_records, [1000.0]), workload=whole.within(50))
    assert Objective("ttft", 99.0, 1500.0).value(one, None) == 1000.0
    assert Objective("goodput", None, 0.9).value(one, Slo(ttft_ms=1500.0)) == 0.5


@pytest.mark.parametrize(
    ("values", "met", "words"),
    [
        ([1000.0], True, "p99 TTFT of at most 2 s: 1 s, met by 50%"),
        ([3000.0], False, "p99 TTFT of at most 2 s: 3 s, missed by 50%"),
        ([1000.0, 1001.0, 999.0], True, "p99 TTFT of at most 2 s: 1 s, met by 50%"),
        ([1000.0, 3000.0], None, "p99 TTFT of at most 2 s: 2 s, undecided"),
        ([1000.0, INF], False, "p99 TTFT of at most 2 s: unbounded, missed"),
    ],
)
def test_the_verdict_follows_the_interval(values: list[float], met: bool | None, words: str) -> None:
    (judged,) = judge_objectives([Objective("ttft", 99.0, 2000.0)], [[value] for value in values])
    assert (judged.met, judged.words) == (met, words)
    assert judged.to_dict()["met"] is met


def test_a_goodput_is_met_from_below() -> None:
    (met,) = judge_objectives([Objective("goodput", None, 0.9)], [[0.95], [0.951]])
    (missed,) = judge_objectives([Objective("goodput", None, 0.9)], [[0.45], [0.45]])
    assert (met.met, missed.met) == (True, False)
    assert missed.words == "goodput of at least 90%: 45%, missed by 50%"


def test_written_and_read() -> None:
    texts = ["p99:ttft:2000", "p95:tpot:60", "mean:e2el:30000", "p99.9:silence:1000", "goodput:0.95"]
    objectives = parse_objectives(texts, Slo(ttft_ms=1.0))
    assert [str(objective) for objective in objectives] == texts
    assert pickle.loads(pickle.dumps(objectives)) == objectives


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (["ttft:2000"], "objective 'ttft:2000': write STATISTIC:LATENCY:MILLISECONDS, such as p99:ttft:2000"),
        (["p99:ttft"], "write STATISTIC:LATENCY:MILLISECONDS"),
        (["p99:ttft:2s"], "write STATISTIC:LATENCY:MILLISECONDS"),
        (["pmax:ttft:2"], "write STATISTIC:LATENCY:MILLISECONDS"),
        (["p99:itl:20"], "unknown quantity of an objective 'itl'. Known: ttft, tpot, e2el, silence, goodput"),
        (["p100:ttft:20"], "a percentile lies above 0 and below 100"),
        (["pnan:ttft:20"], "a percentile lies above 0 and below 100"),
        (["p99:ttft:0"], "the bound must be a finite number of milliseconds above 0"),
        (["p99:ttft:inf"], "the bound must be a finite number"),
        (["goodput:95"], "a goodput is a share above 0 and at most 1, such as goodput:0.95"),
        (["p99:ttft:1", "p99:ttft:2"], "p99:ttft:1: this statistic is bounded twice"),
        (["goodput:0.9"], "goodput:0.9 needs --goodput ttft:MS tpot:MS"),
    ],
)
def test_what_cannot_be_used_is_refused(items: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        parse_objectives(items, None)
    assert message in str(error.value)
