"""Commands import what they use and no more: numba, SciPy and the like take longer to import than a plan takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

COMPILERS = {"numba", "llvmlite"}
TABLES = {"pyarrow", "pandas"}
SCIPY = {
    "scipy.linalg",
    "scipy.optimize",
    "scipy.special",
    "scipy.stats",
}  # numba itself imports `scipy`, which is little
OTHERS = {"matplotlib", "ray", "starlette", "vllm", "torch", "aiconfigurator_core"}
HEAVY = COMPILERS | TABLES | SCIPY | OTHERS

RUN = """
import sys
from fluidgate.__main__ import main

sys.argv[0] = "fluidgate"
try:
    main()
finally:
    print(*sys.modules, file=sys.stderr)
"""

PLAN = ("plan", "--model", "llama-3.1-8b", "--gpu", "l40s", "--preset", "r1-reasoning", "--rate", "0.19")
SCRAPE = Path(__file__).parents[1] / "doctor" / "data" / "busy_later.txt"
TRACE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
"""


def imported(*words: object) -> set[str]:
    """Which of the heavy packages a command imports."""
    done = subprocess.run([sys.executable, "-c", RUN, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return HEAVY & set(done.stderr.splitlines()[-1].split())


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    path = tmp_path / "plan.json"
    assert imported(*PLAN, "--save", path) == set()
    return path


def test_a_plan_that_is_saved_and_served(plan_file: Path) -> None:
    assert imported("serve-args", plan_file, "--model-name", "some/model") == set()


@pytest.mark.parametrize(
    "words",
    [("--help",), ("--version",), ("simulate", "--help"), PLAN],
    ids=lambda words: words[0],
)
def test_what_neither_runs_nor_reads(words: tuple[object, ...]) -> None:
    assert imported(*words) == set()


def test_a_diagnosis() -> None:
    assert imported("doctor", SCRAPE) <= SCIPY, "it fits a law of lengths"


@pytest.mark.parametrize("policy", ["greedy", "fluid"])
def test_a_simulation_with_kept_code(tmp_path: Path, policy: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(TRACE)
    words = ("simulate", "--trace", path, "--policy", policy, "--model", "llama-2-7b", "--gpu", "a100-80gb")
    imported(*words)  # where nothing is kept yet it compiles, which takes all of numba
    assert imported(*words) == COMPILERS | {"pyarrow"}


def test_the_package() -> None:
    script = "import sys, fluidgate.engine, fluidgate.policies, fluidgate.metrics; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert HEAVY & set(done.stdout.split()) == set()
