"""The command line as a user calls it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FLUIDGATE = str(Path(sys.executable).with_name("fluidgate"))


def fluidgate_run(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A command, whether it succeeds or not."""
    return subprocess.run([FLUIDGATE, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False)


def good(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A command that succeeds."""
    done = fluidgate_run(*arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done
