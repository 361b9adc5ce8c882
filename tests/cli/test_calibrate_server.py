"""`fluidgate calibrate server` as a user types it: no load without consent, a file that `plan` takes, one sentence."""

from __future__ import annotations

import io
import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fluidgate import cli
from fluidgate.calibration import read_steps
from fluidgate.hardware import StepTime, read_hardware

from ..calibration.fake_vllm import BENCH, BLOCK_SIZE, NUM_BLOCKS, Engine, FakeServer, fake_server

TRUTH = StepTime(c0=0.012, c_tok=8e-5, c_kv=6e-7, c_attn=4e-8)


class Terminal(io.StringIO):
    """Somebody who types."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with fake_server(Engine(TRUTH)) as server:
        server.clock.rule(monkeypatch)
        yield server


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int | str | None:
    """The exit status."""
    monkeypatch.setattr(sys, "argv", ["fluidgate", "calibrate", "server", *map(str, arguments)])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def test_a_server_becomes_a_hardware_file(
    fake: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, steps, plot = tmp_path / "h.json", tmp_path / "steps.csv", tmp_path / "fit.svg"
    load = ["--time-s", "70", "--max-concurrency", "32", "--bench-command", shlex.join(BENCH), "--yes"]
    files = ["--out", out, "--steps-out", steps, "--plot", plot, "--name", "mine", "--format", "json"]
    assert run(monkeypatch, fake.url, *load, *files) == 0
    said = capsys.readouterr()
    assert "many decodes: 32 requests at a time of 32 prompt" in said.err
    report = json.loads(said.out)
    machine = read_hardware(out)
    assert (machine.name, machine.num_gpu_blocks, machine.block_size) == ("mine", NUM_BLOCKS, BLOCK_SIZE)
    assert "measured on a running server, m" in machine.source
    assert machine.step_time.c0 == report["step_time"]["c0"] == pytest.approx(TRUTH.c0, rel=0.1)
    assert len(read_steps(steps).points.tokens) == report["steps"]
    assert read_steps(steps).has_pairs
    assert plot.read_text().startswith("<svg")


def test_a_cache_of_several_groups_becomes_one_pool(
    fake: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = 'num_gpu_blocks="12006",kv_cache_size_tokens="32016",kv_cache_max_concurrency="31.265625"'
    page = fake.engine.page
    monkeypatch.setattr(fake.engine, "page", lambda: page().replace('num_gpu_blocks="2001"', labels))
    load = ["--time-s", "70", "--max-concurrency", "32", "--bench-command", shlex.join(BENCH), "--yes"]
    assert run(monkeypatch, fake.url, *load, "--out", tmp_path / "h.json") == 0
    machine = read_hardware(tmp_path / "h.json")
    assert machine.kv_capacity_tokens == 32_016
    assert "; its KV in several groups counted as one pool" in machine.source
    assert "its layers keep their KV in several groups" in capsys.readouterr().err


def test_a_phase_that_was_repeated_is_told(
    fake: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.ends[2] = (3.0, False)
    load = ["--time-s", "70", "--max-concurrency", "32", "--bench-command", shlex.join(BENCH), "--yes"]
    assert run(monkeypatch, fake.url, *load, "--out", tmp_path / "h.json") == 0
    assert "the phase 'many decodes' was repeated: it had 2 of the 4 windows" in " ".join(
        capsys.readouterr().out.split()
    )


def test_a_load_that_was_too_short_names_the_time_that_does(
    fake: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load = ["--time-s", "10", "--max-concurrency", "32", "--bench-command", shlex.join(BENCH), "--yes"]
    assert run(monkeypatch, fake.url, *load, "--out", tmp_path / "h.json") == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: 10 s of load gave ")
    assert last.endswith("'long prompts'); give --time-s 60")
    assert not (tmp_path / "h.json").exists()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (io.StringIO(""), "error: no load was started: add --yes"),
        (io.StringIO("y\n"), "error: no load was started: add --yes"),
        (Terminal("n\n"), "error: no load was started"),
    ],
)
def test_no_load_without_consent(
    fake: FakeServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: io.StringIO,
    message: str,
) -> None:
    monkeypatch.setattr("sys.stdin", answer)
    pids = tmp_path / "pids"
    command = f"{shlex.join(BENCH)} --pid-file {pids}"
    assert run(monkeypatch, fake.url, "--out", tmp_path / "h.json", "--bench-command", command) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.count(f"--pid-file {pids} --backend openai --base-url {fake.url} --model m") == 6
    assert "6 phases, 300 s of load at most" in said
    assert fake.loads == []
    assert not pids.exists()
    assert not (tmp_path / "h.json").exists()


def test_consent_starts_it(
    fake: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    command = f"{shlex.join(BENCH)} --fail"
    assert run(monkeypatch, fake.url, "--out", tmp_path / "h.json", "--bench-command", command) == 1
    said = capsys.readouterr().err
    assert "Start this load?" in said
    assert "error: the benchmark failed with status 1: OSError: no tokenizer there" in said


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--bench-command", "no-such-program"], "there is no such program here"),
        (["--log", "/no/such/server.log"], "/no/such/server.log: the log cannot be read"),
        (["--time-s", "0"], "--time-s 0 must be above 0"),
        (["--plot", "/no/such/folder/fit.svg"], "there is no folder /no/such/folder"),
        (["--max-concurrency", "1"], "--max-concurrency 1"),
        (["--gpu", "l4"], "the GPU alone does not determine a step time"),
    ],
)
def test_bad_options_are_one_sentence(
    fake: FakeServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    message: str,
) -> None:
    given = ["--out", tmp_path / "h.json", "--bench-command", shlex.join(BENCH), "--yes", *more]
    assert run(monkeypatch, fake.url, *given) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert message in said
    assert said.count("\n") == 1
    assert fake.loads == []


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:1", "no answer"),
        ("localhost", "is not an address of a server"),
        ("http://[", "is not an address"),
        ("ftp://localhost", "is not an address of a server"),
    ],
)
def test_bad_addresses_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str, message: str
) -> None:
    assert run(monkeypatch, url, "--out", tmp_path / "h.json", "--yes") == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_the_benchmark_gets_the_key_and_nobody_sees_it(
    fake: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    seen = tmp_path / "seen"
    bench = shlex.join(["sh", "-c", f'echo "$OPENAI_API_KEY" "$@" > {seen}; exit 1', "bench"])
    url = fake.url.replace("//", "//alice:w0nder@")
    given = ["--api-key", "s3cr3t", "--out", tmp_path / "h.json", "--bench-command", bench, "--yes"]
    assert run(monkeypatch, url, *given) == 1
    said = capsys.readouterr()
    key, *arguments = seen.read_text().split()
    assert key == "s3cr3t"
    for shown in (" ".join(arguments), said.out, said.err):
        for secret in ("s3cr3t", "alice", "w0nder"):
            assert secret not in shown
