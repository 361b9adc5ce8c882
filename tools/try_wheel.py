"""The wheel as users get it: built, installed away from the repository, run; a development tool.

    python tools/try_wheel.py

Every Python from 3.11 to 3.14 on this machine gets an environment with the wheel and its dependencies (the versions of
`constraints.txt`), and runs `plan` and a simulation, compiled there and interpreted, which must print the same. The
Python that runs this tool also runs the README's commands. A Python that is not here, or for which a dependency has no
wheel, is named and skipped. Exit status 1: something failed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from page_blocks import blocks, run

ROOT = Path(__file__).resolve().parents[1]
MINORS = range(11, 15)
"""Of Python 3."""
HERE = sys.version_info.minor
AT_ONCE = 2

PLAN = "fluidgate plan --preset azure-conv-2023 --rate 5 --model llama-2-7b --gpu a100-80gb"
RUN = "fluidgate simulate --preset lmsys --requests 12 --rate 5 --policy fluid --format json"


class Failed(Exception):
    """A step that must pass did not; what it said."""


class Skipped(Exception):
    """Why this Python cannot be tried here."""


def main() -> int:
    """Build, then try every Python, `AT_ONCE` at a time."""
    with tempfile.TemporaryDirectory(prefix="fluidgate-wheel-") as made:
        folder = Path(made)
        wheel = build(folder)
        print(f"built {wheel.name}", flush=True)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return max(pool.map(lambda minor: report(minor, wheel, folder / f"3.{minor}"), MINORS))


def build(folder: Path) -> Path:
    """The wheel, built from the source distribution, so that what that lacks shows too."""
    done = subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"the wheel cannot be built:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return next(folder.glob("*.whl"))


def report(minor: int, wheel: Path, folder: Path) -> int:
    """Try one Python and print what came of it; 1 if something failed."""
    start_s = time.monotonic()
    try:
        said = attempt(minor, wheel, folder)
    except Skipped as reason:
        said = f"skipped: {reason}"
    except Failed as failure:
        said = f"FAILED\n{failure}"
    print(f"Python 3.{minor}: {said} ({time.monotonic() - start_s:.0f} s)", flush=True)
    return int(said.startswith("FAILED"))


def attempt(minor: int, wheel: Path, folder: Path) -> str:
    """Install the wheel and run it; what was run, in words."""
    python = find_python(minor)
    if python is None:
        raise Skipped(f"no Python 3.{minor} on this machine")
    trial = Trial.made(folder, python, wheel)
    where = trial.output("python -c 'import fluidgate; print(fluidgate.__file__)'").strip()
    if not Path(where).is_relative_to(folder):
        raise Failed(f"fluidgate comes from {where}, not from the wheel")
    trial.output(PLAN)
    compiled, interpreted = trial.output(RUN), trial.output(RUN, NUMBA_DISABLE_JIT="1")
    if compiled != interpreted:
        raise Failed(f"{RUN}: compiled and interpreted differ:\n{compiled}\n{interpreted}")
    if minor != HERE:
        return "plan, a run compiled and interpreted"
    count = trial.run_page(ROOT / "README.md")
    return f"plan, a run compiled and interpreted, {count} blocks of the README"


def find_python(minor: int) -> Path | None:
    """An interpreter that can make environments, on the path or among pyenv's; None if there is none."""
    return next((path for path in _candidates(minor) if _is_python(path, minor)), None)


def _candidates(minor: int) -> Iterator[Path]:
    if minor == HERE:
        yield Path(sys.executable)
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from sorted(pyenv.glob(f"versions/3.{minor}.*/bin/python3.{minor}"), reverse=True)
    found = shutil.which(f"python3.{minor}")
    if found is not None:
        yield Path(found)


def _is_python(path: Path, minor: int) -> bool:
    """Whether it runs (a shim may not) and has what environments are made with (Debian's may not)."""
    check = f"import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, {minor}))"
    return subprocess.run([path, "-c", check], capture_output=True, check=False).returncode == 0


@dataclass(frozen=True)
class Trial:
    """An environment with the wheel, and an empty folder to run commands in."""

    python: Path
    folder: Path
    environment: Mapping[str, str]

    @classmethod
    def made(cls, folder: Path, python: Path, wheel: Path) -> Trial:
        """Make the environment.

        Raises:
            Skipped: a dependency has no wheel for this Python.
            Failed: the installation failed for another reason.
        """
        subprocess.run([python, "-m", "venv", folder / "venv"], check=True)
        own = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "FLUIDGATE"))}
        trial = cls(folder / "venv/bin/python", folder / "empty", own | {"FLUIDGATE_CACHE_DIR": str(folder / "code")})
        trial.folder.mkdir()
        pip = "python -m pip install --quiet --disable-pip-version-check --only-binary :all:"
        try:
            trial.output(f"{pip} --constraint '{ROOT / 'constraints.txt'}' '{wheel}'")
        except Failed as failure:
            missing = re.search(r"No matching distribution found for (\S+)", str(failure))
            if missing is None or missing[1].startswith("fluidgate") or python == Path(sys.executable):
                raise
            raise Skipped(f"there is no wheel of {missing[1]}") from None
        return trial

    def output(self, command: str, **variables: str) -> str:
        """What a command prints.

        Raises:
            Failed: it fails.
        """
        path = f"{self.python.parent}{os.pathsep}{self.environment['PATH']}"
        environment = {**self.environment, **variables, "PATH": path}
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise Failed(f"{command}\n{done.stdout[-1000:]}{done.stderr[-3000:]}")
        return done.stdout

    def run_page(self, page: Path) -> int:
        """Run a page's blocks, in order; how many there are.

        Raises:
            Failed: a block fails, or the page has none.
        """
        wanted = [block for block in blocks(page) if block.runs]
        for block in wanted:
            done = run(block, self.folder, self.python, self.environment)
            if done.returncode:
                raise Failed(f"{page.name}, line {block.line}:\n{block.text}\n{done.stderr[-3000:]}")
        if not wanted:
            raise Failed(f"{page.name} has no block that runs")
        return len(wanted)


if __name__ == "__main__":
    sys.exit(main())
