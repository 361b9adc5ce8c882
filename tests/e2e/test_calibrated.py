"""`fluidgate calibrate server` against vLLM on this machine's CPU, and what it predicts of loads it has not seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from fluidgate.hardware import Hardware, read_hardware, read_steps

from .calibrated import NUM_BLOCKS, Load, calibrate, calibrated_server, measured, predicted
from .server import BLOCK_SIZE, TOKEN_BUDGET, Server

TIME_S = 80.0
MIXED = Load("mixed lengths", rate=5.0, prompt_tokens=100, output_tokens=80, spread=0.8, requests=60)
PROMPTS = Load("prompts above all", rate=1000.0, prompt_tokens=300, output_tokens=20, spread=0.5, requests=100)
TOLERANCE, RUNS = 0.4, 2
"""Two cores serve client, server and model, and whatever else runs there, which can only slow a run: the faster of two
runs counts. On a quiet machine they differ by up to a fifth, and means were off by as much (docs/validation.md)."""


@dataclass(frozen=True)
class Calibrated:
    """A server, the report of its calibration, and the files."""

    server: Server
    report: dict[str, Any]
    hardware: Hardware
    steps: Path

    def with_step_time(self, **values: float) -> Hardware:
        """The hardware with another step time."""
        return self.hardware.with_(step_time=replace(self.hardware.step_time, **values))


@pytest.fixture(scope="module")
def calibrated(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Calibrated]:
    """`model` only skips where vLLM is not installed; the model here is larger."""
    folder = tmp_path_factory.mktemp("calibrated")
    out, steps = folder / "hardware.json", folder / "steps.csv"
    with calibrated_server() as server:
        report = calibrate(server, out, TIME_S, "--steps-out", str(steps))
        yield Calibrated(server, report, read_hardware(out), steps)


def quicker(server: Server, load: Load) -> tuple[dict[str, float], Path]:
    """Of several runs of a load the one with the least mean latency, and what it sent."""
    return min((measured(server, load, seed=k) for k in range(1, RUNS + 1)), key=lambda run: run[0]["mean_e2el_ms"])


def test_the_file_holds_the_servers_memory_and_its_steps(calibrated: Calibrated) -> None:
    assert (calibrated.hardware.num_gpu_blocks, calibrated.hardware.block_size) == (NUM_BLOCKS, BLOCK_SIZE)
    assert len(read_steps(calibrated.steps).points.tokens) == calibrated.report["steps"] >= 20
    calibration = calibrated.hardware.calibration
    assert calibration is not None
    assert calibration.tokens[0] <= 2
    assert calibration.tokens[1] >= TOKEN_BUDGET / 2
    assert calibration.kv_tokens[1] > 0.4 * NUM_BLOCKS * BLOCK_SIZE
    assert calibrated.server.metrics()["vllm:num_preemptions_total"] == 0


def test_latencies_of_poisson_arrivals_are_predicted(calibrated: Calibrated) -> None:
    truth, sent = quicker(calibrated.server, MIXED)
    guess = predicted(sent, calibrated.hardware)
    for name in ("mean_tpot_ms", "mean_e2el_ms", "output_throughput"):
        assert guess[name] == pytest.approx(truth[name], rel=TOLERANCE), name
    wrong = predicted(sent, calibrated.with_step_time(c0=2 * calibrated.hardware.step_time.c0))
    assert wrong["mean_tpot_ms"] > (1 + TOLERANCE) * guess["mean_tpot_ms"]


def test_the_throughput_of_prompts_is_predicted(calibrated: Calibrated) -> None:
    truth, sent = quicker(calibrated.server, PROMPTS)
    guess = predicted(sent, calibrated.hardware)
    for name in ("mean_ttft_ms", "mean_e2el_ms", "output_throughput"):
        assert guess[name] == pytest.approx(truth[name], rel=TOLERANCE), name
    forgetful = predicted(sent, calibrated.with_step_time(c_tok=0.0))
    assert forgetful["output_throughput"] > (1 + TOLERANCE) * guess["output_throughput"]
