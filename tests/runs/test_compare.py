"""Comparisons: the same requests for every policy, loads that are what they say, honest intervals."""

import json
from dataclasses import replace

import numpy as np
import pytest

from fluidgate.engine import EngineConfig
from fluidgate.errors import InputError
from fluidgate.fluid import stage_edges
from fluidgate.hardware import Hardware, StepTime
from fluidgate.metrics import summarize
from fluidgate.policies import Greedy
from fluidgate.runs import compare, plan_for, repeated, simulate
from fluidgate.workload import PRESETS, Conversation, Workload, generate, resample

HARDWARE = Hardware("test", StepTime(c0=0.01, c_tok=2e-5, c_kv=2e-7), num_gpu_blocks=400)


@pytest.fixture(scope="module")
def trace() -> Workload:
    return generate("three-types", n=400, rate=10, seed=5)


def test_every_policy_sees_the_same_requests(trace: Workload) -> None:
    result = compare(trace, HARDWARE, ["greedy", "concurrency-cap"], repeats=3, seed=2)
    for cell in result.cells:
        for draw, summary in zip(repeated(trace, 3, seed=2), cell.summaries, strict=True):
            plan = plan_for(trace, HARDWARE, EngineConfig())
            alone = summarize(simulate(draw, HARDWARE, cell.policy, fluid_plan=plan))
            assert alone.to_dict() == summary.to_dict()


def test_loads_are_multiples_of_the_boundary(trace: Workload) -> None:
    result = compare(trace, HARDWARE, ["greedy"], loads=[0.5, 1.25], repeats=1)
    for scenario, load in zip(result.scenarios, (0.5, 1.25), strict=True):
        assert scenario.load == load
        assert scenario.plan.stability.load == pytest.approx(load)


def test_differences_are_paired(trace: Workload) -> None:
    result = compare(trace, HARDWARE, ["greedy", "concurrency-cap:cap=4"], loads=[0.9], repeats=4)
    base, capped = result.cells
    expected = [
        own.mean_ttft_ms - other.mean_ttft_ms for own, other in zip(capped.summaries, base.summaries, strict=True)
    ]
    assert result.difference(capped, "mean_ttft_ms").mean == pytest.approx(np.mean(expected))
    zero = result.difference(base, "mean_ttft_ms")
    assert (zero.low, zero.mean, zero.high) == (0, 0, 0)


def test_timelines_are_of_the_first_repeat(trace: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = compare(trace, HARDWARE, ["greedy", "watermark"], loads=[1.1], repeats=2)
    watched = compare(trace, HARDWARE, ["greedy", "watermark"], loads=[1.1], repeats=2, timelines=True)
    assert [cell.timeline for cell in plain.cells] == [None, None]
    assert watched.to_dict() == plain.to_dict()
    for cell in watched.cells:
        assert cell.timeline is not None
        assert 1e3 * cell.timeline.ttft_s[50] == pytest.approx(cell.summaries[0].median_ttft_ms)
        assert cell.timeline.evicted[-1] == cell.summaries[0].preemptions
        assert len(cell.timeline.batch) == len(stage_edges(cell.scenario.plan)) - 1
    monkeypatch.setattr("fluidgate.runs.policy_runs.MAX_TOKENS", 10)
    longer = compare(trace, HARDWARE, ["greedy"], loads=[1.1], repeats=1, timelines=True).cells[0].timeline
    assert longer is not None
    assert longer.batch == []


def test_json_is_plain_and_complete(trace: Workload) -> None:
    result = compare(trace, HARDWARE, ["greedy", "watermark"], repeats=2)
    text = json.dumps(result.to_dict(), allow_nan=False)
    back = json.loads(text)
    assert back["workload"]["digest"] == trace.digest
    cells = back["scenarios"][0]["cells"]
    assert [cell["policy"] for cell in cells] == ["greedy", "watermark"]
    assert cells[0]["metrics"]["output_throughput"]["mean"] > 0
    assert len(cells[0]["repeats"]) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"policies": []}, "at least one policy"),
        ({"policies": ["greedy", "greedy"]}, "named twice"),
        ({"repeats": 0, "source": "p512-d20"}, "at least one repeat"),
        ({"loads": [0.0]}, "above 0"),
        ({"loads": [float("nan")]}, "above 0"),
    ],
)
def test_refusals(arguments: dict, words: str, trace: Workload) -> None:
    arguments = {"source": trace, "policies": ["greedy"], **arguments}
    with pytest.raises(InputError, match=words):
        compare(arguments.pop("source"), HARDWARE, arguments.pop("policies"), **arguments)


