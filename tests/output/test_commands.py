"""Commands whose output fails: one sentence, exit code 1, old files as they were; and what is tried before a run."""

import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from fluidgate.cli import main
from fluidgate.runs import jobs

OLD = b"what was there before\n"
SMALL = ("--preset", "p512-d20", "--requests", "20", "--rate", "5")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command in this process: its exit code and what it says on stderr."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # which the command line sets

    def command(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["fluidgate", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        return code, capsys.readouterr().err

    return command


def commands(folder: Path) -> dict[str, tuple[tuple[object, ...], list[str]]]:
    """Arguments, and the names of the files that are written."""
    return {
        "plan": (("plan", *SMALL, "--save", folder / "a", "--output-dir", folder), ["a", "plan.json"]),
        "simulate": (
            ("simulate", *SMALL, "--output-dir", folder, "--perfetto", folder / "t"),
            ["summary.json", "requests.csv", "t"],
        ),
        "compare": (
            ("compare", *SMALL, "--policy", "greedy", "--repeats", "1", "--html", folder / "r.html",
             "--csv", folder / "r.csv", "--parquet", folder / "r.parquet"),
            ["r.html", "r.csv", "r.parquet"],
        ),
        "generate": (("trace", "generate", folder / "t.jsonl", "--requests", "5"), ["t.jsonl"]),
        "config": (
            ("calibrate", "config", folder.parent / "config.json", "--gpu", "l4", "--out", folder / "h.json"),
            ["h.json"],
        ),
    }  # fmt: skip


CONFIG = """{"model_type": "llama", "hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8,
"num_key_value_heads": 8, "intermediate_size": 1024, "vocab_size": 1000, "torch_dtype": "bfloat16"}"""


@pytest.mark.parametrize("name", ["plan", "simulate", "compare", "generate", "config"])
def test_a_full_disk_is_one_sentence(name: str, run: Any, tmp_path: Path, faults: Any) -> None:
    (tmp_path / "config.json").write_text(CONFIG)
    folder = tmp_path / "out"
    folder.mkdir()
    arguments, files = commands(folder)[name]
    assert run(*arguments)[0] == 0
    made = {file: (folder / file).read_bytes() for file in files}
    operations = list(faults.done)
    writes = [index for index, operation in enumerate(operations) if operation in ("write", "fsync", "replace")]
    assert len(writes) >= 3 * len(files)
    first_open = operations.index("open")  # which tries a path before the run
    for fail_at in (first_open, *writes):
        for file in files:
            (folder / file).write_bytes(OLD)
        faults.start(fail_at)
        code, said = run(*arguments)
        *_, last = said.splitlines()
        assert code == 1
        assert "Traceback" not in said
        assert last.startswith(f"error: {folder}")
        assert last.endswith("cannot be written (No space left on device); free some space, or choose another path")
        left = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert left.keys() == made.keys()
        assert OLD in left.values()
        assert fail_at != first_open or set(left.values()) == {OLD}


@pytest.fixture
def no_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever runs, fails the test."""

    def run(*_: Any, **__: Any) -> Any:
        pytest.fail("a run was started")

    for target in (
        "fluidgate.workload.generate",
        "fluidgate.runs.compare",
        "fluidgate.runs.frontier",
        "fluidgate.runs.simulate",
        "fluidgate.studies.gate.run_gate",
        "fluidgate.studies.paper.run_paper",
        "fluidgate.studies.plan_quality.study.plan_quality",
        "fluidgate.studies.cadence.run_cadence",
        "fluidgate.studies.deadlines.run_deadlines",
        "fluidgate.calibration.server.running_server.look_at",
        "fluidgate.calibration.query_aiconfigurator",
        "fluidgate.calibration.read_steps",
    ):
        monkeypatch.setattr(target, run)


@pytest.mark.parametrize(
    "command",
    [
        "plan --save {}",
        "simulate --perfetto {}",
        "compare --html {}",
        "compare --csv {}",
        "compare --parquet {}",
        "compare --results {}",
        "frontier --results {}",
        "experiment gate --page {}",
        "experiment gate --results {}",
        "experiment paper --page {}",
        "experiment paper --results {}",
        "experiment plan-quality --page {}",
        "experiment plan-quality --results {}",
        "experiment cadence --page {}",
        "experiment cadence --results {}",
        "experiment deadlines --page {}",
        "experiment deadlines --results {}",
        "calibrate steps steps.csv --num-gpu-blocks 99 --out {}",
        "calibrate steps steps.csv --num-gpu-blocks 99 --out h.json --plot {}",
        "calibrate aiconfigurator qwen3-8b --gpu l4 --out {}",
        "calibrate aiconfigurator qwen3-8b --gpu l4 --out h.json --plot {}",
        "calibrate server http://localhost:1 --yes --out {}",
        "calibrate server http://localhost:1 --yes --out h.json --steps-out {}",
        "calibrate server http://localhost:1 --yes --out h.json --plot {}",
        "trace generate {}.jsonl",
        "trace convert trace.csv {}.jsonl",
    ],
)
def test_an_output_is_tried_before_the_run(
    command: str, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_runs: None
) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = run(*command.format("nowhere/x").split())
    assert code == 1
    assert "x: cannot be written (there is no folder" in said.replace(".jsonl", "")
    assert len(said.splitlines()) == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("command", "file"),
    [
        ("plan --output-dir out", "plan.json"),
        ("simulate --output-dir out", "summary.json"),
        ("simulate --output-dir out", "requests.csv"),
        ("emulate --output-dir out", "summary.json"),
        ("compare --output-dir out", "comparison.json"),
        ("compare --output-dir out", "report.html"),
        ("frontier --output-dir out", "frontier.json"),
    ],
)
def test_a_folder_in_the_place_of_a_file_is_refused(
    command: str, file: str, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_runs: None
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out" / file).mkdir(parents=True)
    code, said = run(*command.split())
    assert (code, said) == (1, f"error: out/{file}: cannot be written (Is a directory); choose another path\n")


@pytest.mark.parametrize(
    "command",
    ["simulate --output-dir {}", "compare --figures {}", "experiment paper --figures {}", "frontier --output-dir {}"],
)
def test_a_file_in_the_place_of_a_folder_is_refused(
    command: str, run: Any, tmp_path: Path, no_runs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(OLD)
    code, said = run(*command.format("file").split())
    assert (code, said) == (1, "error: file: cannot be written (File exists); choose another path\n")
    assert (tmp_path / "file").read_bytes() == OLD


def test_a_page_may_go_into_the_new_output_folder(run: Any, tmp_path: Path) -> None:
    new = tmp_path / "new"
    compare = ("compare", *SMALL, "--policy", "greedy", "--repeats", "1", "--output-dir", new, "--html", new / "a.html")
    assert run(*compare)[0] == 0
    assert sorted(os.listdir(new)) == ["a.html", "comparison.json"]


def test_one_file_for_two_outputs_is_refused(run: Any, tmp_path: Path, no_runs: None) -> None:
    code, said = run("compare", "--csv", tmp_path / "a", "--results", tmp_path / "a")
    assert code == 1
    assert "a: is given for two outputs, of which one would be lost; choose another path" in said


COMPARE = ("compare", *SMALL, "--policy", "greedy", "--policy", "watermark", "--repeats", "2")


def test_a_damaged_line_is_named_and_the_run_gives_the_same(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    compare = (*COMPARE, "--results", file, "--csv", tmp_path / "r.csv")
    assert run(*compare)[0] == 0
    whole, table = file.read_bytes(), (tmp_path / "r.csv").read_bytes()
    file.write_bytes(whole.replace(b'"result": ', b'"result":  ', 1))
    code, said = run(*compare)
    assert code == 0
    assert f"warning: {file}:2: torn or altered, so ignored; what is missing runs again\n" in said
    assert (tmp_path / "r.csv").read_bytes() == table


def test_a_full_disk_under_a_results_file_is_one_sentence(run: Any, tmp_path: Path, faults: Any) -> None:
    compare = (*COMPARE, "--results", tmp_path / "r.jsonl", "--csv", tmp_path / "r.csv")
    assert run(*compare)[0] == 0
    table = (tmp_path / "r.csv").read_bytes()
    (tmp_path / "r.jsonl").unlink()
    (tmp_path / "r.csv").unlink()
    faults.start(faults.done.index("write") + 2)
    code, said = run(*compare)
    assert code == 1
    assert said.splitlines()[-1] == (
        f"error: {tmp_path / 'r.jsonl'}: cannot be written (No space left on device); once that is solved, the same "
        "command continues from this file"
    )
    faults.start()
    assert run(*compare)[0] == 0
    assert (tmp_path / "r.csv").read_bytes() == table


def test_ctrl_c_says_that_the_results_file_goes_on(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal itself, after the first finished run."""
    append = jobs.ResultsFile.append

    def interrupted(*arguments: Any) -> None:
        append(*arguments)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a test in the background inherits that it is ignored
    file = tmp_path / "r.jsonl"
    try:
        with monkeypatch.context() as patched:
            patched.setattr(jobs.ResultsFile, "append", interrupted)
            code, said = run(*COMPARE, "--results", file)
    finally:
        signal.signal(signal.SIGINT, before)
    assert code == 130
    assert said.splitlines()[-1] == f"stopped; {file} keeps the finished runs, and the same command continues from it"
    kept = file.read_bytes()
    assert kept.count(b"\n") == 2
    assert run(*COMPARE, "--results", file)[0] == 0
    assert file.read_bytes().startswith(kept)


def test_ctrl_c_while_the_command_line_loads_is_no_traceback() -> None:
    """In a process of its own, interrupted by the import of what the command line needs first."""
    script = (
        "import os, runpy, signal, sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'typer': os.kill(os.getpid(), signal.SIGINT)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "sys.argv = ['fluidgate', '--version']\n"
        "runpy.run_module('fluidgate', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stopped\n")


def test_a_second_command_on_a_results_file_is_refused(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    with jobs.ResultsFile(file, {}):
        before = file.read_bytes()
        code, said = run(*COMPARE, "--results", file)
        assert code == 1
        assert said.splitlines()[-1] == (
            f"error: {file}: another run is writing to this file; let it end, or name another results file"
        )
        assert file.read_bytes() == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("option", ["--csv", "--html", "--parquet"])
def test_a_full_device_is_one_sentence(option: str, run: Any, tmp_path: Path) -> None:
    full = tmp_path / "full.parquet"  # a name that tells Parquet
    full.symlink_to("/dev/full")
    code, said = run(*COMPARE, option, full)
    assert code == 1
    assert said.splitlines()[-1].startswith(f"error: {full}: cannot be written (No space left on device); ")
