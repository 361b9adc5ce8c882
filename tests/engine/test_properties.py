"""Laws on random small cases, and proof that the cases reach the rare paths."""

from collections import Counter
from dataclasses import astuple, replace
from random import Random

import numpy as np
from hypothesis import event, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fluidgate.engine import EngineConfig, RunRecords, run
from fluidgate.policies import Greedy
from fluidgate.testing import check_records, check_same

from .cases import Case, random_case

CASES = st.randoms(use_true_random=False).map(random_case)
quick = settings(max_examples=100, deadline=None)


def simulate(case: Case, *, compile: bool = True) -> RunRecords:
    workload, hardware, policy, config = case
    return run(workload, hardware, policy, config, record="decisions", compile=compile)


@quick
@given(CASES)
def test_the_laws_hold(case: Case) -> None:
    records = simulate(case)
    event(f"mode {records.config.mode}, preempted {bool(records.preemptions.any())}")
    check_records(records)
    check_same(records, simulate(case, compile=False), "interpreted equals compiled")


@quick
@given(CASES)
def test_littles_law(case: Case) -> None:
    """∫ N dt = Σ sojourn, with N from the iterations and the sojourns from the requests."""
    records = simulate(case)
    steps = records.steps
    assert steps is not None
    present = ((steps.running + steps.waiting) * (steps.end_s - steps.start_s)).sum()
    # the engine sees a request from the first iteration that begins at or after its arrival
    seen_s = steps.start_s[np.searchsorted(steps.start_s, records.arrival_s)]
    assert np.isclose(present, (records.last_token_s - seen_s).sum(), rtol=1e-9)


@quick
@given(CASES)
def test_an_offloaded_victim_computes_nothing_twice(case: Case) -> None:
    workload, hardware, policy, config = case
    records = run(workload, hardware, policy, replace(config, preemption="offload"))
    assert records.finished.all()
    assert not records.recomputed_tokens.any()
    if not records.cached_tokens.any():
        assert records.computed_tokens == (workload.prompt_tokens + workload.output_tokens - 1).sum()


@quick
@given(CASES, st.integers(1, 50))
def test_more_blocks_never_make_a_run_impossible(case: Case, more: int) -> None:
    workload, hardware, policy, config = case
    larger = replace(hardware, num_gpu_blocks=hardware.num_gpu_blocks + more)
    assert run(workload, larger, policy, config).finished.all()


@quick
@given(CASES)
def test_a_cache_that_holds_all_never_evicts(case: Case) -> None:
    workload, hardware, policy, config = case
    ample = replace(hardware, num_gpu_blocks=2 + int((workload.prompt_tokens + workload.output_tokens).sum()) * 2)
    records = run(workload, ample, policy, config)
    assert records.preemptions.sum() == 0
    assert records.recomputed_tokens.sum() == 0


@quick
@given(CASES)
def test_what_is_recorded_changes_nothing(case: Case) -> None:
    workload, hardware, policy, config = case
    plain = run(workload, hardware, policy, config)
    assert plain.steps is None
    check_same(plain, simulate(case), "recording changes nothing")
    steps = run(workload, hardware, policy, config, record="steps").steps
    full = simulate(case).steps
    assert steps is not None
    assert full is not None
    assert steps.start_s.tobytes() == full.start_s.tobytes()
    assert len(steps.batch) == len(steps.victims) == 0


@quick
@given(CASES, st.sampled_from([0.25, 4.0]))
def test_the_unit_of_time_is_arbitrary(case: Case, unit: float) -> None:
    """All times scaled by a power of two scale the run exactly; Greedy, which names no time of its own."""
    workload, hardware, _, config = case
    c = hardware.step_time
    scaled = type(c)(*(unit * value for value in astuple(c)))
    base = run(workload, hardware, Greedy(), config, record="decisions")
    other = run(workload.scaled(1 / unit), replace(hardware, step_time=scaled), Greedy(), config, record="decisions")
    assert base.steps is not None
    assert other.steps is not None
    assert base.steps.batch.tobytes() == other.steps.batch.tobytes()
    assert (base.last_token_s * unit).tobytes() == other.last_token_s.tobytes()


