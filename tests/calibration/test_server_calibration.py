"""A sweep over HTTP with real processes: the load begins, is measured and is gone, whatever happens."""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fluidgate.calibration import CalibrationReport
from fluidgate.calibration.server import bench_process, live_load
from fluidgate.calibration.server.bench_process import BenchProcess, last_line
from fluidgate.calibration.server.fit import fit
from fluidgate.calibration.server.iteration_log import IterationLog
from fluidgate.calibration.server.live_load import MIN_WINDOWS, measure
from fluidgate.calibration.server.running_server import RunningServer, look_at
from fluidgate.calibration.server.sweep import OUTPUT_SPREAD, Sweep, lay_out, lay_out_sweep
from fluidgate.errors import InputError
from fluidgate.hardware import StepTime

from .fake_vllm import BENCH, BLOCK_SIZE, BUDGET, MODEL_LEN, NUM_BLOCKS, Engine, FakeServer, fake_server

TRUTH = StepTime(c0=0.012, c_tok=8e-5, c_kv=6e-7, c_attn=4e-8, c_seq=3e-5)
TIME_S = 70.0
SHORT = r"(\S+) s of load gave (\d+) windows of .*, where 20 are the least \((\d+) in 'few .*\); give --time-s (\d+)"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    with fake_server(Engine(TRUTH)) as server:
        server.clock.rule(monkeypatch)
        yield server


def laid_out(fake: FakeServer, time_s: float = TIME_S, options: str = "") -> Sweep:
    command = f"{shlex.join(BENCH)} {options}"
    return lay_out_sweep(look_at(fake.url), time_s=time_s, bench_command=command, concurrency=32, seed=1)


def pids(file: Path) -> list[int]:
    return [int(word) for word in file.read_text().split()]


def has_pids(file: Path) -> bool:
    """Whether a benchmark has begun."""
    return file.exists() and file.read_text().endswith("\n")


def all_ended(file: Path) -> bool:
    """No process of the benchmark lives."""
    alive = []
    for pid in pids(file):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            continue
        alive.append(pid)
    return not alive


def until(true: Callable[[], bool]) -> bool:
    """Wait; after five minutes it is a fault, not a slow machine."""
    end_s = time.monotonic() + 300
    while not true() and time.monotonic() < end_s:
        time.sleep(0.02)
    return true()


def test_a_sweep_finds_the_step_time_and_leaves_nothing_behind(fake: FakeServer, tmp_path: Path) -> None:
    fake.log = tmp_path / "server.log"
    fake.log.write_text("")
    log = IterationLog(fake.log, (NUM_BLOCKS - 1) * BLOCK_SIZE, BLOCK_SIZE)
    sweep = laid_out(fake, options=f"--pid-file {tmp_path / 'pids'}")
    seen: list[tuple[int, int]] = []
    measured = measure(sweep, log=log, progress=lambda done, total: seen.append((done, total)))
    assert len(fake.loads) == len(sweep.phases) == len(pids(tmp_path / "pids"))
    assert all_ended(tmp_path / "pids")
    assert until(lambda: not fake.engine.running)
    assert seen == sorted(seen)
    assert seen[-1][0] <= seen[-1][1] == TIME_S
    assert measured.remarks(sweep) == []
    for lines in (None, log):
        assert_true(fit(sweep, measured, log=lines))


def assert_true(report: CalibrationReport) -> None:
    """The step time is that of the engine."""
    for step in [(2, 200, 0, 2), (32, 4000, 0, 32), (32, 20_000, 0, 32), (800, 3000, 350_000, 3)]:
        assert report.step_time.duration_s(*step) == pytest.approx(TRUTH.duration_s(*step), rel=0.1), step
    least, most = report.calibration.tokens
    assert least <= 2
    assert 512 <= most <= 2048


def test_starts_of_the_benchmark_take_no_time_from_the_load(fake: FakeServer) -> None:
    fake.starts_after_s = 15.0
    sweep = laid_out(fake)
    measured = measure(sweep)
    assert measured.remarks(sweep) == []
    assert sum(fake.load_s) == pytest.approx(6 / 7 * TIME_S, abs=6 * live_load.AWAIT_EVERY_S)


