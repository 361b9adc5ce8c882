"""Replaying a measured run: exact on a run of our own making, and within stated errors on a real one."""

from pathlib import Path

import numpy as np
import pytest

import validate_rtx4090 as validate
from fluidgate.engine import EngineConfig
from fluidgate.errors import InputError
from fluidgate.hardware import Hardware, StepTime
from fluidgate.policies import Greedy
from fluidgate.runs import simulate, timings_of
from fluidgate.studies.measured import (
    WatchedRun,
    fit_to_timings,
    read_watched_run,
    replay,
    simulated_gauges,
)
from fluidgate.workload import Workload

TRUTH = StepTime(0.016, 9e-5, 1.4e-7, 7e-9)
BLOCKS = 600
CONFIG = EngineConfig(max_num_batched_tokens=1024)


@pytest.fixture(scope="module")
def own_run() -> WatchedRun:
    """60 requests that fill the cache, served in the times of `TRUTH`."""
    rng = np.random.default_rng(4)
    workload = Workload(
        np.sort(rng.uniform(0, 10, 60)), rng.integers(100, 900, 60), rng.integers(50, 300, 60), name="own"
    )
    records = simulate(workload, Hardware("own", TRUTH, BLOCKS), Greedy(), config=CONFIG, record="steps")
    assert records.preemptions.sum() > 0
    gauges = simulated_gauges(records, np.arange(0.5, records.end_s, 0.5))
    return WatchedRun(workload=workload, timings=timings_of(records), gauges=gauges)


def test_a_fit_to_half_of_our_own_run_predicts_the_other_half(own_run: WatchedRun) -> None:
    start = StepTime(*(1.2 * c for c in (TRUTH.c0, TRUTH.c_tok, TRUTH.c_kv, TRUTH.c_attn)))
    fitted = fit_to_timings(own_run, start, BLOCKS, CONFIG, slice(0, 30))
    for name, other in timings_of(replay(own_run, fitted, BLOCKS, CONFIG)).latencies_s.items():
        own = own_run.timings.latencies_s[name]
        assert other[30:].mean() == pytest.approx(own[30:].mean(), rel=0.03), name
        off = timings_of(replay(own_run, start, BLOCKS, CONFIG)).latencies_s[name]
        assert abs(off[30:].mean() / own[30:].mean() - 1) > 0.1, name


def test_the_true_step_time_replays_the_run_exactly(own_run: WatchedRun) -> None:
    records = replay(own_run, TRUTH, BLOCKS, CONFIG, steps=True)
    np.testing.assert_array_equal(records.last_token_s, own_run.timings.last_token_s)
    gauges = simulated_gauges(records, np.array([0.0, records.end_s / 2, records.end_s + 1]))
    steps = records.steps
    assert steps is not None
    middle = np.flatnonzero(steps.end_s <= records.end_s / 2)[-1]
    assert gauges.running.tolist()[1:] == [steps.running[middle], 0]
    assert gauges.waiting.tolist()[1:] == [steps.waiting[middle], 0]
    assert gauges.kv_use.tolist()[1:] == [1 - steps.free_blocks[middle] / (BLOCKS - 1), 0]


HEADER = "arrived_at,num_prefill_tokens,num_decode_tokens,scheduled_at,first_token_at,last_token_at\n"


@pytest.mark.parametrize(
    ("run", "gauges", "message"),
    [
        (HEADER + "0,10,5,0,1,2\n", None, "run.timeseries.csv: cannot be read"),
        (HEADER + "0,10,5,0,1,2\n", "t,running\n1,2\n", "run.timeseries.csv: no column waiting, kv_cache_pct"),
        (HEADER.replace("scheduled_at,", "") + "0,10,5,1,2\n", "", "run.csv: no column scheduled_at"),
        (HEADER + "0,10,5,0,,2\n", "", "run.csv:2: first_token_at is not a finite number"),
        (HEADER + "1,10,5,0,1,2\n0,10,5,0,1,2\n", "", "run.csv: arrived_at must rise from 0"),
    ],
)
def test_a_run_that_cannot_be_read(tmp_path: Path, run: str, gauges: str | None, message: str) -> None:
    (tmp_path / "run.csv").write_text(run)
    if gauges is not None:
        (tmp_path / "run.timeseries.csv").write_text(gauges)
    with pytest.raises(InputError) as refusal:
        read_watched_run(tmp_path / "run.csv")
    assert message in str(refusal.value)


def test_a_measured_vllm_run_is_predicted_from_its_first_half(shared_dir: Path) -> None:
    """The figures of docs/validation.md, with a margin: a search may end elsewhere with another SciPy."""
    run = read_watched_run(shared_dir / "traces" / "vllm_measured_RTX4090_Llama-3.1-8B.csv.gz")
    second = validate.halves(run)[1]
    records = replay(run, validate.fit(run), validate.NUM_GPU_BLOCKS, validate.CONFIG, steps=True)
    found = validate.errors(run.timings, timings_of(records), second)
    assert abs(found["TPOT mean"]) < 0.03
    assert abs(found["E2E mean"]) < 0.03
    assert abs(found["TTFT mean"]) < 0.04
    assert abs(found["TTFT p99"]) < 0.03
    assert found["TPOT each"] < 0.08
    assert found["E2E each"] < 0.03
    assert validate.drain_s(timings_of(records), second) == pytest.approx(
        validate.drain_s(run.timings, second), rel=0.02
    )
    after_s = float(run.timings.first_scheduled_s[second].min())
    gauges = validate.gauge_errors(run.gauges, simulated_gauges(records, run.gauges.at_s), after_s)
    assert gauges["running"][2] < 2.5
    assert gauges["waiting"][2] < 5
    assert gauges["kv_use"][2] < 0.05

    from_the_data_sheet = timings_of(replay(run, validate.data_sheet(), validate.NUM_GPU_BLOCKS, validate.CONFIG))
    assert validate.errors(run.timings, from_the_data_sheet, second)["E2E mean"] > 0.08, "the fit does nothing"
