"""A run over time: nothing is lost between bins, peaks stay, and a run done by hand is told as it was."""

import json
from dataclasses import asdict, replace
from itertools import pairwise
from math import isnan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluidgate.engine import EngineConfig, RunRecords, run
from fluidgate.errors import InputError
from fluidgate.hardware import Hardware, StepTime
from fluidgate.metrics import Timeline, summarize, timeline
from fluidgate.metrics.timeline import StepFunction
from fluidgate.policies import Greedy, Wait
from fluidgate.runs import simulate
from fluidgate.workload import Workload, generate

HARDWARE = Hardware("tight", StepTime(c0=0.01, c_tok=2e-5, c_kv=2e-7), num_gpu_blocks=220)
EDGES = [0, 4, 9, 20]


@pytest.fixture(scope="module", params=["greedy", "concurrency-cap:cap=3", "wait"])
def records(request: pytest.FixtureRequest) -> RunRecords:
    """Overloaded: greedy evicts, the cap holds."""
    workload = generate("p512-d20", n=80, rate=30, seed=2)
    return simulate(workload, HARDWARE, request.param, record="decisions")


@pytest.fixture(scope="module")
def seen(records: RunRecords) -> Timeline:
    return timeline(records, EDGES)


def test_kv_use_keeps_its_area_and_its_peak(records: RunRecords, seen: Timeline) -> None:
    width = np.diff(seen.edges_s)
    area = float(np.dot(seen.kv_mean, width))
    assert area == pytest.approx(records.mean_blocks * records.busy_s / records.total_blocks)
    assert max(seen.kv_high) == records.peak_blocks / records.total_blocks
    for low, mean, high in zip(seen.kv_low, seen.kv_mean, seen.kv_high, strict=True):
        assert low - 1e-9 <= mean <= high + 1e-9


def test_waiting_keeps_its_area(records: RunRecords, seen: Timeline) -> None:
    """Time in the queue adds up: that of all requests together is time in the system less time resident."""
    steps = records.steps
    assert steps is not None
    in_system_s = float((records.last_token_s - records.arrival_s).sum())
    resident_s = float((steps.running * (steps.end_s - steps.start_s)).sum())
    assert np.dot(seen.waiting_mean, np.diff(seen.edges_s)) == pytest.approx(in_system_s - resident_s)
    assert max(seen.waiting_high) >= steps.waiting.max()


def test_the_batch_keeps_its_area(records: RunRecords, seen: Timeline) -> None:
    steps = records.steps
    assert steps is not None
    member_s = float((steps.scheduled * (steps.end_s - steps.start_s)).sum())
    assert np.dot(np.sum(seen.batch, axis=0), np.diff(seen.coarse_edges_s)) == pytest.approx(member_s)


def test_evictions_and_percentiles_are_the_summarys(records: RunRecords, seen: Timeline) -> None:
    summary = summarize(records)
    assert seen.evicted[-1] == summary.preemptions
    assert all(a <= b for a, b in pairwise(seen.evicted))
    assert 1e3 * seen.ttft_s[50] == pytest.approx(summary.median_ttft_ms)
    assert 1e3 * seen.tpot_s[99] == pytest.approx(summary.p99_tpot_ms)
    assert 1e3 * seen.e2el_s[90] == pytest.approx(summary.p90_e2el_ms)
    assert seen.silence_s[100] == pytest.approx(summary.max_longest_silence_s)


def test_holds_average_to_the_mean(records: RunRecords, seen: Timeline) -> None:
    arrived, _ = np.histogram(records.arrival_s, seen.coarse_edges_s)
    held = [count * value for count, value in zip(arrived, seen.held_s, strict=True) if count]
    assert sum(held) / len(records) == pytest.approx(summarize(records).mean_held_s)
    assert all(isnan(value) for count, value in zip(arrived, seen.held_s, strict=True) if not count)


def test_it_goes_through_json(seen: Timeline) -> None:
    again = Timeline(**json.loads(json.dumps(asdict(seen))))
    assert again.kv_high == seen.kv_high
    assert again.batch == seen.batch


def test_a_run_by_hand() -> None:
    # One request of 10 + 10 tokens, a second per iteration, 20 tokens of memory in blocks of one: it holds 10 tokens in
    # the first second and 19 in the tenth. From 10 s to 20 s the engine is idle, then one of 10 + 1 tokens takes 1 s.
    hardware = Hardware("by hand", StepTime(c0=1.0), num_gpu_blocks=21, block_size=1)
    workload = Workload(np.array([0.0, 20.0]), np.array([10, 10]), np.array([10, 1]))
    config = EngineConfig(enable_prefix_caching=False, watermark=0.0)
    seen = timeline(run(workload, hardware, Greedy(), config, record="decisions"), [0, 5, 10])
    at = np.searchsorted(seen.edges_s, [0.5, 9.5, 15.0, 20.5]) - 1
    assert [seen.kv_mean[k] for k in at] == pytest.approx([10 / 20, 19 / 20, 0.0, 10 / 20])
    assert seen.batch == [pytest.approx([6 / 21]), pytest.approx([5 / 21])]  # one bin: stages 0–4 and 5–9, and 0
    assert seen.e2el_s[0] == 1.0
    assert seen.e2el_s[100] == 10.0


def test_a_run_that_never_began_is_empty() -> None:
    workload = generate("p512-d20", n=3, rate=1.0, seed=0)
    never = Wait(hold_s=0.0, strict=True, thresholds=(9.0,), output_edges=())
    stuck = simulate(workload, HARDWARE, never, record="decisions")
    assert stuck.iterations == 0
    seen = timeline(stuck, EDGES)
    assert len(seen.kv_mean) == len(seen.edges_s) - 1
    assert all(np.isfinite(seen.kv_mean))


def test_without_decisions_only_the_batch_is_missing() -> None:
    workload = generate("p512-d20", n=20, rate=30.0, seed=0)
    plain, stepped, full = (
        simulate(workload, HARDWARE, "greedy", record=record) for record in ("requests", "steps", "decisions")
    )
    without = replace(timeline(full, EDGES), batch=[])
    assert json.dumps(asdict(timeline(stepped, EDGES))) == json.dumps(asdict(without))  # NaN equals NaN as text
    with pytest.raises(InputError, match="record='steps'"):
        timeline(plain, EDGES)


@given(
    st.lists(st.tuples(st.floats(0.01, 5.0), st.floats(-10, 10)), min_size=1, max_size=30),
    st.integers(1, 40),
)
def test_step_functions_by_brute_force(pieces: list[tuple[float, float]], bins: int) -> None:
    time = np.concatenate(([0.0], np.cumsum([width for width, _ in pieces])[:-1]))
    end = float(sum(width for width, _ in pieces))
    function = StepFunction(time, np.array([value for _, value in pieces]))
    edges = np.linspace(0.0, end, bins + 1)
    mean, least, most = function.mean(edges), function.least(edges), function.most(edges)
    ends = np.append(time[1:], end)
    for k, (low, high) in enumerate(pairwise(edges)):
        overlap = np.minimum(ends, high) - np.maximum(time, low)
        inside = function.value[overlap > 1e-12]
        assert mean[k] == pytest.approx(float(overlap.clip(0) @ function.value) / (high - low), abs=1e-6)
        assert least[k] <= inside.min()
        assert most[k] >= inside.max()
        touched = function.value[overlap > -1e-9]
        assert least[k] in touched
        assert most[k] in touched