@pytest.mark.parametrize(
    ("trouble", "why"),
    [
        ("slow steps", "it had 1 of the 4 windows of 1 s and 10 steps that it needs"),
        ("ended early", "it had 2 of the 4 windows of 1 s and 10 steps that it needs"),
        ("ended at once", "the benchmark ended by itself before the phase 'many decodes' could be measured"),
        ("failed", "the benchmark failed with status 1: .*RemoteDisconnected"),
    ],
)
def test_a_phase_that_was_too_short_is_repeated(fake: FakeServer, trouble: str, why: str) -> None:
    if trouble == "slow steps":
        fake.slow[2] = 30.0
    else:
        fake.ends[2] = (3.0 if trouble == "ended early" else 0.4, trouble == "failed")
    sweep = laid_out(fake)
    measured = measure(sweep)
    many = sweep.phases[2]
    assert fake.loads == [1, 2, 3, 4, 5, 6, 3 + 6]  # seeds: a repeat has prompts of its own
    assert all(measured.windows(phase) >= MIN_WINDOWS for phase in sweep.phases)
    assert measured.windows(many) < MIN_WINDOWS + 2  # it ended when it had enough
    assert sum(fake.load_s) < TIME_S
    report = fit(sweep, measured)
    (remark,) = [remark for remark in report.remarks if "phase" in remark]
    assert re.fullmatch(f"the phase 'many decodes' was repeated: {why}.*", remark)
    if trouble != "slow steps":  # whose steps are true too, of another server
        assert_true(report)


def test_a_phase_that_cannot_be_measured_is_done_without(fake: FakeServer) -> None:
    fake.ends = {3: (0.4, False), 6: (0.4, False)}
    sweep = laid_out(fake)
    measured = measure(sweep)
    assert len(fake.loads) == 7
    report = fit(sweep, measured)
    assert_true(report)
    said = [remark for remark in report.remarks if "'long contexts'" in remark]
    assert len(said) == 2
    assert "was repeated" in said[0]
    assert "has 0 of the 4 windows that it needs, so c_kv rests on the other phases" in said[1]


def test_the_load_keeps_within_its_time_whatever_is_repeated(fake: FakeServer) -> None:
    fake.slow = dict.fromkeys(range(12), 30.0)
    sweep = laid_out(fake)
    measured = measure(sweep)
    assert sum(fake.load_s) <= TIME_S + len(fake.load_s) * live_load.AWAIT_EVERY_S
    assert len(fake.loads) > len(sweep.phases)
    with pytest.raises(InputError, match=SHORT) as error:
        fit(sweep, measured)
    found = re.fullmatch(SHORT, str(error.value))
    assert found is not None
    assert float(found[1]) == TIME_S
    assert int(found[2]) == sum(measured.windows(phase) for phase in sweep.phases) < 20
    assert int(found[3]) == measured.windows(sweep.phases[0])
    assert int(found[4]) >= 2 * TIME_S


@pytest.mark.parametrize("how", ["Ctrl-C", "another engine's page", "someone else", "no answer"])
def test_a_sweep_that_is_cut_short_ends_its_load(fake: FakeServer, tmp_path: Path, how: str) -> None:
    expected: dict[str, tuple[type[BaseException], str]] = {
        "Ctrl-C": (KeyboardInterrupt, "^$"),
        "another engine's page": (InputError, "the metrics are SGLang's"),
        "someone else": (InputError, "the server has other traffic"),
        "no answer": (InputError, "no answer"),
    }
    url = RunningServer("http://127.0.0.1:1", "m", "m", MODEL_LEN, NUM_BLOCKS, BLOCK_SIZE)

    def progress(done: int, total: int) -> None:
        if fake.engine.running:
            if how == "Ctrl-C":
                raise KeyboardInterrupt
            if how == "no answer":
                url.scrape()
            fake.page = "sglang:num_running_reqs 3\n" if how == "another engine's page" else None
            fake.engine.extra_running = 50 if how == "someone else" else 0

    sweep = laid_out(fake, time_s=60.0, options=f"--pid-file {tmp_path / 'pids'}")
    kind, message = expected[how]
    with pytest.raises(kind, match=message):
        measure(sweep, progress=progress)
    assert len(pids(tmp_path / "pids")) == 1
    assert all_ended(tmp_path / "pids")
    assert until(lambda: not fake.engine.running)


