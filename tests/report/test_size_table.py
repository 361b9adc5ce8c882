"""The sentences of a sizing: what they say where nothing breaks, nothing was tried, or the answer is thin."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest

from fluidgate.hardware import Hardware, StepTime
from fluidgate.report import size_sentences
from fluidgate.runs.size import Break, Choices, Machine, Proof, Sizing, size
from fluidgate.workload import Fixed, Independent, Poisson, Synthetic

SERVER = Machine("gpu", 1, Hardware("a server", StepTime(c0=0.01, c_tok=5e-5, c_kv=2e-7), 2000, source="a fit"))
EQUAL = Synthetic("equal requests", Poisson(1.0), Independent(Fixed(400), Fixed(20)))


@pytest.fixture(scope="module")
def sizing() -> Sizing:
    choices = Choices(policies=("greedy",), seats=(), budgets=())
    return size(EQUAL, [SERVER], ["p90:ttft:60", "p90:tpot:500"], rate=5.0, choices=choices, requests=1600, max_gpus=1)


def said(sizing: Sizing, **proof: object) -> str:
    """All sentences, with some of the proof replaced."""
    assert isinstance(sizing.proof, Proof)
    return " ".join(size_sentences(replace(sizing, proof=replace(sizing.proof, **proof))))  # type: ignore[arg-type]


def test_the_rate_that_breaks_it_and_the_last_that_holds(sizing: Sizing) -> None:
    two = (Break("p90:ttft:60", 1.5), Break("p90:tpot:500", 2.0))
    text = said(sizing, growth=1.4, tried=3.0, breaks=two, cause="seats")
    assert (
        "All holds up to 7 req/s; p90 TTFT of at most 60 ms breaks first, at 7.5 req/s (×1.5), for want of seats"
        in text
    )
    assert "Then p90:tpot:500 at 10 req/s." in text


def test_where_nothing_breaks_the_last_rate_is_named(sizing: Sizing) -> None:
    none = (Break("p90:ttft:60", inf), Break("p90:tpot:500", inf))
    assert sizing.answer is not None
    most = 1.0 / sizing.answer.load
    assert "up to 20 req/s." in said(sizing, growth=4.0, tried=4.0, breaks=none, cause=None)
    assert "req/s, its stability boundary." in said(sizing, growth=most, tried=most, breaks=none, cause=None)


def test_where_no_rate_was_tried_that_is_said(sizing: Sizing) -> None:
    none = (Break("p90:ttft:60", inf), Break("p90:tpot:500", inf))
    text = said(sizing, growth=1.0, tried=1.0, breaks=none, cause=None)
    assert "No higher rate was tried" in text
    assert "breaks" not in text


def test_an_answer_that_longer_steps_break_is_thin(sizing: Sizing) -> None:
    assert "That is less than such step times are off by" in said(sizing, slowdown=0.05)
    assert "That is less than such step times are off by" not in said(sizing, slowdown=0.1)