def test_all_at_once_has_no_load_but_can_be_compared() -> None:
    burst = Workload(np.zeros(20), np.full(20, 50), np.full(20, 30))
    with pytest.raises(InputError, match="all requests arrive at once"):
        compare(burst, HARDWARE, ["greedy"], loads=[1.0])
    result = compare(burst, HARDWARE, ["greedy", "rate-limited"], repeats=1)
    assert all(cell.summaries[0].completed == 20 for cell in result.cells)


def test_a_single_request_can_be_simulated() -> None:
    lone = Workload(np.zeros(1), np.array([7]), np.array([3]))
    for policy in ("greedy", "watermark", "concurrency-cap", "rate-limited", "wait", "nested-wait"):
        assert simulate(lone, HARDWARE, policy).finished.all()


def test_resampling_keeps_rate_and_rows(trace: Workload) -> None:
    again = resample(trace, 7)
    assert len(again) == len(trace)
    assert again.duration_s == pytest.approx(trace.duration_s)
    pairs = set(zip(trace.prompt_tokens.tolist(), trace.output_tokens.tolist(), strict=True))
    assert set(zip(again.prompt_tokens.tolist(), again.output_tokens.tolist(), strict=True)) <= pairs
    assert again.digest != trace.digest
    assert resample(trace, 7).digest == again.digest


def test_resampling_keeps_neighbours_together() -> None:
    # Outputs count up, so inside a block each is one more than its neighbour: with blocks of mean 200, about 199 of
    # 200 neighbours stay neighbours, where drawing rows one by one would keep 1 in 2,000.
    n = 2000
    counted = Workload(np.arange(n, dtype=float), np.ones(n, np.int64), np.arange(1, n + 1))
    steps = np.diff(resample(counted, 1).output_tokens)
    kept = np.mean((steps == 1) | (steps == 1 - n))
    assert 0.98 < kept < 1


def test_resampling_carries_prefixes_along() -> None:
    workload = Workload(
        np.arange(3.0),
        np.array([4, 8, 4]),
        np.ones(3, np.int64),
        prefix_ids=np.array([1, 1, 2, 3]),
        prefix_offsets=np.array([0, 1, 3, 4]),
        prefix_block_tokens=4,
    )
    again = resample(workload, 3)
    own = {4: ([1], [3]), 8: ([1, 2],)}
    for i in range(3):
        ids = again.prefix_ids[again.prefix_offsets[i] : again.prefix_offsets[i + 1]].tolist()
        assert ids in own[int(again.prompt_tokens[i])]


def test_plan_for_uses_the_engines_limits(trace: Workload) -> None:
    plan = plan_for(trace, HARDWARE, EngineConfig(max_num_seqs=64, max_num_active_seqs=8, max_num_batched_tokens=300))
    assert plan.limits.max_num_seqs == 8
    assert plan.limits.max_num_batched_tokens == 300


def test_a_policy_object_is_taken_as_it_is(trace: Workload) -> None:
    assert simulate(trace, HARDWARE, Greedy()).policy == "greedy"


def test_a_load_cannot_be_set_where_so_many_are_in_flight() -> None:
    load = replace(generate("p512-d20", n=50, rate=5.0), concurrency=4)
    with pytest.raises(InputError, match="at most 4 requests in flight the load is what they make it; leave loads out"):
        compare(load, HARDWARE, ["greedy"], loads=[0.9], repeats=1)


def test_policies_in_a_closed_loop_and_in_sessions_are_compared_on_the_same_requests() -> None:
    chat = replace(PRESETS["p512-d20"], conversation=Conversation(3, 2.0, 20.0), concurrency=8)
    result = compare(chat, HARDWARE, ["greedy", "fluid"], requests=120, repeats=2, timelines=True)
    (scenario,) = result.scenarios
    assert all(summary.completed == 120 for cell in result.at(scenario) for summary in cell.summaries)
    again = compare(chat, HARDWARE, ["greedy", "fluid"], requests=120, repeats=2)
    assert again.to_dict()["scenarios"] == result.to_dict()["scenarios"]


def test_loads_of_sessions_are_rates_of_requests() -> None:
    chat = replace(PRESETS["p512-d20"], conversation=Conversation(3, 2.0, 20.0))
    result = compare(chat, HARDWARE, ["greedy"], loads=[0.5], requests=6000, repeats=1)
    (scenario,) = result.scenarios
    rate = scenario.load * scenario.plan.stability.boundary_rate
    assert result.at(scenario)[0].summaries[0].request_throughput == pytest.approx(rate, rel=0.1)
