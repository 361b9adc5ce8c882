"""Compiled functions: one decorator, one disk cache keyed by the sources, one way to run them uncompiled."""

from __future__ import annotations

import hashlib
import os
import types
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba.core.registry import CPUDispatcher

F = TypeVar("F", bound=Callable[..., Any])

_KERNEL_SOURCES = ("kernel.py", "hardware/*.py", "engine/*.py", "policies/*.py", "serving/books.py")


@cache
def cache_dir() -> Path:
    """Where machine code is kept: one folder per state of the sources.

    Numba's own cache looks only at the file of the function itself, so a change in a callee from another file
    would leave stale machine code running. A folder named by the hash of all kernel sources cannot be stale.
    """
    package = Path(__file__).parent
    digest = hashlib.sha256(f"numba {numba.__version__}".encode())
    for pattern in _KERNEL_SOURCES:
        for path in sorted(package.glob(pattern)):
            digest.update(path.read_bytes())
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("FLUIDGATE_CACHE_DIR") or Path(root, "fluidgate")) / digest.hexdigest()[:16]


def entry_kernel(function: F) -> F:
    """A kernel that Python calls. Compiled on first use; the machine code is kept in `cache_dir()`."""
    return _compiled_on_use(function)


def kernel(function: F) -> F:
    """A kernel that other kernels call; leaving out the way in from Python halves the time to compile."""
    return _compiled_on_use(function, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def inlined_kernel(function: F) -> F:
    """A kernel that becomes part of its callers: passing it the engine's state would cost more than its work."""
    return _compiled_on_use(function, no_cpython_wrapper=True, no_cfunc_wrapper=True, forceinline=True)


def _compiled_on_use(function: F, **options: bool) -> F:
    # Kernels allocate nothing, so they need no reference counts, which would cost several times their work.
    options |= {"_nrt": False}
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(cache_dir())  # read once, when the dispatcher is made
    try:
        return numba.njit(cache=True, error_model="numpy", **options)(function)  # type: ignore[no-any-return]
    except RuntimeError:  # no writable place for the cache: compile in memory
        return numba.njit(error_model="numpy", **options)(function)  # type: ignore[no-any-return]
    finally:
        numba.config.CACHE_DIR = before


def interpreted(
    function: Callable[..., Any], replaced: Mapping[str, Callable[..., Any]] | None = None
) -> Callable[..., Any]:
    """`function` and every kernel it calls, as plain Python: the same source, without compilation.

    Args:
        replaced: functions to call in place of kernels of these names.
    """
    done: dict[str, Any] = dict(replaced or {})

    def plain(kernel_or_function: Callable[..., Any]) -> Callable[..., Any]:
        name = kernel_or_function.__name__
        if name not in done:
            source = getattr(kernel_or_function, "py_func", kernel_or_function)
            scope = dict(source.__globals__)
            done[name] = types.FunctionType(source.__code__, scope, name, source.__defaults__, source.__closure__)
            for called in source.__code__.co_names:
                if isinstance(scope.get(called), CPUDispatcher) or called in done:
                    scope[called] = plain(scope[called])
        return done[name]  # type: ignore[no-any-return]

    return plain(function)
