"""A step time from the latencies of measured loads: the truth comes from machines that are known, and from servers."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import requests_errors as made
from fluidgate.calibration.requests.load import Load
from fluidgate.engine import EngineConfig
from fluidgate.errors import InputError
from fluidgate.hardware import Gpu, Hardware, StepTime, get_hardware
from fluidgate.runs import calibrate_requests
from fluidgate.workload import MeasuredRun, Timings, Workload, read_results

ROOT = Path(__file__).parents[2]
ESTIMATE = replace(get_hardware("llama-3.1-8b", "rtx-4090"), num_gpu_blocks=2588)
FACTORS = {"c0": 0.75, "c_tok": 1.3, "c_kv": 1.2, "c_attn": 0.8, "c_seq": 1.2}


def machine(**factors: float) -> Hardware:
    """The estimate's machine with other coefficients."""
    own = {name: value * factors.get(name, 1.0) for name, value in vars(ESTIMATE.step_time).items()}
    return replace(ESTIMATE, step_time=StepTime(**own))


def load(rate: float, requests: int, seed: int, truth: Hardware, **lengths: tuple[int, int]) -> MeasuredRun:
    rng = np.random.default_rng(seed)
    prompt, output = (rng.integers(*lengths.get(what, (50, 1500)), requests) for what in ("prompt", "output"))
    arrival_s = np.cumsum(rng.exponential(1 / rate, requests))
    return made.measured(Workload(arrival_s, prompt, output, name="made"), truth, rng)