@quick
@given(CASES)
def test_greedy_starts_requests_in_order_of_arrival(case: Case) -> None:
    workload, hardware, _, config = case
    records = run(workload, hardware, Greedy(), config)
    assert (np.diff(records.first_scheduled_s) >= 0).all()
    assert (records.held_s == 0).all()


def _computed_before_the_only_eviction(records: RunRecords) -> NDArray[np.int64]:
    """Tokens each request had computed when it was evicted; 0 unless that happened exactly once."""
    steps = records.steps
    assert steps is not None
    lost, computed = np.zeros(len(records), np.int64), np.zeros(len(records), np.int64)
    batches = np.split(steps.batch, np.cumsum(steps.scheduled)[:-1])
    victims = np.split(steps.victims, np.cumsum(steps.preempted)[:-1])
    for batch, evicted in zip(batches, victims, strict=True):
        lost[evicted] = computed[evicted]
        computed[batch[:, 0]] += batch[:, 1]
    return np.where(records.preemptions == 1, lost, 0)


def _rare_paths(records: RunRecords) -> set[str]:
    steps = records.steps
    assert steps is not None
    config, load = records.config, records.workload
    longest = (load.prompt_tokens + load.output_tokens - 1).max() / records.hardware.block_size
    lost = _computed_before_the_only_eviction(records)
    paths = {
        "eviction": records.preemptions.any(),
        "evicted twice": (records.preemptions > 1).any(),
        "several victims in one step": (steps.preempted > 1).any(),
        "full cache": (steps.free_blocks == 0).any(),
        "arrivals tie": (np.diff(load.arrival_s) == 0).any(),
        "arrival ties with the end of a step": np.isin(load.arrival_s[load.arrival_s > 0], steps.end_s).any(),
        "chunked prompt": (load.prompt_tokens > config.token_budget(2048)).any(),
        "shared prefix found": records.cached_tokens.any(),
        "own blocks found again": config.preemption == "recompute" and (records.recomputed_tokens < lost).any(),
        "evicted within its prompt": ((lost > 0) & (lost < load.prompt_tokens)).any(),
        "restart after eviction": config.preemption == "restart" and records.preemptions.any(),
        "offload after eviction": config.preemption == "offload" and records.preemptions.any(),
        "seats full": (steps.running == config.seats).any() and steps.waiting.any(),
        "held by the policy": (records.held_s > 0).any(),
        "engine runs dry": (steps.start_s[1:] > steps.end_s[:-1]).any(),
        "whole cache for one": longest > records.total_blocks - 1,
        **{
            f"eviction in mode {m}": config.mode == m and records.preemptions.any()
            for m in ("sarathi", "prefill-first")
        },
    }
    return {name for name, reached in paths.items() if reached}


def test_the_cases_reach_the_rare_paths() -> None:
    at_least = {
        "arrivals tie": 100,
        "arrival ties with the end of a step": 40,
        "full cache": 80,
        "whole cache for one": 50,
        "eviction": 50,
        "evicted twice": 15,
        "evicted within its prompt": 5,
        "several victims in one step": 3,
        "eviction in mode sarathi": 5,
        "eviction in mode prefill-first": 10,
        "restart after eviction": 5,
        "offload after eviction": 5,
        "own blocks found again": 15,
        "shared prefix found": 12,
        "chunked prompt": 40,
        "seats full": 60,
        "held by the policy": 50,
        "engine runs dry": 60,
    }
    reached = Counter(path for seed in range(200) for path in _rare_paths(simulate(random_case(Random(seed)))))
    assert {path: reached[path] for path, n in at_least.items() if reached[path] < n} == {}


def test_equal_seeds_make_equal_cases() -> None:
    a, b = (random_case(Random(5)) for _ in range(2))
    assert a[0].digest == b[0].digest
    assert a[1:] == b[1:]
    assert a[3] != EngineConfig() or a[2] != Greedy()
