"""The conformance kit catches what it is for: every law is broken once, and named."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fluidgate.engine import MODES, EngineConfig, RunRecords, run
from fluidgate.policies import Greedy, Policy
from fluidgate.testing import check_policy, check_records, check_same, small_configs, small_hardware, small_workloads
from fluidgate.workload import Workload

BURST = small_workloads()[0]
OFF = EngineConfig(enable_prefix_caching=False)


@pytest.fixture(scope="module")
def records() -> RunRecords:
    records = run(BURST, small_hardware(), Greedy(), OFF, record="decisions")
    assert records.preemptions.any()
    check_records(records)
    return records


def test_the_kit_runs_every_mode() -> None:
    assert {config.mode for config in small_configs()} == set(MODES)


def changed(array: np.ndarray, i: int, value: Any) -> np.ndarray:
    copy = array.copy()
    copy[i] = value
    return copy


def last(records: RunRecords) -> int:
    return int(np.argmax(records.last_token_s))


@pytest.mark.parametrize(
    ("law", "name", "change"),
    [
        ("KV blocks never exceed the cache", "peak_blocks", lambda r: 25),
        ("KV blocks never exceed the cache", "mean_blocks", lambda r: r.peak_blocks + 1.0),
        ("times are in order", "first_scheduled_s", lambda r: changed(r.first_scheduled_s, 0, -1.0)),
        ("times are in order", "first_token_s", lambda r: changed(r.first_token_s, 0, 1e6)),
        ("times are in order", "last_token_s", lambda r: changed(r.last_token_s, 0, 0.001)),
        ("times are in order", "held_s", lambda r: changed(r.held_s, 0, 1e6)),
        ("no request is served twice", "generated_tokens", lambda r: r.generated_tokens + 1),
        ("no request is served twice", "gap_sum_s", lambda r: r.gap_sum_s + 0.01),
        ("no request is served twice", "gap_counts", lambda r: changed(r.gap_counts, 0, 999)),
        ("no request is served twice", "longest_gap_s", lambda r: r.longest_gap_s * 0),
        ("tokens are conserved", "computed_tokens", lambda r: r.computed_tokens + 1),
        ("tokens are conserved", "recomputed_tokens", lambda r: r.recomputed_tokens + 1),
        ("tokens are conserved", "cached_tokens", lambda r: r.cached_tokens + 4),
        ("requests and blocks add up", "iterations", lambda r: r.iterations + 1),
        ("requests and blocks add up", "busy_s", lambda r: r.busy_s * 1.01),
        ("requests and blocks add up", "peak_blocks", lambda r: r.peak_blocks - 1),
        ("scheduled tokens are conserved", "preemptions", lambda r: r.preemptions * 2),
        ("token budget and seats are respected", "config", lambda r: replace(r.config, max_num_seqs=1)),
        ("token budget and seats are respected", "config", lambda r: replace(r.config, max_num_batched_tokens=20)),
        ("token budget and seats are respected", "config", lambda r: replace(r.config, long_prefill_token_threshold=9)),
        ("a replay of the decisions gives the same run", "config", lambda r: replace(r.config, preemption="restart")),
        (
            "a replay of the decisions gives the same run",
            "hardware",
            lambda r: replace(r.hardware, step_time=replace(r.hardware.step_time, c_kv=2e-5)),
        ),
    ],
)
def test_a_broken_record_is_found(records: RunRecords, law: str, name: str, change: Any) -> None:
    with pytest.raises(AssertionError, match=law):
        check_records(replace(records, **{name: change(records)}))


def test_a_lone_prompt_that_should_have_been_cut_is_found() -> None:
    config = replace(OFF, long_prefill_token_threshold=8)
    records = run(Workload([0.0], [20], [3], name="alone"), small_hardware(), Greedy(), config, record="decisions")
    check_records(records)
    with pytest.raises(AssertionError, match="20 prompt tokens with a limit of 8"):
        check_records(replace(records, config=replace(config, cut_lone_prefill=True)))


@pytest.mark.parametrize(
    ("law", "name", "change"),
    [
        ("requests and blocks add up", "free_blocks", lambda s: changed(s.free_blocks, 3, -1)),
        ("requests and blocks add up", "start_s", lambda s: changed(s.start_s, 3, s.start_s[2])),
        ("requests and blocks add up", "waiting", lambda s: changed(s.waiting, 3, s.waiting[3] + 1)),
        ("token budget and seats are respected", "batch", lambda s: changed(s.batch, 1, s.batch[0])),
        ("scheduled tokens are conserved", "tokens", lambda s: changed(s.tokens, 3, s.tokens[3] + 1)),
        ("scheduled tokens are conserved", "victims", lambda s: (s.victims + 1) % 16),
        ("a replay of the decisions", "free_blocks", lambda s: changed(s.free_blocks, -1, s.free_blocks[-1] - 1)),
    ],
)
def test_a_broken_step_is_found(records: RunRecords, law: str, name: str, change: Any) -> None:
    assert records.steps is not None
    steps = replace(records.steps, **{name: change(records.steps)})
    with pytest.raises(AssertionError, match=law):
        check_records(replace(records, steps=steps))


def test_a_lost_request_is_found(records: RunRecords) -> None:
    i = last(records)
    lost = replace(
        records,
        finished=changed(records.finished, i, False),
        generated_tokens=changed(records.generated_tokens, i, records.generated_tokens[i] - 1),
    )
    with pytest.raises(AssertionError, match=r"no request is lost: policy greedy on workload 'burst'.*1 of 16 never"):
        check_records(lost)
    with pytest.raises(AssertionError, match="no request is lost"):
        check_records(lost, max_idle_s=np.inf)  # it may idle for ever, but the run did not stall


def test_idling_is_found(records: RunRecords) -> None:
    assert records.steps is not None
    late = replace(records.steps, start_s=records.steps.start_s + 0.5, end_s=records.steps.end_s + 0.5)
    for name in ("first_scheduled_s", "first_token_s", "last_token_s", "end_s"):
        records = replace(records, **{name: getattr(records, name) + 0.5})
    shifted = replace(records, steps=late)
    with pytest.raises(AssertionError, match=r"no idling while requests wait: .* idles for 0\.5 s before 0\.5 s"):
        check_records(shifted)


def test_different_bits_are_found(records: RunRecords) -> None:
    assert records.steps is not None
    check_same(records, records, "same")
    other = replace(records, held_s=changed(records.held_s, 2, 1e-300))
    with pytest.raises(AssertionError, match=r"same: policy greedy .*held_s differs"):
        check_same(records, other, "same")
    steps = replace(records.steps, batch=records.steps.batch[::-1])
    with pytest.raises(AssertionError, match="batch differs"):
        check_same(records, replace(records, steps=steps), "same")


def _grow(params, memory, view, out_quota):  # type: ignore[no-untyped-def]
    memory[0] += 1.0
    out_quota[0] = int(memory[0])
    return np.inf


class Leaky(Policy):
    """What it learns outlives the run."""

    name = "leaky"
    admit = staticmethod(_grow)
    kept = np.zeros(1)

    def new_memory(self):  # type: ignore[no-untyped-def]
        return self.kept


def test_memory_that_outlives_a_run_is_found() -> None:
    with pytest.raises(AssertionError, match=r"new_memory\(\) makes a new array for every run: policy leaky"):
        check_policy(Leaky())


def _wrong_array(params, memory, view, out_quota):  # type: ignore[no-untyped-def]
    out_quota[3] = 0
    return np.inf


class OutOfRange(Policy):
    name = "out-of-range"
    admit = staticmethod(_wrong_array)


def test_a_write_outside_an_array_is_found() -> None:
    with pytest.raises(AssertionError, match=r"policy out-of-range on workload 'burst' .*interpreted: IndexError"):
        check_policy(OutOfRange())


def test_the_cases_can_be_given() -> None:
    roomy = replace(small_hardware(), num_gpu_blocks=1000)
    load = Workload(np.zeros(2), np.array([100, 200]), np.array([3, 2]), name="mine")
    check_policy(Greedy(), workloads=[load], hardware=roomy, configs=[OFF])
    with pytest.raises(AssertionError, match=r"policy greedy on workload 'mine' .*InputError: mine: request 0 needs"):
        check_policy(Greedy(), workloads=[load], configs=[OFF])


def test_the_small_cases_are_what_they_say() -> None:
    assert {config.mode for config in small_configs()} >= {"vllm", "sarathi", "prefill-first"}
    runs = [
        run(w, small_hardware(), Greedy(), c, record="decisions") for w in small_workloads() for c in small_configs()
    ]
    assert sum(r.preemptions.any() for r in runs) >= 10
    assert any(r.cached_tokens.any() for r in runs)
    for mode in ("vllm", "sarathi", "prefill-first"):
        full = [r for r in runs if r.config.mode == mode and r.steps is not None and (r.steps.free_blocks == 0).any()]
        assert full, mode


def test_the_kit_needs_no_test_framework() -> None:
    code = "import sys, fluidgate.testing; print('pytest' in sys.modules or 'hypothesis' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