@pytest.mark.parametrize("seed", range(4))
def test_a_fit_to_one_moderate_load_holds_at_a_sixth_and_at_three_times_its_rate(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = made.machine_like(ESTIMATE, rng)
    rate = made.moderate_rate("azure-conv-2023", truth)
    run = made.measured(made.poisson("azure-conv-2023", rate, 250, seed), truth, rng)
    report = calibrate_requests([run], ESTIMATE, made.CONFIG)
    errors = made.errors_elsewhere(report, truth, "azure-conv-2023", rate, 50 + seed)
    assert np.abs(errors).max() < 0.1, errors
    assert report.overhead_s == pytest.approx(made.OVERHEAD_S + made.OVERHEAD_SPREAD_S, abs=0.006)


def test_two_loads_determine_the_coefficients_and_predict_each_other() -> None:
    truth = machine(**FACTORS)
    slow, fast = load(0.3, 120, 1, truth, output=(50, 400)), load(2.5, 400, 2, truth, output=(50, 400))
    report = calibrate_requests([slow, fast], ESTIMATE)
    for name in ("c0", "c_tok"):
        own = getattr(report.posterior.step_time, name)
        assert abs(own - getattr(truth.step_time, name)) < 1.5 * report.half_widths[name], name
        assert report.half_widths[name] < 0.2 * own
    for errors in report.loads:
        assert np.abs(errors.errors).max() < 0.03
        assert errors.held_out_errors is not None
        assert np.abs(errors.held_out_errors).max() < 0.1
    assert not any("One load" in remark for remark in report.remarks)


def test_a_fit_is_the_same_on_every_processor(tmp_path: Path) -> None:
    """Kernels of linear algebra for other processors add up in another order."""
    run = partial(subprocess.run, cwd=tmp_path, check=True, capture_output=True)
    run([sys.executable, ROOT / "examples" / "measured_results.py"])
    about = ["--model", "llama-3.1-8b", "--gpu", "rtx-4090", "--num-gpu-blocks", "2588"]
    fitted = []
    for core in ("Nehalem", "Haswell"):
        command = [sys.executable, "-m", "fluidgate", "calibrate", "requests", "slow.json", "fast.json", *about]
        run([*command, "--out", f"{core}.json"], env=os.environ | {"OPENBLAS_CORETYPE": core})
        fitted.append(json.loads((tmp_path / f"{core}.json").read_text())["step_time"])
    assert fitted[0] == fitted[1]


def test_a_closed_loop_is_simulated_as_one() -> None:
    """All requests are there at once and 16 in flight: sent at once, or as an open loop, TTFT would be far off."""
    rng, truth = np.random.default_rng(8), machine(**FACTORS)
    prompt, output = rng.integers(50, 1500, 240), rng.integers(50, 300, 240)
    run = made.measured(Workload(np.zeros(240), prompt, output, name="closed", concurrency=16), truth, rng)
    report = calibrate_requests([run], ESTIMATE)
    assert np.abs(report.loads[0].errors).max() < 0.03
    opened = replace(run, workload=run.workload.as_open_loop())
    assert np.abs(calibrate_requests([opened], ESTIMATE).loads[0].errors).max() > 0.5


def test_what_a_load_does_not_determine_is_said_with_the_load_that_would() -> None:
    """Prompts of 50 tokens: attention among them takes no time."""
    report = calibrate_requests([load(1.0, 150, 3, machine(), prompt=(20, 50), output=(50, 200))], ESTIMATE)
    assert "c_attn" in report.undetermined
    assert "c0" not in report.undetermined
    assert any(remark.startswith("c_attn") and "prompts of 4,000" in remark for remark in report.remarks)
    assert any("One load" in remark for remark in report.remarks)
    prior = ESTIMATE.step_time.c_attn
    assert report.posterior.step_time.c_attn == pytest.approx(prior, rel=0.2)
    assert report.half_widths["c_attn"] == pytest.approx(1.96 * 0.4 * prior, rel=0.3)


def test_without_an_unqueued_request_nothing_is_known_of_the_overhead() -> None:
    report = calibrate_requests([load(30.0, 150, 4, machine(), output=(200, 400))], ESTIMATE)
    assert report.overhead_s is None
    assert report.hardware("m", "test").overhead_s == 0
    assert any("HTTP" in remark and "one request at a time" in remark for remark in report.remarks)


def test_a_run_is_fitted_whatever_the_unit_of_its_machine() -> None:
    """A machine ten times as slow, with an estimate ten times as slow, gives coefficients ten times as large."""
    slow = replace(ESTIMATE, step_time=StepTime(**{k: 10 * v for k, v in vars(ESTIMATE.step_time).items()}))
    run = load(0.1, 60, 5, slow)
    report = calibrate_requests([run], slow)
    assert report.posterior.step_time.c0 == pytest.approx(slow.step_time.c0, rel=0.05)


def test_the_number_that_decodes_is_the_mean_over_each_requests_time() -> None:
    """Two requests from 0 to 4 s and from 2 to 3 s: the first has 1.25 on average, the second 2."""
    workload = Workload(np.zeros(20), np.full(20, 5), np.full(20, 5))
    first_s, last_s = np.full(20, 50.0), np.full(20, 50.0)
    first_s[:2], last_s[:2] = (0, 2), (4, 3)
    run = MeasuredRun(workload=workload, timings=Timings(workload.arrival_s, first_s, last_s, workload.output_tokens))
    np.testing.assert_allclose(Load(run).decoding[:2], [1.25, 2.0])


def test_too_few_requests_and_no_run_are_refused() -> None:
    with pytest.raises(InputError, match="5 requests are too few"):
        calibrate_requests([load(1.0, 5, 6, machine())], ESTIMATE)
    run = load(1.0, 30, 6, machine())
    at_once = replace(run.timings, last_token_s=run.timings.first_token_s)
    with pytest.raises(InputError, match="30 requests without times between their tokens"):
        calibrate_requests([replace(run, timings=at_once)], ESTIMATE)
    with pytest.raises(InputError, match="no run to calibrate from"):
        calibrate_requests([], ESTIMATE)


def test_a_measured_run_on_an_rtx_4090_is_predicted_from_its_first_half(shared_dir) -> None:
    """Within what docs/validation.md aims at for TPOT, and a fifth and a third of it for TTFT and E2E latency."""
    runs = read_results(shared_dir / "traces" / "vllm_measured_RTX4090_Llama-3.1-8B.csv.gz")
    errors = calibrate_requests(runs, ESTIMATE).loads[0].held_out_errors
    assert errors is not None
    assert np.all(np.abs(errors) < (0.02, 0.03, 0.015))


def test_a_measured_run_on_two_gpus_is_predicted_from_its_first_half(shared_dir) -> None:
    """Its GPUs are joined by PCIe at 16 GB/s."""
    runs = read_results(shared_dir / "measured" / "RTXPRO6000_Qwen3-32B_TP2.csv")
    estimate = get_hardware("qwen3-32b", Gpu("RTX PRO 6000", 95.6, 1792.0, 503.0, "data sheet", 16.0), tp=2)
    errors = (
        calibrate_requests(runs, estimate, EngineConfig(max_num_seqs=128, max_num_batched_tokens=2048))
        .loads[0]
        .held_out_errors
    )
    assert errors is not None
    assert np.all(np.abs(errors) < (0.03, 0.05, 0.03))
