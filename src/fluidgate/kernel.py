"""Compiled functions: one decorator for each use, and one way to run them uncompiled."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numba
from numba.core.registry import CPUDispatcher

from fluidgate.code_cache import CodeCache

F = TypeVar("F", bound=Callable[..., Any])


def entry_kernel(function: F) -> F:
    """A kernel that Python calls. Compiled on first use; the machine code is kept in `cache_folder()`."""
    return _compiled_on_use(function)


def kernel(function: F) -> F:
    """A kernel that other kernels call; leaving out the way in from Python halves the time to compile."""
    return _compiled_on_use(function, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def inlined_kernel(function: F) -> F:
    """A kernel that becomes part of its callers: passing it the engine's state would cost more than its work."""
    return _compiled_on_use(function, no_cpython_wrapper=True, no_cfunc_wrapper=True, forceinline=True)


def _compiled_on_use(function: F, **options: bool) -> F:
    # Kernels allocate nothing, so they need no reference counts, which would cost several times their work.
    dispatcher = numba.njit(error_model="numpy", _nrt=False, **options)(function)
    if isinstance(dispatcher, CPUDispatcher):  # it is the function itself where numba is switched off
        dispatcher._cache = CodeCache(function)
    return dispatcher  # type: ignore[no-any-return]


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