def test_a_benchmark_that_never_sends_anything_is_given_up(
    fake: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_load, "START_WITHIN_S", 5.0)
    file = tmp_path / "pids"

    def began(done: int, total: int) -> None:
        assert until(lambda: has_pids(file))

    sweep = laid_out(fake, options=f"--idle --pid-file {file}")
    with pytest.raises(InputError, match=r"sent no request within 5 s of its start; see what it says: .* --base-url"):
        measure(sweep, progress=began)
    assert all_ended(file)


def test_a_benchmark_that_fails_says_why(fake: FakeServer) -> None:
    with pytest.raises(InputError, match="the benchmark failed with status 1: OSError: no tokenizer there"):
        measure(laid_out(fake, time_s=60.0, options="--fail"))
    assert fake.loads == []


def test_only_the_end_of_a_long_output_is_read(tmp_path: Path) -> None:
    with (tmp_path / "output").open("w+b") as output:
        output.truncate(2**40)  # more than any memory
        output.seek(0, os.SEEK_END)
        output.write(b"\n 7% done\r99% done\nOSError: no tok\xe9nizer there \n \n")
        assert last_line(output) == "OSError: no tok\ufffdnizer there"
    with (tmp_path / "output").open("w+b") as output:
        assert last_line(output) == "it printed nothing"


def test_a_benchmark_that_ends_by_itself_is_not_short_of_time(fake: FakeServer) -> None:
    with pytest.raises(InputError, match=r"ended by itself before the phase 'few decodes' .* --base-url"):
        measure(laid_out(fake, time_s=60.0, options="--quit"))


def test_a_benchmark_that_does_not_heed_its_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [*BENCH, "--stubborn", "--idle", "--pid-file", str(tmp_path / "pids")]
    monkeypatch.setattr(bench_process, "GRACE_S", 0.3)
    with BenchProcess(command) as bench:
        assert until(lambda: has_pids(tmp_path / "pids"))
        assert bench.running
    assert until(lambda: all_ended(tmp_path / "pids"))


def test_a_load_that_does_not_go_away_is_reported(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_load, "IDLE_WITHIN_S", 2.0)
    sweep = laid_out(fake)
    fake.engine.extra_running = 3
    with pytest.raises(InputError, match="3 requests are still there"):
        measure(sweep)
    assert fake.loads == []


def at(max_model_len: int = MODEL_LEN, num_gpu_blocks: int = NUM_BLOCKS) -> RunningServer:
    return RunningServer("http://s", "m", "m", max_model_len, num_gpu_blocks, BLOCK_SIZE)


