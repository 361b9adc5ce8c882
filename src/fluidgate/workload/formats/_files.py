"""Bytes in, bytes out: gzip is transparent, and every failure names the file and what to do."""

from __future__ import annotations

import gzip
import io
import json
import sys
import zlib
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from fluidgate.errors import InputError
from fluidgate.jsonfile import DuplicateKey, decode
from fluidgate.output import write_bytes

STDIN = Path("/dev/stdin")
_GZIP_MAGIC = b"\x1f\x8b"

MAX_BYTES = 2 * 2**30
"""Of a file, unpacked: the largest published trace, a week of Azure's, takes 1.2 GiB."""
MAX_PACKED = 100
"""Bytes out of one packed byte: traces give 5 to 20, gzip could give 1,000."""
_CHUNK = 16 * 2**20


def refuse(path: Path, line: int, what: str) -> NoReturn:
    """Stop with `file:line: what is wrong; what to do` (both in the caller's sentence)."""
    raise InputError(f"{path}:{line}: {what}")


def read_text(path: Path) -> str:
    """The whole file as UTF-8 text: unzipped, lines ended by a line feed, no byte-order mark, no blank end.

    Errors: InputError if the file is missing, unreadable, damaged, not UTF-8, or empty.
    """
    raw = _read_bytes(path, -1)
    try:
        text = raw.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n").rstrip()
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        refuse(path, line, f"byte {error.object[error.start]:#04x} is not UTF-8 text; save the file as UTF-8")
    if not text:
        refuse(path, 1, "the file is empty; give a trace with at least one request")
    return text


def read_head(path: Path, size: int = 65536) -> str:
    """The first `size` bytes as text; bytes that are not UTF-8 are replaced, for the reader to refuse."""
    return _read_bytes(path, size).decode("utf-8-sig", errors="replace").lstrip()


def read_bytes(path: Path, size: int = -1) -> bytes:
    """The first `size` bytes, unzipped; all of them if -1. Errors: as of `read_text`, but for the text."""
    return _read_bytes(path, size)


def read_json(path: Path) -> Any:
    """The file as one JSON document. Errors: InputError at the line where the JSON breaks, or for a doubled key."""
    return json_document(path, read_text(path))


def read_json_objects(path: Path) -> list[dict[str, Any]]:
    """The JSON object that the file is, or those that are its lines. Errors: as of `read_json`, or another value."""
    text = read_text(path)
    lines = text.split("\n")
    try:
        values = [decode(text)]
    except json.JSONDecodeError as error:
        if error.msg != "Extra data" or len(lines) == 1:
            json_document(path, text)
        values = [json_line(path, number, line) for number, line in enumerate(lines, 1)]
    except (DuplicateKey, ValueError, RecursionError):
        values = [json_document(path, text)]
    for number, value in enumerate(values, 1):
        if not isinstance(value, dict):
            refuse(path, number, "not a JSON object; give the file as the benchmark wrote it")
    return values


def json_line(path: Path, number: int, line: str) -> dict[str, Any]:
    """The JSON object that a line is. Errors: InputError that names the line."""
    try:
        row = decode(line)
    except DuplicateKey as problem:
        refuse(path, number, str(problem))
    except (ValueError, RecursionError):
        refuse(path, number, f"{line[:60]!r} is not valid JSON; write one request per line as one JSON object")
    if not isinstance(row, dict):
        refuse(path, number, f"{line[:60]!r} is not a JSON object; write one request per line as one JSON object")
    return row


def json_document(path: Path, text: str) -> Any:
    """The text as one JSON document. Errors: as of `read_json`."""
    try:
        return decode(text)
    except json.JSONDecodeError as error:
        # Before its base class, ValueError, which json raises for an integer of thousands of digits.
        refuse(path, error.lineno, f"not valid JSON ({error.msg}); write the file again, as one JSON document")
    except DuplicateKey as error:
        raise InputError(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: a number too long or lists too deep ({error}); write the file again") from error


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, gzipped when the name ends in `.gz`, with no time stamp: same text, same bytes."""
    data = text.encode()
    write_bytes(path, gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def _read_bytes(path: Path, size: int) -> bytes:
    try:
        with _opened(path) as file:
            if file.peek(2)[:2] != _GZIP_MAGIC:
                return _bounded(path, file, file, size)
            with gzip.GzipFile(fileobj=file) as unzipped:
                return _bounded(path, unzipped, file, size)
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file; check the path") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: the gzip data is damaged ({error}); fetch the file again") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a readable file") from error
    except MemoryError as error:
        raise InputError(f"{path}: does not fit into this machine's memory; give a part of the trace") from error


def _opened(path: Path) -> io.BufferedReader:
    """The file, or standard input, of which every reader gets the whole."""
    if path != STDIN:
        return path.open("rb")
    return io.BufferedReader(io.BytesIO(_piped()))


@cache
def _piped() -> bytes:
    data = sys.stdin.buffer.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise InputError(f"{STDIN}: holds more than {MAX_BYTES / 2**30:g} GiB; give a part of the trace")
    return data


def _bounded(path: Path, content: BinaryIO | gzip.GzipFile, file: BinaryIO, size: int) -> bytes:
    """The first `size` bytes of `content`, which is unpacked from `file`; all of them if `size` is -1."""
    data = bytearray()
    while size < 0 or len(data) < size:
        part = content.read(_CHUNK if size < 0 else min(_CHUNK, size - len(data)))
        if not part:
            break
        data += part
        if len(data) > MAX_BYTES:
            raise InputError(f"{path}: holds more than {MAX_BYTES / 2**30:g} GiB; give a part of the trace")
        if len(data) > max(_CHUNK, MAX_PACKED * file.tell()):
            raise InputError(
                f"{path}: unpacks to more than {MAX_PACKED} times its size, which no trace does; fetch the file again"
            )
    return bytes(data)
