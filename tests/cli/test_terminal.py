"""What a terminal of 80 columns, a shell's completion, a log, a full disk and Ctrl-C meet."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from fluidgate.cli import command_line, names, terminal
from fluidgate.cli.listing import Kind
from fluidgate.cli.options import RunningOptions

from .calls import FLUIDGATE


def run(*words: str, **more: object) -> subprocess.CompletedProcess[str]:
    given = {"capture_output": True, "text": True, "env": os.environ | {"COLUMNS": "80"}} | more
    return subprocess.run([FLUIDGATE, *words], check=False, **given)  # type: ignore[call-overload, no-any-return]


def _commands(group: object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """Every command, with the names of its options."""
    for name, command in getattr(group, "commands", {}).items():
        yield from _commands(command, (*path, name))
    if path and not hasattr(group, "commands"):
        yield (
            path,
            [
                flag
                for option in group.params  # type: ignore[attr-defined]
                if option.param_type_name == "option"
                for flag in (*option.opts, *option.secondary_opts)
            ],
        )


COMMANDS = dict(_commands(typer.main.get_command(command_line([]))))


@pytest.mark.parametrize("path", [("compare",), ("doctor",), ("calibrate", "server"), ("trace", "info")], ids=" ".join)
def test_help_shows_every_flag_whole(path: tuple[str, ...]) -> None:
    done = run(*path, "--help")
    lines = done.stdout.splitlines()
    named = {word.rstrip(",") for line in lines for word in line.split()}
    assert set(COMMANDS[path]) <= named
    assert all(len(line) <= 80 for line in lines if not line.startswith("Example"))


def test_all_options_of_all_commands_have_help() -> None:
    assert len(COMMANDS) > 15
    assert all(COMMANDS.values())


@pytest.mark.parametrize("kind", list(Kind))
def test_names_are_listed(kind: Kind) -> None:
    known = getattr(names, kind)()
    assert json.loads(run("list", kind, "--format", "json").stdout) == known
    table = run("list", kind).stdout
    assert set(known) <= {line.split(maxsplit=1)[0] for line in table.splitlines() if line.strip()}
    assert all(what for what in known.values())
    assert max(map(len, table.splitlines())) <= 80


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("plan --model qwen3-3", {"qwen3-32b", "qwen3-30b-a3b"}),
        ("plan --gpu l4", {"l4", "l40", "l40s"}),
        ("compare --preset azure", {"azure-conv-2023", "azure-code-2023"}),
        ("simulate --policy flu", {"fluid", "fluid-volume"}),
        ("compare --router le", {"least-loaded", "least-kv"}),
        ("simulate --mode s", {"sarathi"}),
        ("plan --variant vid", {"vidur"}),
        ("trace info x --trace-format mo", {"mooncake"}),
        ("list g", {"gpus"}),
        ("trace gen", {"generate"}),
    ],
)
def test_a_shell_completes_values(typed: str, offered: set[str]) -> None:
    words = f"fluidgate {typed}"
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1), "_FLUIDGATE_COMPLETE": "complete_bash"}
    assert set(run(env=os.environ | asked).stdout.split()) == offered


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    "words",
    [("plan",), ("plan", "--format", "json"), ("list", "gpus"), ("plan", "--help"), ("--version",)],
    ids=" ".join,
)
def test_a_full_disk_is_one_sentence(words: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        done = run(*words, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        "error: standard output: cannot be written (No space left on device)"
    )
    assert "Traceback" not in done.stderr


def test_a_pipe_that_is_closed_is_no_error_to_read_about() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = run("plan", "--format", "json", capture_output=False, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert done.returncode == 1
    assert "error" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_stopped_run_says_how_to_go_on() -> None:
    with pytest.raises(KeyboardInterrupt) as stopped, RunningOptions().runner("simulating"):
        raise KeyboardInterrupt
    assert "--results FILE" in stopped.value.__notes__[0]
    with pytest.raises(KeyboardInterrupt) as kept, RunningOptions(results=Path("kept.jsonl")).runner("simulating"):
        raise KeyboardInterrupt
    assert not hasattr(kept.value, "__notes__"), "the results file speaks for itself"


def test_a_log_gets_lines_of_progress(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    monkeypatch.setattr(terminal, "monotonic", lambda: now[0])
    with terminal.progress_bar("simulating") as progress:
        for done in range(1, 1001):
            now[0] += 1.0
            progress(done, 1000)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == [f"simulating: {t} of 1,000 after {t} s" for t in (5, 10, 20)]
    assert len(lines) < 22, "one a minute in the end"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--trace", "x.csv", "--preset", "lmsys"), "--trace and --preset both name the workload: give one"),
        (("--failed", "drop", "--run", "2"), "--failed and --run without --trace would change nothing"),
        (("--growth", "5"), "--growth without --turns would change nothing"),
        (("--preset", "azure-conv"), "did you mean azure-conv-2023?"),
    ],
)
def test_options_that_do_not_go_together(words: tuple[str, ...], said: str) -> None:
    done = run("plan", *words)
    assert done.returncode == 1
    assert said in done.stderr


def test_a_plan_is_eight_rows_and_all_of_it_on_demand() -> None:
    poisson = ("plan", "--preset", "sharegpt", "--rate", "50")
    short, whole = run(*poisson).stdout, run(*poisson, "--all").stdout
    assert "WAIT" not in short
    assert "Nested WAIT guaranteed rate" in whole
    assert "no equilibrium above the boundary" in whole
    assert len([line for line in short.splitlines() if line.startswith(" ") and line.strip()]) == 8
    assert "variance of Poisson" not in short
    assert "times the variance of Poisson" in run("plan", "--rate", "5").stdout  # azure-conv-2023 comes in bursts
    for text in (short, whole):
        assert max(map(len, text.splitlines())) <= 80
