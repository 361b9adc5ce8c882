"""`fluidgate frontier` and `fluidgate experiment plan-quality` as a user types them."""

import json
from pathlib import Path

from .calls import fluidgate_run

SMALL = (
    "--preset",
    "p512-d20",
    "--requests",
    "150",
    "--max-num-seqs",
    "4",
    "--tolerance",
    "0.2",
    "--replications",
    "4",
)


def test_table_json_and_file(tmp_path: Path) -> None:
    axis = ("--axis", "memory", "--value", "0.5", "--value", "1")
    policies = ("--policy", "greedy", "--policy", "concurrency-cap:cap=2")
    table = fluidgate_run("frontier", *SMALL, *axis, *policies, "--output-dir", str(tmp_path))
    assert table.returncode == 0, table.stderr
    for words in ("0.5 × memory", "1 × memory", "concurrency-cap:cap=2", "fluid boundary"):
        assert words in table.stdout
    assert all(len(line) <= 80 for line in table.stdout.splitlines())
    kept = json.loads((tmp_path / "frontier.json").read_text())
    assert [rate["policy"] for rate in kept["rates"]] == ["greedy", "concurrency-cap:cap=2"] * 2
    printed = fluidgate_run("frontier", *SMALL, *axis, *policies, "--format", "json")
    again = json.loads(printed.stdout)
    assert "--output-dir" in kept.pop("command")
    assert "--format json" in again.pop("command")
    assert again == kept  # same seed, same bits


def test_bad_input_is_one_line() -> None:
    for arguments, words in (
        (("--tolerance", "0"), "tolerance"),
        (("--rate", "5"), "leave --rate"),
        (("--axis", "speed"), "unknown axis 'speed'"),
    ):
        done = fluidgate_run("frontier", "--preset", "p512-d20", *arguments)
        assert done.returncode == 1
        lines = [line for line in done.stderr.split("\n") if line]  # the progress bar leaves an empty one
        assert len(lines) == 1
        assert lines[0].startswith("error: ")
        assert words in lines[0]


def test_help_shows_an_example() -> None:
    for command in (("frontier",), ("experiment", "plan-quality")):
        done = fluidgate_run(*command, "--help")
        assert f"fluidgate {' '.join(command)}" in " ".join(done.stdout.split())
