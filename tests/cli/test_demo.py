"""The demo: one page on which a gate does nothing, and does something."""

import re
import subprocess
from pathlib import Path

from .calls import FLUIDGATE


def test_the_demo_says_where_to_use_nothing_and_where_to_use_the_gate(tmp_path: Path) -> None:
    done = subprocess.run([FLUIDGATE, "demo"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    assert re.search(r"azure-conv-2023, load 50%, [\d.]+ req/s: The policy does not matter at this load", text)
    assert re.search(r"r1-reasoning, load 100%, [\d.]+ req/s: Use fluid\.", text)
    silence = re.search(r"greedy: p99 longest silence (\d+) s, where fluid has ([\d.]+) s", text)
    assert silence is not None
    assert float(silence[1]) > 120 > 60 > float(silence[2])
    assert "contradict" not in text
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "azure-conv-2023 at 50%" in page
    assert "r1-reasoning at 100%" in page


def test_a_page_that_cannot_be_written_is_refused_first(tmp_path: Path) -> None:
    command = [FLUIDGATE, "demo", "--html", "absent/report.html"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "absent" in done.stderr
    assert not done.stdout
