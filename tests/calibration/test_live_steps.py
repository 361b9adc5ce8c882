"""Mean steps from counters, and single steps from the log, of an engine whose step time is known; on virtual time."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fluidgate.calibration import calibrate_steps
from fluidgate.calibration.server.iteration_log import IterationLog
from fluidgate.calibration.server.kv_held import kv_remark
from fluidgate.calibration.server.live_steps import Counters, Look, PhaseLooks, mean_steps
from fluidgate.calibration.server.running_server import RunningServer
from fluidgate.calibration.server.sweep import Phase, lay_out
from fluidgate.errors import InputError
from fluidgate.hardware import StepTime
from fluidgate.hardware.calibration import COEFFICIENTS
from fluidgate.vllm_metrics import Scrape

from .fake_vllm import BLOCK_SIZE, BUDGET, MODEL_LEN, NUM_BLOCKS, Engine

TRUTH = StepTime(c0=0.008, c_tok=6e-5, c_kv=4e-7, c_attn=2e-8, c_seq=2e-5)
SERVER = RunningServer("http://s", "m", "m", MODEL_LEN, NUM_BLOCKS, BLOCK_SIZE)
EVERY_S = 0.5


def scrape(engine: Engine) -> Scrape:
    return Scrape.of(engine.page(), "s", taken_s=engine.now_s)


def look_through(engine: Engine, phase: Phase, duration_s: float) -> PhaseLooks:
    """A phase on virtual time; the load begins between two looks."""
    began = Counters.of(scrape(engine))
    found = PhaseLooks(phase.name, phase.concurrency, BLOCK_SIZE)
    start_s = engine.now_s
    engine.advance(start_s + 0.3)
    engine.load(phase.concurrency, phase.prompt_tokens, phase.output_tokens)
    for k in range(1, round(duration_s / EVERY_S)):
        at_s = start_s + k * EVERY_S
        engine.advance(at_s)
        look = Look.of(Scrape.of(engine.page(), "s", taken_s=at_s), began, sum(map(len, engine.log)))
        found.looks.append(look)
    engine.unload()
    return found


def sweep(engine: Engine, duration_s: float = 20.0) -> list[PhaseLooks]:
    return [look_through(engine, phase, duration_s) for phase in lay_out(SERVER, 6 * duration_s, concurrency=32)]


@pytest.mark.parametrize("hits", [0.0, 0.2])
def test_coefficients_come_back_from_counters_alone(hits: float) -> None:
    report = calibrate_steps(mean_steps(sweep(Engine(TRUTH, hits=hits))))
    for name, half_width in zip(COEFFICIENTS, report.calibration.plus_minus, strict=True):
        assert half_width is not None
        truth, found = getattr(TRUTH, name), getattr(report.step_time, name)
        assert abs(found - truth) < 1.5 * half_width + 0.02 * truth, name
        assert half_width < 0.3 * truth, name


def test_a_window_is_the_mean_of_its_steps() -> None:
    engine = Engine(TRUTH)
    looks = look_through(engine, Phase("p", "c0", 8, 200, 40, 999), 10.0)
    ends_s = np.cumsum([step[4] for step in engine.steps]) + engine.now_s - sum(step[4] for step in engine.steps)
    steps = np.array(engine.steps)
    for window in looks.windows():
        inside = (ends_s > window.looks[0].taken_s) & (ends_s <= window.looks[-1].taken_s)
        tokens, kv_tokens, pairs, sequences, duration_s = window.mean_step(looks.prompt_tokens, looks.cached_prefix)
        assert tokens == pytest.approx(steps[inside, 0].mean())
        assert pairs == pytest.approx(steps[inside, 2].mean())
        assert kv_tokens == pytest.approx(steps[inside, 1].mean(), rel=0.1)
        assert sequences == pytest.approx(steps[inside, 3].mean())
        assert duration_s == pytest.approx(steps[inside, 4].mean(), rel=0.03)


def test_a_prompt_beyond_the_budget_takes_steps_that_nobody_counts() -> None:
    engine = Engine(TRUTH, budget=BUDGET // 8)
    looks = look_through(engine, Phase("p", "c0", 1, 1000, 2, 999), 10.0)
    assert looks.looks[-1].counters.iterations < len(engine.steps) / 2


def test_prompts_are_laid_out_within_the_budget() -> None:
    assert max(phase.prompt_tokens for phase in lay_out(SERVER, 20.0, token_budget=256)) <= 256


def test_idle_looks_and_preemptions_are_left_out() -> None:
    engine = Engine(TRUTH)
    phase = Phase("p", "c0", 4, 50, 50, 999)
    looks = look_through(engine, phase, 10.0)
    windows = list(looks.windows())
    assert len(windows) >= 8
    assert looks.calm_windows() == windows
    shaken = [
        Look(look.taken_s, look.running, 0, look.counters._replace(preemptions=float(k >= 6)))
        for k, look in enumerate(looks.looks)
    ]
    assert len(PhaseLooks("p", 4, BLOCK_SIZE, shaken).calm_windows()) == len(windows) - 1
    idle = [Look(look.taken_s, 0.0, 0, look.counters) for look in looks.looks]
    assert not list(PhaseLooks("p", 4, BLOCK_SIZE, idle).windows())


@pytest.mark.parametrize("hits", [0.0, 0.2])
def test_the_load_tells_whether_the_cache_is_as_large_as_stated(hits: float) -> None:
    """The gauge is a share of the engine's blocks, whatever size the page states."""
    looks = sweep(Engine(TRUTH, hits=hits), 8.0)
    for factor in (0.8, 1.0, 1.3):
        assert kv_remark(replace(SERVER, num_gpu_blocks=int(NUM_BLOCKS * factor)), looks) == []
    for factor in (1 / 33, 1 / 3, 3.0, 16.0):
        (remark,) = kv_remark(replace(SERVER, num_gpu_blocks=int(NUM_BLOCKS * factor)), looks)
        held = re.search(r"one of about ([\d,]+) tokens, where", remark)
        assert held is not None
        assert int(held[1].replace(",", "")) == pytest.approx(NUM_BLOCKS * BLOCK_SIZE, rel=0.3)


