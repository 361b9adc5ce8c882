"""What the gate tells the API servers: one small file per engine, replaced as a whole and never locked."""

from __future__ import annotations

import logging
import math
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, TypeAdapter, ValidationError

from fluidgate.bounds import MAX_COUNT, MAX_RATE, MAX_SECONDS
from fluidgate.errors import InputError
from fluidgate.words import shown

logger = logging.getLogger("vllm.fluidgate")

FOLDER_VARIABLE = "FLUIDGATE_STATE_DIR"
NAME_VARIABLE = "FLUIDGATE_STATE"
"""Environment variables: the folder of the files, and a name that tells two servers on one machine apart."""

RECENT_SHEDS, MOST_SHEDS = 256, 2048
LONGEST_NAME = 300
"""Characters of a request's name that is told: vLLM takes ids of any length from clients."""
MOST_CLASSES = 256
STALE_S = 5.0
"""A busy engine that has written nothing for as long says nothing of now."""
SECONDS_BETWEEN_READS = 0.05
MAX_BYTES = 2**22
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Rate = Annotated[float, Field(ge=0, le=MAX_RATE)]
Seconds = Annotated[float, Field(ge=0, le=MAX_SECONDS)]
Name = Annotated[str, Field(max_length=200)]
Text = Annotated[str, Field(max_length=1000)]


@dataclass(frozen=True)
class GateState:
    """The gate of one engine, or of all engines of a server together.

    Attributes:
        written_s: `time.time()` of the engine; only its changes mean something elsewhere.
        starts_per_s: waiting requests that a full engine starts per second; 0: not known yet.
        boundary_per_s: stability boundary in requests per second; 0: not known.
        latest_start_s: by class, "" being the only one or the default, the age beyond which a request is not worth
            starting; None: no deadline.
        shed: requests shed since the start.
        recent_sheds: the last `RECENT_SHEDS` of them, after a burst up to `MOST_SHEDS`, as `request_id` and `reason`;
            written before they are answered.
    """

    policy: Name
    pid: Annotated[int, Field(ge=1, le=MAX_COUNT)]
    written_s: Seconds
    running: Count
    waiting: Count
    starts_per_s: Rate
    boundary_per_s: Rate
    arrivals_per_s: Rate
    latest_start_s: Annotated[dict[Name, Seconds | None], Field(max_length=MOST_CLASSES)] = field(default_factory=dict)
    shed: Count = 0
    recent_sheds: Annotated[list[dict[Name, Text]], Field(max_length=MOST_SHEDS)] = field(default_factory=list)

    __pydantic_config__: ClassVar[dict[str, bool]] = {"strict": True, "allow_inf_nan": False}

    @property
    def wait_s(self) -> float | None:
        """Until a request that comes now is started, in seconds; None: not known."""
        if self.waiting == 0:
            return 0.0
        return self.waiting / self.starts_per_s if self.starts_per_s > 0 else None

    @property
    def is_idle(self) -> bool:
        """Whether the engine has no work, and so no reason to write."""
        return self.running == 0 and self.waiting == 0


class StateWriter:
    """The engine's side.

    Args:
        rank: data-parallel rank of the engine.
        folder: of the files; None: as the environment says.
        name: of the server; None: as the environment says.
    """

    def __init__(self, rank: int = 0, folder: Path | None = None, name: str | None = None) -> None:
        self._rank, self._folder, self._name = rank, folder, name
        self._paths: tuple[str, str] | None = None
        self._failed = False

    def write(self, state: GateState) -> None:
        """Replace the file. Failures are logged, once until one succeeds, and never raised."""
        try:
            self._write(state)
        except Exception as problem:
            self._paths = None  # the folder may be gone
            if not self._failed:
                logger.warning("fluidgate: the API servers learn nothing of the gate: %s", problem)
            self._failed = True
        else:
            self._failed = False

    def _write(self, state: GateState) -> None:
        if self._paths is None:
            folder = self._folder or state_folder()
            make_private(folder)
            name = f"{self._name or state_name()}.{self._rank}.json"
            self._paths = str(folder / f"{name}.tmp"), str(folder / name)
        unfinished, path = self._paths
        out = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.write(out, _adapter().dump_json(state))  # a third of the time that `json` takes
        finally:
            os.close(out)
        os.replace(unfinished, path)


@dataclass
class _Seen:
    """The last version read of one engine's file, and the reader's clock when it had changed."""

    version: tuple[int, int, int]
    state: GateState
    changed_s: float


class _NoStateError(Exception):
    """Why nothing is known."""