@pytest.mark.parametrize("concurrency", [4, 32, 1000])
@pytest.mark.parametrize("max_model_len", [128, 512, 2048, 131_072])
@pytest.mark.parametrize("num_gpu_blocks", [150, 2000, 100_000])
def test_no_phase_can_preempt_or_be_too_long(concurrency: int, max_model_len: int, num_gpu_blocks: int) -> None:
    if num_gpu_blocks * BLOCK_SIZE < max_model_len:  # vLLM does not start like this
        num_gpu_blocks = -(-max_model_len // BLOCK_SIZE) + 300
    server = at(max_model_len, num_gpu_blocks)
    for phase in lay_out(server, 60.0, concurrency=concurrency):
        longest = phase.prompt_tokens + int(phase.output_tokens * (1 + OUTPUT_SPREAD)) + 1
        assert 1 <= phase.prompt_tokens <= BUDGET
        assert longest <= max_model_len
        assert phase.concurrency * -(-longest // BLOCK_SIZE) < num_gpu_blocks
        assert 1 <= phase.concurrency <= concurrency
        assert phase.concurrency <= phase.num_prompts <= 2000 or phase.num_prompts == 2000


@pytest.mark.parametrize(
    ("server", "concurrency", "message"),
    [
        (at(), 3, "--max-concurrency 3"),
        (at(max_model_len=100), 32, "max_model_len of 100 tokens"),
        (at(num_gpu_blocks=20), 32, "does not hold one request"),
    ],
)
def test_a_load_without_room_is_refused(server: RunningServer, concurrency: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        lay_out(server, 60.0, concurrency=concurrency)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("no-such-program bench serve", "there is no such program here"),
        ("'open quote", "cannot be read"),
        ("", "there is no such program here"),
    ],
)
def test_a_benchmark_that_is_not_there_is_refused(command: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        lay_out_sweep(at(), time_s=60.0, bench_command=command)


@pytest.mark.parametrize("time_s", [0.0, -1.0, float("nan"), float("inf")])
def test_a_time_that_is_none_is_refused(time_s: float) -> None:
    with pytest.raises(InputError, match="--time-s"):
        lay_out_sweep(at(), time_s=time_s, bench_command=shlex.join(BENCH))


def drop(name: str) -> Callable[[str], str]:
    return lambda page: "\n".join(line for line in page.splitlines() if name not in line) + "\n"


def second_engine(page: str) -> str:
    return page + 'vllm:num_requests_running{engine="1",model_name="m"} 0\n'


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda page: "tgi_queue_size 3\n", "the metrics are Text Generation Inference's"),
        (lambda page: "<html>", "is not a page of metrics"),
        (drop("iteration_tokens_total"), "has no vllm:iteration_tokens_total"),
        (drop("request_generation_tokens"), "has no vllm:request_generation_tokens"),
        (drop("cache_config_info"), "does not state num_gpu_blocks and block_size"),
        (lambda page: page.replace('num_gpu_blocks="2001"', 'num_gpu_blocks="None"'), "does not state num_gpu_blocks"),
        (second_engine, "has 2 data-parallel engines"),
        (lambda page: page + 'vllm:spec_decode_num_drafts_total{engine="0"} 0\n', "decodes speculatively"),
        (lambda page: page.replace('waiting{engine="0",model_name="m"} 0', 'waiting{model_name="m"} 2'), "2 requests"),
    ],
)
def test_a_server_that_cannot_be_measured_is_refused(
    fake: FakeServer, change: Callable[[str], str], message: str
) -> None:
    fake.page = change(fake.metrics())
    with pytest.raises(InputError, match=message):
        look_at(fake.url)


@pytest.mark.parametrize("models", ["{", "[]", '{"data": []}', '{"data": [{"id": "m"}]}', '{"data": [{"id": 3}]}'])
def test_models_that_are_no_list_of_vllms_are_refused(fake: FakeServer, models: str) -> None:
    fake.models = models
    with pytest.raises(InputError, match="is not a list of models"):
        look_at(fake.url)


def test_the_tokens_that_a_server_states_count(fake: FakeServer) -> None:
    """40,000 blocks of which the longest request, of 1,024 tokens, takes six times as many as it fills."""
    labels = 'num_gpu_blocks="40000",kv_cache_size_tokens="106666",kv_cache_max_concurrency="104.16666666666667"'
    fake.page = fake.metrics().replace('num_gpu_blocks="2001"', labels)
    found = look_at(fake.url)
    assert found.several_kv_groups
    assert 106_666 - BLOCK_SIZE < found.kv_tokens <= 106_666
    given = look_at(fake.url, kv_cache_tokens=160_000)
    assert (given.kv_tokens, given.several_kv_groups) == (160_000, True)
    fake.page = drop("cache_config_info")(fake.page)
    assert look_at(fake.url, kv_cache_tokens=160_000).kv_tokens == 160_000
    with pytest.raises(InputError, match="--kv-cache-tokens"):
        look_at(fake.url, kv_cache_tokens=0)


def test_a_server_says_what_is_needed(fake: FakeServer) -> None:
    found = look_at(fake.url + "/metrics")
    assert found == RunningServer(fake.url, "m", "/models/m", MODEL_LEN, NUM_BLOCKS, BLOCK_SIZE)
    fake.page = drop("vllm:num_requests_")(fake.metrics())  # several processes show gauges from the first step on
    assert look_at(fake.url) == found
