"""`CodeCache`: compiled kernels kept on disk, in a folder that only its owner can write.

Machine code is loaded by unpickling it, which runs whatever is in the file. So nothing is loaded from a folder that
others could have written to, and each file carries a digest of its content: a damaged one is compiled again.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

# Numba is imported where code is loaded or kept, by then the dispatcher has done so: other commands do without.
_KERNEL = re.compile(rb"\n@(?:(?:entry_|inlined_)?kernel|intrinsic|overload|register_pass)\b")
_IMPORT = re.compile(r"\nfrom (fluidgate[\w.]*) import (\([^)]*\)|.*)")
_STATES = re.compile(r"code-[0-9a-f]{16}")
_MAGIC = b"fluidgate compiled code 1\n"
KEPT_STATES = 2
UNUSED_S = 24 * 3600.0
"""States of other sources stay if they are among so many most recent ones, or were used within this time."""


def kernel_sources() -> dict[Path, bytes]:
    """The files that machine code depends on: those that define kernels or extend numba, and all that these import."""
    package = Path(__file__).parent
    path_of = {_module_name(path.relative_to(package).parts): path for path in package.rglob("*.py")}
    content = {module: path.read_bytes() for module, path in path_of.items()}
    ahead = [module for module, text in content.items() if _KERNEL.search(text)]
    sources: set[str] = set()
    while ahead:
        module = ahead.pop()
        if module in path_of and module not in sources:
            sources.add(module)
            for origin, names in _IMPORT.findall(content[module].decode("utf-8")):
                ahead += [origin, *(f"{origin}.{name}" for name in re.findall(r"\w+", names))]
    return {path_of[module]: content[module] for module in sorted(sources)}


def _module_name(parts: tuple[str, ...]) -> str:
    return ".".join(("fluidgate", *parts)).removesuffix(".py").removesuffix(".__init__")


_IMPORTED_NS = time.time_ns()


@cache
def _state_of_sources() -> str:
    """The name of the folder for code of these sources.

    Raises:
        _Edited: a file is not what was imported, and what is imported will be compiled.
    """
    import numba

    digest = hashlib.sha256(f"numba {numba.__version__}".encode())
    for path, content in kernel_sources().items():
        file = path.stat()
        if max(file.st_mtime_ns, file.st_ctime_ns) > _IMPORTED_NS:
            raise _Edited(f"{path} was changed after this process began")
        digest.update(content)
    return f"code-{digest.hexdigest()[:16]}"


@cache
def cache_folder() -> Path | None:
    """Where compiled code is kept: a folder for this state of the sources; None, and said, where there can be none.

    Numba's own cache looks only at the file of the function itself, so a change in a callee from another file
    would leave stale machine code running. A folder named by the hash of all kernel sources cannot be stale.
    """
    reason = "there is no folder for it"
    advice = "set FLUIDGATE_CACHE_DIR to a folder of your own"
    try:
        state = _state_of_sources()
        for root in _roots():
            try:
                return _made_private(root, state)
            except OSError as error:
                reason = f"{root}: {_reason(error)}"
    except _NotPrivate as error:
        reason = str(error)
    except _Edited as error:
        reason, advice = str(error), "start again"
    say(f"compiled code is not kept ({reason}); {advice}", once="folder")
    return None


class CodeCache:
    """The compiled code of one kernel, as numba's dispatcher asks for it. No failure here ends a command.

    There is one file for each signature. All that the code depends on is in its key, and the key in the file's name,
    so processes that start at once write equal files, each in one step.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._source = _digest_of_source(function)
        self._name = re.sub(r"[^\w.]", "", f"{function.__module__}.{function.__qualname__}")[:150]

    @property
    def cache_path(self) -> str | None:
        """The folder, for `dispatcher.stats`."""
        folder = cache_folder()
        return None if folder is None else str(folder)

    def files(self) -> list[Path]:
        """One for each signature that was compiled."""
        folder = cache_folder()
        return [] if folder is None else list(folder.glob(f"{self._name}-*.nbc"))

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """The compiled function; None where it must be compiled.

        Numba's own cache calls `target_context.refresh()` first, which imports all that numba can compile, and SciPy's
        linear algebra with it. Code that neither allocates nor counts references needs none of it to run, and numba
        calls that itself before it compiles.
        """
        folder = cache_folder()
        key = self._key(signature, target_context.codegen())
        if folder is None or key is None:
            return None
        path = folder / self._file_name(key)
        try:
            kept_key, compiled = pickle.loads(_read(path))
            return _rebuilt(target_context, *compiled) if kept_key == key else None
        except FileNotFoundError:
            return None
        except Exception as error:  # unpickling and linking fail in many ways; compiling again cures them all
            say(f"compiled code cannot be loaded ({path}: {_reason(error)}); compiling again", once="load")
            with suppress(OSError):
                path.unlink()
            return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Keep a compiled function."""
        from numba.core import serialize

        folder = cache_folder()
        if folder is None or compiled.lifted or compiled.library.has_dynamic_globals:
            return
        try:
            key = self._key(signature, compiled.codegen)
            if key is not None:
                _write(folder / self._file_name(key), serialize.dumps((key, compiled._reduce())))
        except Exception as error:  # a full disk, or a numba whose private names differ
            say(f"compiled code cannot be kept ({folder}: {_reason(error)}); the next start compiles", once="save")

    def flush(self) -> None:
        """Forget the code of all signatures."""
        for path in self.files():
            path.unlink(missing_ok=True)

    def _key(self, signature: Any, codegen: Any) -> tuple[Any, ...] | None:
        """What the code depends on beyond the sources of the package; None for a function that cannot be told apart."""
        function = self._function
        if self._source is None or function.__closure__:
            return None
        place = (function.__module__, function.__qualname__, function.__code__.co_firstlineno, self._source)
        return (*place, sys.implementation.cache_tag, codegen.magic_tuple(), signature)

    def _file_name(self, key: tuple[Any, ...]) -> str:
        return f"{self._name}-{hashlib.sha256(repr(key).encode()).hexdigest()[:20]}.nbc"


def _rebuilt(target_context: Any, library: tuple[Any, ...], function: Any, *rest: Any) -> Any:
    """The compiled function, from what `save_overload` kept.

    Beside the machine code lies the bitcode, for callers that are compiled later. To parse it takes longer than all the
    rest, and few commands compile a caller: it is parsed when one does. Until then a module stands for it that says no
    more than which functions there are.
    """
    from llvmlite import binding as llvm
    from numba.core.compiler import CompileResult

    name, kind, (machine_code, bitcode) = library
    entries = function.llvm_func_name, function.llvm_cpython_wrapper_name, function.llvm_cfunc_wrapper_name
    names = llvm.parse_assembly("\n".join(f'define void @"{entry}"() {{ ret void }}' for entry in entries)).as_bitcode()
    compiled = CompileResult._rebuild(target_context, (name, kind, (machine_code, names)), function, *rest)
    compiled.library._get_module_for_linking = cache(lambda: llvm.parse_bitcode(bitcode))
    return compiled


def is_kept(kernel: Any) -> bool:
    """Whether compiled code of a kernel is on disk."""
    kept = getattr(kernel, "cache", None)
    return isinstance(kept, CodeCache) and bool(kept.files())


def _digest_of_source(function: Callable[..., Any]) -> str | None:
    try:
        path = function.__code__.co_filename
        file = os.stat(path)
        return _digest_of_file(path, file.st_mtime_ns, file.st_size)
    except OSError:  # typed in, or made by a program
        return None


@cache
def _digest_of_file(path: str, mtime_ns: int, size: int) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _roots() -> Iterator[Path]:
    """The folder that the user names; without one, the usual place, and then one among temporary files."""
    if named := os.environ.get("FLUIDGATE_CACHE_DIR"):
        yield Path(os.path.realpath(named))
        return
    usual = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    if os.path.isabs(usual):  # without HOME and an entry in the password file, `~` stays as it is
        yield Path(os.path.realpath(usual), "fluidgate")
    with suppress(OSError):  # there may be no place for temporary files either
        yield Path(tempfile.gettempdir(), f"fluidgate-{_user()}")


def _user() -> int:
    return os.geteuid() if hasattr(os, "geteuid") else 0  # on Windows all files are of user 0


class _NotPrivate(Exception):
    """Others may have written what is in the folder."""


class _Edited(Exception):
    """The sources on disk are not those that were imported."""


def _made_private(root: Path, state: str) -> Path:
    folder = root / state
    root.parent.mkdir(parents=True, exist_ok=True)
    for made in (root, folder):
        is_new = not made.exists()
        made.mkdir(mode=0o700, exist_ok=True)
        _refuse_others(made)
    if is_new:
        _remove_old_states(root, state)
    with suppress(OSError):  # a read-only cache serves as well
        os.utime(folder)
    return folder


def _refuse_others(folder: Path) -> None:
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise _NotPrivate(f"{folder} is no folder")
    if status.st_uid != _user():
        raise _NotPrivate(f"{folder} belongs to another user")
    if os.name == "posix" and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise _NotPrivate(f"others can write to {folder}: delete it")


def _remove_old_states(root: Path, present: str) -> None:
    """A process that still uses one compiles what it does not find, and makes the folder again."""
    with suppress(OSError):
        others = [path for path in root.iterdir() if _STATES.fullmatch(path.name) and path.name != present]
        used_s = {path: path.stat().st_mtime for path in others}
        for path in sorted(others, key=used_s.__getitem__, reverse=True)[KEPT_STATES:]:
            if time.time() - used_s[path] > UNUSED_S:
                shutil.rmtree(path, ignore_errors=True)


def _read(path: Path) -> bytes:
    """What `_write` was given."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_uid != _user():
            raise ValueError("belongs to another user")
        head, content = file.read(len(_MAGIC) + hashlib.sha256().digest_size), file.read()
    if head != _MAGIC + hashlib.sha256(content).digest():
        raise ValueError("is damaged")
    return content


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_MAGIC + hashlib.sha256(content).digest() + content)
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).splitlines()[0][:100]


def _print(sentence: str, _once: str) -> None:
    print(f"fluidgate: {sentence}", file=sys.stderr, flush=True)


_SAID: set[str] = set()
_speak: Callable[[str, str], None] = _print


def say(sentence: str, once: str) -> None:
    """Say it on stderr; of the sentences with the same `once`, only the first in a run is said."""
    if once not in _SAID:
        _SAID.add(once)
        _speak(sentence, once)


def say_through(hand_on: Callable[[str, str], None]) -> None:
    """In a worker process: give what is said to `hand_on`, for the process that speaks for all workers."""
    global _speak
    _speak = hand_on
