"""`BenchProcess`: a load generator that ends with its block, whatever happens in it."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from types import TracebackType
from typing import BinaryIO, Self

from fluidgate.errors import InputError

GRACE_S = 5.0
TAIL_BYTES = 20_000
"""Of what a benchmark printed, which progress bars can make long."""


class BenchError(InputError):
    """A benchmark that does not make the load it was started for."""


def bench_words(command: str) -> list[str]:
    """The words of a benchmark's command, whose program is there.

    Raises:
        InputError: no such program, or quotes that do not close.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise InputError(f"--bench-command {command!r}: cannot be read ({error})") from None
    if not words or shutil.which(words[0]) is None:
        raise InputError(
            f"--bench-command {command!r}: there is no such program here; install vLLM where fluidgate runs, or name "
            "the command with its path"
        )
    return words


def last_line(output: BinaryIO) -> str:
    """The last line of what a benchmark printed, in at most 300 characters; only the end of the file is read."""
    output.seek(max(0, output.seek(0, os.SEEK_END) - TAIL_BYTES))
    lines = [line.strip() for line in output.read(TAIL_BYTES).decode(errors="replace").splitlines()]
    return next((line[:300] for line in reversed(lines) if line), "it printed nothing")


class BenchProcess:
    """A running benchmark, in a process group of its own, so that Ctrl-C reaches it only through `end`."""

    def __init__(self, command: Sequence[str]) -> None:
        """Start it.

        Raises:
            InputError: it cannot be started.
        """
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed on exit
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=self._output, stderr=self._output, start_new_session=True
            )
        except OSError as error:
            self._output.close()
            raise InputError(f"{command[0]}: cannot be started ({error.strerror}); see --bench-command") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
        self._output.close()

    @property
    def running(self) -> bool:
        """Whether it still runs.

        Raises:
            BenchError: it failed; with the last of what it printed.
        """
        status = self._process.poll()
        if status:
            raise BenchError(f"the benchmark failed with status {status}: {last_line(self._output)}")
        return status is None

    def end(self) -> None:
        """End it, and kill what does not heed that: the server drops the requests of closed connections.

        Not by an interrupt, on which a benchmark would tidy up for seconds and wait for answers.
        """
        for how in (signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is not None:
                break
            try:
                os.killpg(self._process.pid, how)
                self._process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                continue
            except ProcessLookupError:
                break
        self._process.wait()
