"""How long clients wait: laws, columns, and what keeps them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fluidgate.errors import InputError
from fluidgate.workload import (
    PRESETS,
    Patience,
    TimeoutLaw,
    Workload,
    generate,
    parse_timeout,
    read_trace,
    resample,
    write_vidur,
)

ONES = np.ones(4, np.int64)
FOUR = Workload(
    np.arange(4.0), ONES, ONES, timeout_s=np.array([1.0, 2.0, math.inf, 4.0]), ttft_timeout_s=np.array([9.0, 8, 7, 6])
)


def test_laws_have_their_means_and_medians() -> None:
    rng = np.random.default_rng(1)
    drawn = {text: parse_timeout("t", text).sample(40_000, rng) for text in ("30", "exp:30", "lognormal:30:0.5")}  # type: ignore[union-attr]
    assert (drawn["30"] == 30.0).all()
    assert drawn["exp:30"].mean() == pytest.approx(30, rel=0.03)
    assert np.median(drawn["exp:30"]) == pytest.approx(30 * math.log(2), rel=0.03)
    assert np.median(drawn["lognormal:30:0.5"]) == pytest.approx(30, rel=0.03)
    assert np.log(drawn["lognormal:30:0.5"]).std() == pytest.approx(0.5, rel=0.03)


@pytest.mark.parametrize("text", ["30", "exp:12.5", "lognormal:30:0.5"])
def test_a_law_is_written_as_it_is_read(text: str) -> None:
    assert str(parse_timeout("t", text)) == text


@pytest.mark.parametrize(
    "text", ["", "0", "-3", "nan", "inf", "abc", "1e30", "exp", "exp:", "exp:0", "1:2", "lognormal:3", "lognormal:3:11"]
)
def test_what_is_no_law_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(InputError, match=r"^--client-timeout '.*': write seconds above 0, exp:MEAN or"):
        parse_timeout("--client-timeout", text)


def test_a_law_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InputError, match="timeout weibull:3: write seconds"):
        TimeoutLaw("weibull", (3.0,))


def test_a_seed_gives_the_same_patience_and_leaves_the_requests_as_they_are() -> None:
    draw = generate("lmsys", n=50, seed=4)
    patience = Patience(parse_timeout("t", "exp:30"), parse_timeout("t", "exp:30"))
    one, again, other = patience.of(draw, 4), patience.of(draw, 4), patience.of(draw, 5)
    assert one.digest == again.digest != other.digest != draw.digest
    assert one.arrival_s.tobytes() == draw.arrival_s.tobytes()
    assert not np.intersect1d(one.timeout_s, one.ttft_timeout_s).size
    assert abs(np.corrcoef(one.timeout_s, one.output_tokens)[0, 1]) < 0.5
    assert generate(replace(PRESETS["lmsys"], patience=patience), n=50, seed=4).digest == one.digest


def test_a_law_replaces_a_column_and_leaves_the_other() -> None:
    seen = Patience(timeout=parse_timeout("t", "5")).of(FOUR, 0)
    assert seen.timeout_s.tolist() == [5.0] * 4
    assert seen.ttft_timeout_s.tolist() == FOUR.ttft_timeout_s.tolist()
    assert Patience().of(FOUR, 0).digest == FOUR.digest


def test_requests_keep_their_patience_wherever_they_go() -> None:
    assert FOUR.take(slice(1, 3)).timeout_s.tolist() == [2.0, math.inf]
    assert FOUR.between(2.0, 9.0).ttft_timeout_s.tolist() == [7, 6]
    assert FOUR.reordered(np.array([3, 0]), np.zeros(2)).timeout_s.tolist() == [4.0, 1.0]
    assert FOUR.scaled(2.0).timeout_s.tolist() == FOUR.timeout_s.tolist()
    assert FOUR.classed_by_length([1]).timeout_s.tolist() == FOUR.timeout_s.tolist()
    drawn = resample(FOUR, 3)
    pairs = set(zip(FOUR.timeout_s, FOUR.ttft_timeout_s, strict=True))
    assert set(zip(drawn.timeout_s, drawn.ttft_timeout_s, strict=True)) <= pairs


def test_those_that_are_refused_keep_theirs() -> None:
    long = replace(FOUR, prompt_tokens=np.array([1, 50, 1, 70]))
    taken = long.within(60)
    assert taken.refused is not None
    assert taken.timeout_s.tolist() == [1.0, 2.0, math.inf]
    again = taken.within(40)
    assert again.refused is not None
    assert again.refused.timeout_s.tolist() == [2.0, 4.0]


def test_clients_that_never_leave_are_no_column() -> None:
    patient = replace(FOUR, timeout_s=np.full(4, math.inf), ttft_timeout_s=np.zeros(0))
    assert not patient.gives_up
    assert len(patient.timeout_s) == len(patient.ttft_timeout_s) == 0
    assert patient.digest == Workload(np.arange(4.0), ONES, ONES).digest


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan])
def test_a_timeout_that_is_none_is_refused(bad: float) -> None:
    with pytest.raises(InputError, match=r"request 2: timeout_s = .* is not a number of seconds above 0"):
        replace(FOUR, timeout_s=np.array([1.0, 1.0, bad, 1.0]))


def test_a_column_of_another_length_is_refused() -> None:
    with pytest.raises(InputError, match="ttft_timeout_s has 2 values for 4 arrivals"):
        replace(FOUR, ttft_timeout_s=np.ones(2))


HEADER = "arrived_at,num_prefill_tokens,num_decode_tokens,timeout_s,ttft_timeout_s\n"


def test_a_trace_may_say_how_long_clients_wait(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(HEADER + "0,10,5,300,\n1,10,5,,2.5\n0.5,10,5,inf,7\n")
    workload, note = read_trace(path)
    assert workload.timeout_s.tolist() == [300.0, math.inf, math.inf]
    assert workload.ttft_timeout_s.tolist() == [math.inf, 7.0, 2.5]
    assert "not used" not in note
    write_vidur(workload, tmp_path / "again.csv")
    assert read_trace(tmp_path / "again.csv")[0].digest == workload.digest


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("azure", "TIMESTAMP,ContextTokens,GeneratedTokens,timeout_s\n2023-11-16 18:15:46.5,10,5,30\n"),
        (
            "burstgpt",
            "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type,ttft_timeout_s\n"
            "1,GPT-4,10,0,10,API,9\n5,GPT-4,10,5,15,API,30\n",
        ),
    ],
)
def test_other_tables_may_too(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    options = {"failed": "drop"} if name == "burstgpt" else {}
    workload, _ = read_trace(path, name, **options)
    assert np.minimum(workload.timeout_s, workload.ttft_timeout_s).tolist() == [30.0]


@pytest.mark.parametrize("bad", ["0", "x", "-3", "nan"])
def test_a_bad_timeout_in_a_trace_is_refused_at_its_line(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(HEADER + f"0,10,5,300,\n1,10,5,{bad},\n")
    with pytest.raises(InputError, match=rf"trace.csv:3: timeout_s = '{bad}' is not a number of seconds above 0"):
        read_trace(path)


@pytest.mark.parametrize("text", ["40", "exp:40", "lognormal:40:0.5"])
def test_quantiles_are_those_of_the_draws(text):
    law, shares = parse_timeout("timeout", text), np.array([0.1, 0.5, 0.9])
    drawn = law.sample(40_000, np.random.default_rng(0))
    assert law.quantiles(shares) == pytest.approx(np.quantile(drawn, shares), rel=0.03)
    assert law.longer(np.array([10.0, 39.0, 80.0])) == pytest.approx(
        [(drawn >= s).mean() for s in (10.0, 39.0, 80.0)], abs=0.01
    )
    assert law.longer(np.array([0.0])).tolist() == [1.0]
