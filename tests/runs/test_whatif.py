"""One knob against the outcome: each value is what a run of its own gives, and a value that cannot be had says why."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from fluidgate.engine import EngineConfig, Fleet
from fluidgate.errors import InputError
from fluidgate.hardware import get_hardware
from fluidgate.metrics import parse_goodput, parse_objectives, summarize
from fluidgate.runs import Runner, plan_for, simulate
from fluidgate.runs.prices import Prices, parse_prices
from fluidgate.runs.whatif import (
    KNOBS,
    MachineSpec,
    Setup,
    WhatIf,
    split_values,
    values_of,
    whatif,
    workable_machine,
)
from fluidgate.workload import PRESETS, Conversation, Workload, generate

SPEC = MachineSpec("llama-3.1-8b", "l40s")
SETUP = Setup(SPEC.load(), policy="greedy", spec=SPEC)


@pytest.fixture(scope="module")
def draws() -> list[Workload]:
    return [generate("azure-conv-2023", n=300, rate=5.0, seed=seed) for seed in (3, 4)]


def means(result: WhatIf, key: str) -> list[float]:
    return [point.outcome[key].mean if point.outcome else math.nan for point in result.points]


def test_a_value_is_what_its_own_run_gives(draws: list[Workload]) -> None:
    """The knobs that change requests, engine and machine, each beside plan and runs that are made by hand."""
    twice = [replace(draw, output_tokens=2 * draw.output_tokens) for draw in draws]
    seats, h100 = EngineConfig(max_num_seqs=32), get_hardware("llama-3.1-8b", "h100")
    by_hand = {
        ("seats", "32"): (draws, SETUP.hardware, seats),
        ("output-length", "2"): (twice, SETUP.hardware, EngineConfig()),
        ("growth", "1.5"): ([draw.scaled(1.5) for draw in draws], SETUP.hardware, EngineConfig()),
        ("rate", "4"): ([draw.scaled(4 / draw.rate) for draw in draws], SETUP.hardware, EngineConfig()),
        ("gpu", "h100"): (draws, h100, EngineConfig()),
    }
    for (knob, value), (requests, hardware, config) in by_hand.items():
        (point,) = whatif(draws, SETUP, knob, [value]).points
        plan = plan_for(requests[0], hardware, config)
        alone = [summarize(simulate(one, hardware, "greedy", config=config)) for one in requests]
        assert [summary.to_dict() for summary in point.summaries] == [summary.to_dict() for summary in alone], knob
        assert point.plan is not None
        assert point.plan.stability == plan.stability, knob
        evicted = np.mean([summary.preemptions / summary.offered for summary in alone])
        assert point.outcome["preemptions_per_request"].mean == pytest.approx(evicted)


def test_jobs_change_nothing(draws: list[Workload]) -> None:
    alone, together = (
        whatif(draws, SETUP, "seats", ["16", "64"], seed=3, runner=Runner(jobs=jobs)).to_dict("x") for jobs in (1, 2)
    )
    assert json.dumps(alone) == json.dumps(together)


def test_the_boundary_does_not_know_the_rate_and_counts_replicas(draws: list[Workload]) -> None:
    by_rate = whatif(draws[:1], SETUP, "rate", ["3", "6"]).points
    assert by_rate[0].boundary_rate == pytest.approx(by_rate[1].boundary_rate, rel=1e-6)
    assert [point.arrival_rate for point in by_rate] == pytest.approx([3.0, 6.0])
    by_count = whatif(draws[:1], SETUP, "replicas", ["1", "2"]).points
    assert by_count[1].boundary_rate == pytest.approx(2 * by_count[0].boundary_rate, rel=1e-6)
    assert [point.arrival_rate for point in by_count] == pytest.approx([draws[0].rate] * 2)


def test_each_knob_has_values_around_the_present_one(draws: list[Workload]) -> None:
    for name in KNOBS:
        values = values_of(name, None, SETUP, draws[0].rate)
        assert len(values) >= 2, name
        assert sum(value.is_current for value in values) == 1, name
        present = next(value.setup for value in values if value.is_current)
        assert present is not None
        assert present.hardware == SETUP.hardware, name


def test_values_that_hardly_differ_are_told_apart() -> None:
    for texts, labels in ((["20.0001", "20.0002"], ["20.0001", "20.0002"]), (["4", "0.3333333"], ["4", "0.3333"])):
        values = values_of("rate", texts, SETUP, 20.0)
        assert [value.label for value in values] == labels
        assert [value.setup and value.setup.rate for value in values] == [float(text) for text in texts]
        assert not any(value.is_current for value in values)


def test_the_present_rate_is_that_of_the_grown_requests(draws: list[Workload]) -> None:
    points = whatif(draws[:1], replace(SETUP, growth=2.0), "rate").points
    (now,) = [point for point in points if point.value.is_current]
    assert now.arrival_rate == pytest.approx(2 * draws[0].rate)


def test_a_value_that_cannot_be_had_says_why(draws: list[Workload]) -> None:
    tp = whatif(draws, SETUP, "tp", ["1", "3"])
    assert [bool(point.why_not) for point in tp.points] == [False, True]
    assert "does not divide" in tp.points[1].why_not
    assert tp.points[1].outcome == {}
    memory = whatif(draws, SETUP, "memory", ["1", "0.001"]).points[1]
    assert "can never fit" in memory.why_not
    assert math.isnan(memory.boundary_rate)
    with pytest.raises(InputError, match="no value of tp can be had"):
        whatif(draws, SETUP, "tp", ["3"])


def test_a_model_that_goes_only_on_other_values(draws: list[Workload]) -> None:
    large = MachineSpec("llama-3.1-70b", "h100")
    machine = workable_machine("tp", ["1", "4"], large)
    assert machine == large.served(tp=4).load()
    points = whatif(draws, replace(SETUP, hardware=machine, spec=large), "tp", ["1", "4"]).points
    assert [bool(point.why_not) for point in points] == [True, False]
    assert workable_machine("seats", ["1"], large) is None
    assert workable_machine("tp", split_values("tp", "1, 4"), large) == machine


def test_overload_is_said(draws: list[Workload]) -> None:
    points = whatif(draws[:1], SETUP, "growth", ["0.5", "3"]).points
    assert [point.overloaded for point in points] == [False, True]


def test_the_cost_is_price_by_gpus_and_tokens(draws: list[Workload]) -> None:
    fleet = replace(SETUP, fleet=Fleet(2))
    result = whatif(draws, fleet, "tp", ["1", "2"], prices=parse_prices("l40s=1.8"))
    for point, gpus in zip(result.points, (2, 4), strict=True):
        tokens_per_hour = [3600 * summary.output_throughput for summary in point.summaries]
        assert point.outcome["cost"].mean == pytest.approx(np.mean([1.8e6 * gpus / t for t in tokens_per_hour]))
    other = whatif(draws[:1], SETUP, "gpu", ["l40s", "h100"], prices=parse_prices("l40s=1.8"))
    assert [math.isfinite(cost) for cost in means(other, "cost")] == [True, False]
    assert parse_prices("2.5, h100=3") == Prices(2.5, (("h100-80gb", 3.0),))
    assert not parse_prices(None).given


def test_objectives_are_judged_by_value(draws: list[Workload]) -> None:
    slo = parse_goodput(["ttft:2000"])
    result = whatif(
        draws[:1], SETUP, "growth", ["0.2", "4"], slo=slo, objectives=parse_objectives(["p50:ttft:2000"], slo)
    )
    assert [[judged.met for judged in result.judged(point)] for point in result.points] == [[True], [False]]
    few, many = means(result, "goodput_share")
    assert few > many


@pytest.mark.parametrize(
    ("knob", "values", "words"),
    [
        ("speed", None, "unknown knob 'speed'"),
        ("seats", ["0"], "at least 1"),
        ("seats", ["12.5"], "whole number"),
        ("rate", ["x"], "number of requests per second"),
        ("rate", ["-1"], "between"),
        ("watermark", ["1"], "below 1"),
        ("growth", ["nan"], "finite factor"),
        ("gpu", ["h100", "nothing-like-it"], "unknown GPU"),
        ("kv-dtype", ["int3"], "unknown KV dtype"),
        ("policy", ["gready"], "did you mean greedy"),
        ("tp", ["2", "2"], "the value 2 twice"),
        ("rate", ["20", "2e1"], "the value 20.0 twice"),
    ],
)
def test_no_value_at_all_is_refused(draws: list[Workload], knob: str, values: list[str] | None, words: str) -> None:
    with pytest.raises(InputError, match=words):
        whatif(draws, SETUP, knob, values)


def test_what_cannot_be_varied_is_refused(draws: list[Workload]) -> None:
    with pytest.raises(InputError, match="hardware file"):
        whatif(draws, replace(SETUP, spec=None), "gpu")
    stated = MachineSpec("llama-3.1-8b", "l40s", {"num_gpu_blocks": 2000})
    with pytest.raises(InputError, match="leave --num-gpu-blocks out"):
        whatif(draws, replace(SETUP, spec=stated), "tp")
    sessions = generate(replace(PRESETS["lmsys"], conversation=Conversation(3, 1.0, 20.0)), n=60, rate=2.0)
    with pytest.raises(InputError, match="share content"):
        whatif([sessions], SETUP, "prompt-length", ["2"])
    for price in ("x", "0", "h100=-1", "2.5,"):
        with pytest.raises(InputError, match="per GPU and hour"):
            parse_prices(price)
    with pytest.raises(InputError, match="second one"):
        parse_prices("h100=1,h100-80gb=2")


def test_values_of_a_policy_keep_their_parameters() -> None:
    assert split_values("policy", "wait:a=1,b=2,greedy,fluid:evicted_share=0.1") == [
        "wait:a=1,b=2",
        "greedy",
        "fluid:evicted_share=0.1",
    ]
    assert split_values("seats", "1, 2") == ["1", "2"]


def test_the_present_value_is_the_run_as_it_is(draws: list[Workload]) -> None:
    (now,) = [point for point in whatif(draws, SETUP, "rate").points if point.value.is_current]
    (unchanged,) = whatif(draws, SETUP, "growth", ["1"]).points
    assert now.summaries == unchanged.summaries
