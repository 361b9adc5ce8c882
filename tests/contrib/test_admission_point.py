"""The admission point of `contrib/vllm-admission-point`, on a patched copy of vLLM's sources.

Without a policy the patched scheduler does what the unpatched one does, in every step. With the consumer it does what
`GateScheduler` does on the unpatched one, through its seams.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CONTRIB = ROOT / "contrib" / "vllm-admission-point"
PATCH = next(CONTRIB.glob("0001-*.patch"))
VERSION = "0.33.0"
SOURCES = Path(os.environ.get("VLLM_SOURCES") or Path(sys.prefix, "overlays", VERSION))
RUNS = 32

BOOKKEEPING = ("deferred", "bound")
"""Whom vLLM itself passed over. Where a policy pauses, the seams hide requests whose adapters find no slot, for vLLM
up to 0.32; at the point vLLM sees them and passes over them."""

needs_sources = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None or not (SOURCES / "vllm").is_dir() or shutil.which("patch") is None,
    reason=f"needs vLLM, the sources of {VERSION} (`tools/test_versions.py` fetches them) and the program patch",
)


@pytest.fixture(scope="module")
def patched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """vLLM's sources with the patch, which fits to the line."""
    folder = tmp_path_factory.mktemp("vllm") / "patched"
    shutil.copytree(SOURCES, folder, ignore=shutil.ignore_patterns("__pycache__"))
    command = ["patch", "-p1", "--fuzz=0", "--forward", "-i", str(PATCH)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout.splitlines()
    assert len(said) == 4
    assert all(line.startswith("patching file vllm/") for line in said), done.stdout
    return folder


def drive(sources: Path, way: str, folder: Path) -> dict[str, Any]:
    """The runs of `drive.py` on these sources."""
    path = [sources, ROOT / "src", ROOT, CONTRIB, os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "PYTHONHASHSEED": "0",
        "VLLM_TARGET_DEVICE": "cpu",
        "VLLM_CACHE_ROOT": str(folder / "cache"),
        "FLUIDGATE_STATE_DIR": str(folder / "state"),
    }
    command = [sys.executable, "-m", "tests.contrib.drive", way, str(RUNS)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made: dict[str, Any] = json.loads(done.stdout)
    assert (made["vllm"], made["folder"]) == (VERSION, str(sources))
    return made


def steps(made: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for run in made["runs"] for step in run["steps"]]


@needs_sources
def test_without_a_policy_every_step_is_as_before(patched: Path, tmp_path: Path) -> None:
    before, after = drive(SOURCES, "stock", tmp_path), drive(patched, "stock", tmp_path)
    assert before["runs"] == after["runs"]
    assert sum(len(step["preempted"]) for step in steps(before)) > 150
    assert sum(bool(step["deferred"]) for step in steps(before)) > 1000


@needs_sources
def test_with_the_consumer_every_step_is_as_through_the_seams(patched: Path, tmp_path: Path) -> None:
    seams, point = drive(SOURCES, "seams", tmp_path), drive(patched, "point", tmp_path)
    for one, other in zip(seams["runs"], point["runs"], strict=True):
        left_out = BOOKKEEPING if one["adapters"] and one["totals"]["paused"] else ()
        assert one["policy"] == other["policy"]
        assert one["totals"] == other["totals"], one["policy"]
        assert _without(one["steps"], left_out) == _without(other["steps"], left_out), one["policy"]
        assert one["rebuilds"] == other["rebuilds"] == 0
    answers: Counter[str] = sum((Counter(run["answers"]) for run in point["runs"]), Counter())
    assert min(answers[kind] for kind in ("none", "some", "named", "paused", "shed")) > 20, answers
    assert sum(len(step["preempted"]) for step in steps(seams)) > 80
    assert point["flag"] == "gate_admission.GateAdmission"
    assert point["most"] == 1


def _without(steps: list[dict[str, Any]], left_out: tuple[str, ...]) -> list[dict[str, Any]]:
    return [{name: value for name, value in step.items() if name not in left_out} for step in steps]


def test_the_readme_quotes_numbers_of_the_docs() -> None:
    """Each table's rows of numbers stand in `docs/`, beside the commands that print them."""
    docs = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md"))
    quoted = [line for line in (CONTRIB / "README.md").read_text(encoding="utf-8").splitlines() if line[:2] == "| "]
    rows = [line for line in quoted if line.endswith("% |")]
    assert len(rows) >= 8
    for row in rows:
        assert row in docs, f"not in docs: {row}"


def test_the_readme_shows_the_interface_of_the_patch() -> None:
    shown = (CONTRIB / "README.md").read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    added = [line[1:] for line in PATCH.read_text(encoding="utf-8").splitlines() if line.startswith("+")]
    for line in filter(None, shown.splitlines()):
        assert line in added, f"not in the patch: {line}"