class StateReader:
    """The API server's side.

    Args:
        folder, name: as for `StateWriter`.
        is_alive: whether a process of that number lives.

    Attributes:
        problem: why the last read gave None.
        checked_s: when the files were last looked at.
        unchanged_until_s: the look before the one that found the newest version: it was written after that.
    """

    def __init__(
        self, folder: Path | None = None, name: str | None = None, is_alive: Callable[[int], bool] | None = None
    ) -> None:
        self._folder, self._name = folder, name
        self._is_alive = is_alive or process_is_alive
        self._seen: dict[str, _Seen] = {}
        self._parts: list[GateState] = []
        self._state: GateState | None = None
        self.problem = "not looked for yet"
        self.checked_s = self.unchanged_until_s = -math.inf

    def where(self) -> tuple[Path, str]:
        """The folder, and the server's name.

        Raises:
            InputError: FLUIDGATE_STATE is no name.
        """
        return self._folder or state_folder(), self._name or state_name()

    def read(self, now_s: float, *, at_once: bool = False) -> GateState | None:
        """The engines' state at `now_s` of a clock that never jumps; None where nothing is known. Never raises.

        As long as nothing has changed it is the same object. Files are looked at every 50 ms at most, or `at_once`.
        """
        if not at_once and 0 <= now_s - self.checked_s < SECONDS_BETWEEN_READS:
            return self._state
        before, self.checked_s = self.checked_s, now_s
        try:
            parts = self._read_all(now_s)
        except (_NoStateError, InputError, OSError) as problem:
            self.problem, self._parts, self._state = str(problem), [], None
            return None
        if self._state is None or list(map(id, parts)) != list(map(id, self._parts)):
            self._parts, self._state, self.unchanged_until_s = parts, merged(parts), before
        return self._state

    def _read_all(self, now_s: float) -> list[GateState]:
        folder, name = self.where()
        check_private(folder)
        pattern = re.compile(rf"{re.escape(name)}\.\d{{1,6}}\.json")
        paths = sorted(entry.path for entry in os.scandir(folder) if pattern.fullmatch(entry.name))
        self._seen = {path: self._look(path, now_s) for path in paths}
        alive = {path: seen for path, seen in self._seen.items() if self._is_alive(seen.state.pid)}
        if not alive:
            raise _NoStateError(f"no living engine has written to {folder}")
        for path, seen in alive.items():
            if not seen.state.is_idle and now_s - seen.changed_s > STALE_S:
                raise _NoStateError(f"{path} has not changed for {STALE_S:g} s although the engine was busy")
        return [seen.state for seen in alive.values()]

    def _look(self, path: str, now_s: float) -> _Seen:
        """The file as it is, parsed only if it was replaced."""
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            facts = os.fstat(file)
            version = facts.st_ino, facts.st_mtime_ns, facts.st_size
            seen = self._seen.get(path)
            if seen is not None and seen.version == version:
                return seen
            if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_size > MAX_BYTES:
                raise _NoStateError(f"{path} is no file that an engine of this user has written; remove it")
            state = parsed(os.read(file, facts.st_size), path)
        finally:
            os.close(file)
        is_progress = seen is None or (seen.state.pid, seen.state.written_s) != (state.pid, state.written_s)
        return _Seen(version, state, now_s if is_progress or seen is None else seen.changed_s)


@cache
def _adapter() -> TypeAdapter[GateState]:
    return TypeAdapter(GateState)


def parsed(text: bytes, where: str) -> GateState:
    """The state in a file's text.

    Raises:
        _NoStateError: it is none.
    """
    try:
        return _adapter().validate_json(text)
    except ValidationError as problem:
        first = problem.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part)[:40] for part in first["loc"])
        raise _NoStateError(f"{where} is damaged, remove it: {place} {first['msg'][:100]}") from None


def merged(states: list[GateState]) -> GateState:
    """The state of all engines together; unknown where one is unknown, and a start is late where it is for all."""
    first, *rest = states
    if not rest:
        return first
    latest: dict[str, float | None] = {}
    for name in dict.fromkeys(name for state in states for name in state.latest_start_s):
        ages = [state.latest_start_s[name] for state in states if name in state.latest_start_s]
        known = [age for age in ages if age is not None]
        latest[name] = max(known) if len(known) == len(ages) else None
    return replace(
        first,
        written_s=max(state.written_s for state in states),
        running=sum(state.running for state in states),
        waiting=sum(state.waiting for state in states),
        starts_per_s=_sum_if_known(state.starts_per_s for state in states),
        boundary_per_s=_sum_if_known(state.boundary_per_s for state in states),
        arrivals_per_s=sum(state.arrivals_per_s for state in states),
        latest_start_s=latest,
        shed=sum(state.shed for state in states),
        recent_sheds=[shed for state in states for shed in state.recent_sheds],
    )


def _sum_if_known(rates: Iterable[float]) -> float:
    known = list(rates)
    return sum(known) if all(rate > 0 for rate in known) else 0.0


def state_name() -> str:
    """The server's name in the names of its files.

    Raises:
        InputError: FLUIDGATE_STATE is no name.
    """
    name = os.environ.get(NAME_VARIABLE, "server")
    if not _NAME.fullmatch(name):
        raise InputError(f"{NAME_VARIABLE} = {shown(name)} must be 1 to 64 letters, digits, - and _")
    return name


def state_folder() -> Path:
    """FLUIDGATE_STATE_DIR; without it a folder of this user, in memory where the system has such a place."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    if chosen:
        return Path(chosen)
    own = os.environ.get("XDG_RUNTIME_DIR")
    if own and os.path.isdir(own):
        return Path(own, "fluidgate")
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else tempfile.gettempdir()
    return Path(shared, f"fluidgate-{os.geteuid()}")


def make_private(folder: Path) -> None:
    """Make the folder, for this user alone, if there is none.

    Raises:
        InputError: others may write to it.
    """
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=True)
    check_private(folder)


def check_private(folder: Path) -> None:
    """Refuse a folder in which others could put files.

    Raises:
        InputError: it is another user's, or others may write to it.
        OSError: there is none.
    """
    facts = os.lstat(folder)
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mode & 0o022:
        raise InputError(
            f"{folder} must be a folder of this user to which nobody else may write; "
            f"remove it, or name another in {FOLDER_VARIABLE}"
        )


def process_is_alive(pid: int) -> bool:
    """Whether there is such a process, whoever's it is."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
