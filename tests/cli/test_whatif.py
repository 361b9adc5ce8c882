"""`fluidgate whatif` as a user types it."""

import json
import subprocess
from pathlib import Path

from fluidgate.cli.whatif import KNOBS as NAMED
from fluidgate.runs.whatif import KNOBS

from .calls import FLUIDGATE

SMALL = ("--preset", "azure-conv-2023", "--rate", "5", "--requests", "200", "--repeats", "2", "--model", "llama-3.1-8b")
SEATS = ("--gpu", "l40s", "--policy", "greedy", "--vary", "seats=16,64,256", "--slo", "p99:ttft:2000", "--price", "2")


def fluidgate_run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([FLUIDGATE, "whatif", *arguments], capture_output=True, text=True, check=False)


def test_table_json_and_files(tmp_path: Path) -> None:
    files = ("--html", str(tmp_path / "page.html"), "--figures", str(tmp_path), "--output-dir", str(tmp_path))
    table = fluidgate_run(*SMALL, *SEATS, *files)
    assert table.returncode == 0, table.stderr
    for words in ("16", "256 (now)", "bound-", "p99 TTFT of at most 2 s", "per M tokens"):
        assert words in table.stdout
    assert all(len(line) <= 80 for line in table.stdout.splitlines())
    kept = json.loads((tmp_path / "whatif.json").read_text())
    again = json.loads(fluidgate_run(*SMALL, *SEATS, "--jobs", "2", "--format", "json").stdout)
    assert "--output-dir" in kept.pop("command")
    assert "--jobs 2" in again.pop("command")
    assert again == kept  # same seed, same bits, however many processes
    assert [point["value"] for point in kept["points"]] == ["16", "64", "256"]
    assert "<svg" in (tmp_path / "page.html").read_text()
    assert (tmp_path / "whatif-seats-p99-ttft-ms.svg").read_text().startswith('<svg xmlns="http://www.w3.org/2000/svg"')


def test_a_wide_table_has_every_column() -> None:
    narrow, wide = (fluidgate_run(*SMALL, *SEATS, "--format", name).stdout for name in ("table", "wide"))
    assert "Not shown at this width" in narrow
    assert "Not shown" not in wide
    assert wide.count("KV") == 2


def test_bad_input_is_one_line() -> None:
    for arguments, words in (
        (("--vary", "speed"), "unknown knob 'speed'"),
        (("--vary", "seats=0"), "at least 1"),
        (("--vary", "gpu", "--price", "2"), "give each its own"),
        (("--vary", "tp", "--num-gpu-blocks", "900"), "leave --num-gpu-blocks out"),
    ):
        done = fluidgate_run(*SMALL, *arguments)
        assert done.returncode == 1
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert words in errors[0]
        assert done.stdout == ""


def test_help_names_every_knob() -> None:
    assert NAMED.split(", ") == list(KNOBS)
    done = fluidgate_run("--help")
    assert "policy, replicas" in " ".join(done.stdout.split())
    assert "Example:" in done.stdout