def test_without_looks_nothing_is_said_of_the_cache() -> None:
    assert kv_remark(replace(SERVER, num_gpu_blocks=20), []) == []


def test_counters_that_fall_are_a_restart() -> None:
    engine = Engine(TRUTH)
    looks = look_through(engine, Phase("p", "c0", 4, 50, 50, 999), 3.0)
    with pytest.raises(InputError, match="started again"):
        looks.looks[0].counters.since(looks.looks[-1].counters)


def logged(engine: Engine, path: Path) -> IterationLog:
    path.write_text("".join(engine.log))
    return IterationLog(path, SERVER.kv_tokens, BLOCK_SIZE)


def test_coefficients_come_back_from_the_log(tmp_path: Path) -> None:
    engine = Engine(TRUTH, host_s=0.002)
    phases = sweep(engine)
    points = logged(engine, tmp_path / "server.log").steps(phases)
    assert len(points.tokens) > 3000
    report = calibrate_steps(points)
    for name in COEFFICIENTS:
        assert getattr(report.step_time, name) == pytest.approx(getattr(TRUTH, name), rel=0.05), name
    assert set(points.tokens) <= {float(step[0]) for step in engine.steps}


def test_elapsed_times_that_leave_out_the_model_are_not_believed(tmp_path: Path) -> None:
    """As with an executor that runs the model before the clock starts: every line says next to nothing."""
    engine = Engine(TRUTH, elapsed_share=0.05)
    phases = sweep(engine)
    points = logged(engine, tmp_path / "server.log").steps(phases)
    assert len(points.tokens) == sum(len(phase.calm_windows()) for phase in phases)
    report = calibrate_steps(points)
    for name in ("c0", "c_tok", "c_kv"):
        assert getattr(report.step_time, name) == pytest.approx(getattr(TRUTH, name), rel=0.05), name


@pytest.mark.parametrize("text", ["", "INFO nothing of the kind\n" * 1000])
def test_a_log_without_iterations_is_refused(tmp_path: Path, text: str) -> None:
    engine = Engine(TRUTH)
    phases = sweep(engine, 5.0)
    engine.log = [text]
    with pytest.raises(InputError, match="--enable-logging-iteration-details"):
        logged(engine, tmp_path / "server.log").steps(phases)


def test_a_log_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the log cannot be read"):
        IterationLog(tmp_path / "no.log", 1000, 16).size()


def test_a_log_that_grows_too_much_in_a_phase_is_refused(tmp_path: Path) -> None:
    engine = Engine(TRUTH)
    phases = sweep(engine, 5.0)
    looks = phases[0].looks
    looks[-1] = replace(looks[-1], log_bytes=looks[0].log_bytes + 256 * 2**20 + 1)
    with pytest.raises(InputError, match=r"server\.log: grew by more than 256 MiB in one phase; "):
        logged(engine, tmp_path / "server.log").steps(phases)


@pytest.mark.parametrize(
    ("number", "larger"),
    [
        (r"\d+(?= context tokens)", "9" * 400),
        (r"\d+(?= generation requests)", "2147483648"),
        (r"[\d.]+(?= ms)", "1000000001"),
        (r"[\d.]+(?=%)", "100.1"),
    ],
)
def test_a_number_that_vllm_does_not_write_is_refused(tmp_path: Path, number: str, larger: str) -> None:
    engine = Engine(TRUTH)
    phases = sweep(engine, 5.0)
    engine.log[100] = re.sub(number, larger, engine.log[100])
    with pytest.raises(InputError, match=r"server\.log: 'Iteration\(100\): .* holds a number that is too large; give"):
        logged(engine, tmp_path / "server.log").steps(phases)


def test_a_log_that_is_rotated_meanwhile_is_refused(tmp_path: Path) -> None:
    engine = Engine(TRUTH)
    phases = sweep(engine, 5.0)
    looks = phases[0].looks
    looks[3:] = [replace(look, log_bytes=look.log_bytes - looks[3].log_bytes) for look in looks[3:]]
    with pytest.raises(InputError, match=r"server\.log: shrank during the measurement; .* without log rotation"):
        logged(engine, tmp_path / "server.log").steps(phases)
