"""A file system that fails on demand, under the modules that write for users."""

import errno
import io
import os
from collections.abc import Callable
from typing import Any

import pytest

WRITING_MODULES = ("fluidgate.output", "fluidgate.runs.results_file")


class Faults:
    """Counts what the writing modules do to files, and lets one operation fail.

    Attributes:
        done: the operations since `start`, by name.
        most_bytes: that one raw write takes, so that small files need several too.
    """

    def __init__(self) -> None:
        self.most_bytes = 1 << 20
        self.start()

    def start(self, fail_at: int | None = None, error: BaseException | None = None) -> None:
        """Count anew; operation `fail_at`, counted from 0, raises `error`: without one, no space is left."""
        self.done: list[str] = []
        self.fail_at = fail_at
        self.error = error or OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def step(self, operation: str) -> None:
        """One more operation."""
        self.done.append(operation)
        if len(self.done) - 1 == self.fail_at:
            raise self.error

    def open(self, path: Any, mode: str, buffering: int = -1) -> Any:
        """`open` for writing bytes."""
        self.step("open")
        raw = FaultyFile(self, path, mode.replace("b", ""))
        return raw if buffering == 0 else io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)


class FaultyFile(io.FileIO):
    """A raw file whose writes are short, and may fail half-way, as on a full disk."""

    def __init__(self, faults: Faults, path: Any, mode: str) -> None:
        super().__init__(path, mode)
        self.faults = faults

    def write(self, data: Any) -> int:
        part = bytes(memoryview(data).cast("B")[: self.faults.most_bytes])
        try:
            self.faults.step("write")
        except OSError:
            super().write(part[: len(part) // 2])
            raise
        return super().write(part)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self.faults.step("close")


class FaultyOs:
    """`os`, whose functions that writers call may fail."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return self.counted(name, real) if name in ("stat", "chmod", "fsync", "replace") else real

    def counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def function(*arguments: Any) -> Any:
            self.faults.step(name)
            return real(*arguments)

        return function


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    """Under every writing module, until the test ends."""
    made = Faults()
    for module in WRITING_MODULES:
        monkeypatch.setattr(f"{module}.open", made.open, raising=False)
        monkeypatch.setattr(f"{module}.os", FaultyOs(made), raising=False)
    return made
