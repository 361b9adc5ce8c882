"""What the API servers of one server count together: a small file of numbers for each, which all of them map.

An API server keeps a lock on its file as long as it lives, so that the numbers of one that was killed count no more.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import re
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import exp
from pathlib import Path

from fluidgate.errors import InputError
from fluidgate.serving.gate_state import check_private, make_private
from fluidgate.serving.pulse import WINDOW_S

logger = logging.getLogger("vllm.fluidgate")

SINCE_WRITTEN, UNANSWERED, TURNED_AWAY = "since written", "unanswered", "turned away"
"""Requests let through since the engine's state was written, those without a first byte, and all that got a 429."""
COUNTS = (SINCE_WRITTEN, UNANSWERED, TURNED_AWAY)

MOST_DOORS = 1024
SECONDS_BETWEEN_SCANS = 1.0
_WIDTH = 8


class Numbers:
    """Whole numbers in a file that is mapped into memory."""

    def __init__(self, file: int, count: int) -> None:
        self._map = mmap.mmap(file, count * _WIDTH)
        self._view = memoryview(self._map).cast("q")

    def __getitem__(self, place: int) -> int:
        return int(self._view[place])

    def __setitem__(self, place: int, value: int) -> None:
        self._view[place] = value

    def close(self) -> None:
        """They are read no more."""
        self._view.release()
        self._map.close()


class Doors:
    """The numbers of this API server, and their sums over all that live.

    Where the files cannot be used one warning says why, and each API server counts for itself.

    Args:
        names: of the numbers besides `COUNTS`, the same in every API server.
        where: folder of the files, and name of the server; None: this API server is alone.
    """

    def __init__(self, names: Sequence[str], where: Callable[[], tuple[Path, str]] | None = None) -> None:
        self._places = {one: place for place, one in enumerate((*COUNTS, *names))}
        self._where = where
        self._own: list[int] | Numbers = [0] * len(self._places)
        self._others: list[Numbers] = []
        self._lock: int | None = None
        self._path = ""
        self._scan_s = -SECONDS_BETWEEN_SCANS
        self._has_warned = False

    def __len__(self) -> int:
        return 1 + len(self._others)

    def add(self, name: str, number: int = 1) -> None:
        """Count here."""
        self._own[self._places[name]] += number

    def put(self, name: str, number: int) -> None:
        """So many are here."""
        self._own[self._places[name]] = number

    def elsewhere(self, name: str) -> int:
        """The sum over all others."""
        place = self._places[name]
        return sum(other[place] for other in self._others)

    def total(self, name: str) -> int:
        """The sum over all."""
        return self._own[self._places[name]] + self.elsewhere(name)

    def scan(self, now_s: float) -> None:
        """See, once a second at most, which others live. Never raises."""
        if self._where is None or 0 <= now_s - self._scan_s < SECONDS_BETWEEN_SCANS:
            return
        self._scan_s = now_s
        try:
            folder, name = self._where()
            if self._lock is None or not _is_at(self._lock, self._path):
                self.close()
                make_private(folder)
                self._enter(folder, name)
            self._find(folder, name)
        except (OSError, InputError, ValueError) as problem:
            if not self._has_warned:
                logger.warning("fluidgate: each API server counts for itself: %s", problem)
            self._has_warned = True

    def close(self) -> None:
        """Count no more: as if the process had ended."""
        for other in self._others:
            other.close()
        self._others = []
        if isinstance(self._own, Numbers):
            numbers, self._own = self._own, [self._own[place] for place in self._places.values()]
            numbers.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _enter(self, folder: Path, name: str) -> None:
        """Take the first file that no living process has, and count in it from now on."""
        for number in range(MOST_DOORS):
            path = str(folder / f"{name}.door.{number}")
            file = self._taken(path)
            if file is not None:
                numbers = Numbers(file, len(self._places))
                for place in self._places.values():
                    numbers[place] = self._own[place]
                self._own, self._lock, self._path = numbers, file, path
                return
        raise InputError(f"{folder} has {MOST_DOORS:,} files of living API servers named {name}")

    def _taken(self, path: str) -> int | None:
        """The file, locked and as long as it must be; None: it is another process's.

        One of another length is left to those who may have mapped it, and replaced.
        """
        size = len(self._places) * _WIDTH
        for _ in range(2):
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(file).st_size == 0:
                    os.ftruncate(file, size)
                if os.fstat(file).st_size == size and _is_at(file, path):
                    return file
                Path(path).unlink(missing_ok=True)
            os.close(file)
        return None

    def _find(self, folder: Path, name: str) -> None:
        check_private(folder)
        pattern = re.compile(rf"{re.escape(name)}\.door\.\d{{1,4}}")
        paths = sorted(entry.path for entry in os.scandir(folder) if pattern.fullmatch(entry.name))
        others = [self._look(path) for path in paths if path != self._path]
        for other in self._others:
            other.close()
        self._others = [other for other in others if other is not None]

    def _look(self, path: str) -> Numbers | None:
        """The numbers of another API server that lives."""
        try:
            file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            facts = os.fstat(file)
            if not stat.S_ISREG(facts.st_mode) or facts.st_size != len(self._places) * _WIDTH:
                return None
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return None  # its owner has ended
            return Numbers(file, len(self._places))
        finally:
            os.close(file)


def _is_at(file: int, path: str) -> bool:
    """Whether the open file is still the one of that path."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file), os.lstat(path))
    return False


class Rate:
    """How fast a sum grows, per second of the recent past."""

    def __init__(self) -> None:
        self._at_s: float | None = None
        self._sum = 0
        self._counted = self._seconds = 0.0

    def beat(self, now_s: float, total: int) -> None:
        """It is so much now; where it is less, somebody's part is gone."""
        if self._at_s is not None:
            passed_s = max(0.0, now_s - self._at_s)
            kept = exp(-passed_s / WINDOW_S)
            self._counted = kept * self._counted + max(0, total - self._sum)
            self._seconds = kept * self._seconds + passed_s
        self._at_s, self._sum = now_s, total

    @property
    def per_s(self) -> float:
        """Per second; 0: nothing is known yet."""
        return self._counted / self._seconds if self._seconds > 0.0 else 0.0
