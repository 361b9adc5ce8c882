"""Files from users: read whole up to a size, so that a wrong path (a disk image, a device) does not fill the memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from fluidgate.errors import InputError

MAX_BYTES = 256 * 2**20
"""Of a text file that a reader takes into memory: a server's log, a scrape, measured steps."""
_CHUNK = 2**20


def read_text(
    path: Path, advice: str, most_bytes: int = MAX_BYTES, *, encoding: str = "utf-8", errors: str = "strict"
) -> str:
    """The whole file as text whose lines end in a line feed.

    Args:
        advice: what to do about a file that is larger than `most_bytes`.
        encoding, errors: as of `bytes.decode`.

    Raises:
        InputError: it is larger.
        OSError, UnicodeDecodeError: it cannot be read, or decoded.
    """
    text = read_bytes(path, advice, most_bytes).decode(encoding, errors)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_bytes(path: Path, advice: str, most_bytes: int = MAX_BYTES) -> bytes:
    """The whole file. Arguments and errors: see `read_text`."""
    with path.open("rb") as file:
        return read_open(file, path, advice, most_bytes)


def read_open(file: BinaryIO, path: Path, advice: str, most_bytes: int = MAX_BYTES) -> bytes:
    """All of an open file from where it stands. Arguments and errors: see `read_text`."""
    content = bytearray()
    if os.fstat(file.fileno()).st_size <= most_bytes:  # 0 of a pipe or a device, which only reading tells
        while len(content) <= most_bytes and (part := file.read(min(_CHUNK, most_bytes + 1 - len(content)))):
            content += part
        if len(content) <= most_bytes:
            return bytes(content)
    raise InputError(f"{path}: is larger than {most_bytes // 2**20:,} MiB; {advice}")
