"""Files for users: written beside their place and renamed into it, so that a failed write leaves the old file alone."""

from __future__ import annotations

import errno
import io
import os
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TextIO

from fluidgate.errors import InputError

AnyPath = str | os.PathLike[str]

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk that takes no more."""

_STREAMS = {"/dev/stdout": 1, "/dev/stderr": 2}
"""Names of what this process has open already: a file that it was redirected to is not ours to replace."""


@contextmanager
def replacing(path: AnyPath) -> Iterator[TextIO]:
    """A UTF-8 text file to write; lines end as they are written, in a line feed.

    Bytes of a path or a command that are no text are written as escapes. For the rest see `replacing_bytes`.
    """
    with replacing_bytes(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
        yield text
        text.flush()
        text.detach()


@contextmanager
def replacing_bytes(path: AnyPath) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` as a whole at the end, or not at all.

    Bytes go to a temporary file in the same folder. Whatever goes wrong before the end, in the body too, removes it and
    leaves the old file as it was. A symbolic link is written through, and an existing file keeps its mode. A pipe or a
    device is written directly.

    Raises:
        InputError: an operation on the file failed; names path and cause.
    """
    try:
        target = _target(path)
        if target is None:
            with _direct(path) as stream:
                yield stream
            return
        beside = _beside(target)
        try:
            with open(beside, "xb") as file:
                if target.exists():
                    os.chmod(beside, stat.S_IMODE(target.stat().st_mode))
                yield file
                file.flush()
                os.fsync(file.fileno())  # else a crash soon after could leave the new name on an empty file
            os.replace(beside, target)
        except BaseException:
            with suppress(OSError):
                os.unlink(beside)
            raise
    except OSError as error:
        raise cannot_write(path, error) from None


def write_text(path: AnyPath, text: str) -> None:
    """Write a whole text file, as `replacing` does."""
    with replacing(path) as file:
        file.write(text)


def write_bytes(path: AnyPath, data: bytes) -> None:
    """Write a whole file, as `replacing_bytes` does."""
    with replacing_bytes(path) as file:
        file.write(data)


def make_folder(folder: AnyPath) -> Path:
    """A folder for files, made with its parents if need be.

    Raises:
        InputError: it cannot be made, is no folder, or takes no files.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        _try_folder(Path(folder))
    except OSError as error:
        raise cannot_write(folder, error) from None
    return Path(folder)


def check_writable(*paths: Path | None) -> None:
    """Refuse now, before a long run, what `replacing` would refuse after it; the files stay as they are.

    Args:
        paths: those of one command; None is one that was not asked for.

    Raises:
        InputError: a path cannot be written, or two of them are the same file.
    """
    targets: set[Path] = set()
    for path in paths:
        if path is None:
            continue
        try:
            target = _target(path)
            if target is None:
                if not os.access(path, os.W_OK):
                    raise _os_error(errno.EACCES)
                continue
            _try_folder(target.parent)
        except OSError as error:
            raise cannot_write(path, error) from None
        if target in targets:
            raise InputError(f"{path}: is given for two outputs, of which one would be lost; choose another path")
        targets.add(target)


def cannot_write(path: AnyPath, error: OSError, advice: str | None = None) -> InputError:
    """The one sentence for a file that cannot be written: where, why, and what to do."""
    place, cause, fitting = Path(path), error.strerror or str(error), "choose another path"
    if isinstance(error, FileNotFoundError) and not place.parent.exists():
        cause, fitting = f"there is no folder {place.parent}", "make the folder, or choose another path"
    elif error.errno in FULL:
        fitting = "free some space, or choose another path"
    return InputError(f"{place}: cannot be written ({cause}); {advice or fitting}")


def _target(path: AnyPath) -> Path | None:
    """The file to replace, behind all symbolic links; None: no file, but something to write to directly.

    Raises:
        OSError: `path` cannot be written, for a reason that is known without trying.
    """
    if os.path.abspath(path) in _STREAMS:
        return None
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return Path(os.path.realpath(path))
    if stat.S_ISDIR(mode):
        raise _os_error(errno.EISDIR)
    if not os.access(path, os.W_OK):  # renaming would replace a file that is protected from writing
        raise _os_error(errno.EACCES)
    return Path(os.path.realpath(path)) if stat.S_ISREG(mode) else None


def _direct(path: AnyPath) -> BinaryIO:
    number = _STREAMS.get(os.path.abspath(path))
    if number is None:
        return open(path, "ab")
    sys.stdout.flush()  # what was printed comes first
    return open(os.dup(number), "ab")  # one position in the file with what is printed, so that neither overwrites


def _beside(target: Path) -> Path:
    """A new name in the target's folder; of its own length, so that a long name does not become too long."""
    return target.with_name(f".fluidgate-{secrets.token_hex(8)}.tmp")


def _try_folder(folder: Path) -> None:
    """Make a file in the folder, and remove it: what permissions tell is not all of it (read-only, full, a quota)."""
    probe = _beside(folder / "probe")
    with open(probe, "xb"):
        os.unlink(probe)


def _os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
