"""A JSON-lines file of finished jobs: a header that says what they belong to, then one line per job."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from fluidgate.errors import InputError
from fluidgate.hardware import StepGrid

_MEND = "name another results file, or delete this one to start anew"


def plain(settings: Any) -> Any:
    """Dataclasses, and what holds some, as JSON-ready values that tell settings apart: of a grid, its digest."""
    if isinstance(settings, StepGrid):
        return {"digest": settings.digest}
    if is_dataclass(settings):
        return {field.name: plain(getattr(settings, field.name)) for field in fields(settings)}
    if isinstance(settings, Mapping):
        return {key: plain(value) for key, value in settings.items()}
    return [plain(value) for value in settings] if isinstance(settings, list | tuple) else settings


class ResultsFile:
    """Open for appending; finished jobs from an earlier run are in `done`, by key.

    Args:
        path: made if it is not there. A last line that was torn by a kill is dropped.
        header: JSON-able settings; numbers of another version or other settings must not mix with these.

    Raises:
        InputError: the file has another header, is no results file, or cannot be written.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        from fluidgate import __version__

        self.path = path
        self.done: dict[str, dict[str, Any]] = {}
        header_line = json.dumps({"fluidgate": __version__, **header}) + "\n"
        try:
            self._file: TextIO = path.open("a+", encoding="utf-8", newline="\n")
            try:
                self._resume(header_line)
            except BaseException:
                self._file.close()
                raise
        except OSError as error:
            raise InputError(f"{path}: cannot write results there ({error.strerror}); name another file") from None
        except UnicodeDecodeError:
            raise self._not_ours() from None

    def __enter__(self) -> ResultsFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def append(self, key: str, job: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """Write one finished job, so that a kill right after it loses nothing."""
        self._write(json.dumps({"key": key, "job": job, "result": result}) + "\n")

    def _write(self, line: str) -> None:
        self._file.write(line)
        self._file.flush()

    def _resume(self, header_line: str) -> None:
        self._file.seek(0)
        text = self._file.read()
        whole = text[: text.rfind("\n") + 1]
        if not whole and not header_line.startswith(text):
            raise self._not_ours()
        lines = whole.splitlines()
        if lines:
            self._check_header(lines[0], header_line)
            self.done = dict(self._entries(lines[1:]))
        if len(whole) < len(text):
            self._file.truncate(len(whole.encode()))
        if not lines:
            self._write(header_line)

    def _check_header(self, line: str, expected: str) -> None:
        try:
            there, here = _flat(json.loads(line)), _flat(json.loads(expected))
        except (json.JSONDecodeError, AttributeError):
            raise self._not_ours() from None
        if "fluidgate" not in there:
            raise self._not_ours()
        differing = [key for key in here | there if there.get(key) != here.get(key)]
        if differing:
            words = [_difference(key, there.get(key, "unset"), here.get(key, "unset")) for key in differing]
            raise InputError(f"{self.path}: holds results of another run ({'; '.join(words)}); {_MEND}")

    def _entries(self, lines: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        for number, line in enumerate(lines, start=2):
            try:
                entry = json.loads(line)
                yield entry["key"], entry["result"]
            except (json.JSONDecodeError, TypeError, KeyError):
                raise InputError(f"{self.path}:{number}: is no finished job; delete the line to run it again") from None

    def _not_ours(self) -> InputError:
        return InputError(f"{self.path}: is not a results file of fluidgate, and is left as it is; name another file")


def _difference(key: str, there: str, here: str) -> str:
    return f"{key} {there} there, {here} here" if len(there) + len(here) < 80 else f"{key} differs"


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Leaves by dotted name, as JSON text, in which NaN equals NaN."""
    flat: dict[str, str] = {}
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            flat |= _flat(item, f"{prefix}{key}.")
        else:
            flat[prefix + key] = json.dumps(item)
    return flat
