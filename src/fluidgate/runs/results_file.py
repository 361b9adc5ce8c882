"""A JSON-lines file of finished jobs: a header that says what they belong to, then one line per job, each checked."""

from __future__ import annotations

import json
import re
import warnings
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from fluidgate.errors import InputError, ResultsWarning
from fluidgate.input import read_open
from fluidgate.output import cannot_write
from fluidgate.runs.result_shape import Shape, fits
from fluidgate.version import version

FORMAT = 2
"""Of these files; format 1 had no number and no checksums."""
MAX_BYTES = 2 * 2**30
"""Of one to continue from, as of a trace; a run's result takes about 2 kB."""

_ADVICE = "name another results file, or delete this one to start over"
_CHECKED = re.compile(rb'\{"crc32": "([0-9a-f]{8})", (.+)', re.DOTALL)
_MAX_NAMED = 10


class ResultsFile:
    """Open for appending, and locked: one run at a time writes to it.

    Every line begins with the CRC-32 of what follows, in an entry continued from the header's, so that a line of
    another file does not pass either. A torn or altered line is named in a `ResultsWarning` and ignored, and its job
    runs again; a last line that a kill tore is dropped. If a job has two lines, the later one counts.

    Args:
        path: created if absent.
        header: JSON-able settings; numbers of another version or other settings must not mix with these.

    Raises:
        InputError: another run has the file, it has another header or format, is no results file, or cannot be written.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.path = path
        self._held: dict[str, tuple[int, dict[str, Any]]] = {}
        self._header = {"fluidgate": version(), "results_format": FORMAT, **header}
        self._seed = 0
        try:
            self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 - this object is the context
            try:
                if not path.is_file():  # a device might be read without end
                    raise InputError(f"{path}: is no file that a run could continue from; name another results file")
                self._lock()
                self._resume()
            except BaseException:
                self._file.close()
                raise
        except OSError as error:
            raise cannot_write(path, error) from None

    def __enter__(self) -> ResultsFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if isinstance(error, KeyboardInterrupt):
            error.add_note(f"{self.path} keeps the finished runs, and the same command continues from it")
        try:
            self._file.close()
        except OSError as problem:
            if error is None:
                raise self._not_written(problem) from None

    def results(self, keys: Iterable[str], shape: Shape | None = None) -> dict[str, dict[str, Any]]:
        """What the file held of these jobs when it was opened, by key.

        Args:
            shape: of their results; one that does not fit is named and ignored.
        """
        held = {key: self._held[key] for key in keys if key in self._held}
        others = [line for line, result in held.values() if shape is not None and not fits(result, shape)]
        self._name(others, "another kind of result than its job gives")
        return {key: result for key, (line, result) in held.items() if line not in others}

    def append(self, key: str, job: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """Write one finished job, so that a kill right after it loses nothing.

        Raises:
            InputError: it cannot be written; the lines before stay good.
        """
        try:
            self._write(_with_checksum({"key": key, "job": job, "result": result}, self._seed))
        except OSError as error:
            raise self._not_written(error) from None

    def _write(self, line: bytes) -> None:
        left = memoryview(line + b"\n")
        while left:
            left = left[self._file.write(left) :]

    def _lock(self) -> None:
        """Until the file is closed, or this process ends."""
        import fcntl  # not on Windows, where the rest of the package still imports

        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{self.path}: another run is writing to this file; let it end, or name another results file"
            ) from None

    def _resume(self) -> None:
        """Take what the file holds, or begin it."""
        ours = _with_checksum(self._header)
        self._seed = _checksum(ours)
        self._file.seek(0)
        *lines, torn = read_open(self._file, self.path, _ADVICE, MAX_BYTES).split(b"\n")
        if not lines and not ours.startswith(torn):
            raise self._not_ours(torn)
        if lines:
            self._take(lines)
        if torn:
            self._file.truncate(sum(len(line) + 1 for line in lines))
        if not lines:
            self._write(ours)

    def _take(self, lines: Sequence[bytes]) -> None:
        header = _checked(lines[0])
        if header is not None:
            self._compare(header)
            self._seed = _checksum(lines[0])
        altered = [] if header is not None else [1]
        for number, line in enumerate(lines[1:], start=2):
            match _checked(line, self._seed):
                case {"key": str(key), "job": dict(), "result": dict(result)}:
                    self._held[key] = number, result
                case _:
                    altered.append(number)
        if header is None and not self._held:  # else they are of our header, which alone is altered
            raise self._not_ours(lines[0])
        self._name(altered, "torn or altered")

    def _compare(self, header: dict[str, Any]) -> None:
        theirs, ours = _flat(header), _flat(json.loads(json.dumps(self._header)))
        differing = [key for key in ours | theirs if theirs.get(key) != ours.get(key)]
        if differing:
            words = [_difference(key, theirs.get(key, "unset"), ours.get(key, "unset")) for key in differing]
            raise InputError(f"{self.path}: holds results of another run ({'; '.join(words)}); {_ADVICE}")

    def _name(self, lines: Sequence[int], what: str) -> None:
        """Warn of lines that are ignored."""
        if lines:
            named = ", ".join(str(line) for line in lines[:_MAX_NAMED])
            more = f" and {len(lines) - _MAX_NAMED} more" if len(lines) > _MAX_NAMED else ""
            message = f"{self.path}:{named}{more}: {what}, so ignored; what is missing runs again"
            # From one place in the code, so that Python shows it once however often a study opens the file.
            warnings.warn(message, ResultsWarning, stacklevel=1)

    def _not_ours(self, first_line: bytes) -> InputError:
        if first_line.startswith(b'{"fluidgate": '):
            return InputError(f"{self.path}: has no checksums, as an earlier fluidgate wrote it; {_ADVICE}")
        return InputError(
            f"{self.path}: is not a results file of fluidgate, or its first line is altered, and is left as it is; "
            "name another file"
        )

    def _not_written(self, error: OSError) -> InputError:
        return cannot_write(self.path, error, "once that is solved, the same command continues from this file")


def _with_checksum(values: Mapping[str, Any], seed: int = 0) -> bytes:
    """A JSON object on one line; its first value is the checksum of all bytes after it."""
    text = json.dumps(values)[1:].encode()
    return b'{"crc32": "%08x", %s' % (zlib.crc32(text, seed), text)


def _checked(line: bytes, seed: int = 0) -> dict[str, Any] | None:
    """The values of a line; None if it is not as `_with_checksum` made it."""
    parts = _CHECKED.fullmatch(line)
    if parts is None or int(parts[1], 16) != zlib.crc32(parts[2], seed):
        return None
    try:
        values: dict[str, Any] = json.loads(b"{" + parts[2])
    except (ValueError, RecursionError):
        return None
    return values


def _checksum(line: bytes) -> int:
    parts = _CHECKED.fullmatch(line)
    assert parts is not None
    return int(parts[1], 16)


def _difference(key: str, theirs: str, ours: str) -> str:
    return f"{key} {theirs} there, {ours} here" if len(theirs) + len(ours) < 80 else f"{key} differs"


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Leaves by dotted name, as JSON text, in which NaN equals NaN."""
    flat: dict[str, str] = {}
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            flat |= _flat(item, f"{prefix}{key}.")
        else:
            flat[prefix + key] = json.dumps(item)
    return flat
