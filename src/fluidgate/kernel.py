"""Compiled functions: `kernel`, for helpers of a policy, and what the engine itself needs beside it."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numba
from numba.core.registry import CPUDispatcher

from fluidgate.code_cache import CodeCache

__all__ = ["kernel"]

F = TypeVar("F", bound=Callable[..., Any])


def entry_kernel(function: F) -> F:
    """A kernel that Python calls. Compiled on first use; the machine code is kept in `cache_folder()`."""
    return _compiled_on_use(function)


def kernel(function: F) -> F:
    """Decorator of a helper function that a policy's decision functions, or other helpers, call.

    It is compiled with its caller, and runs as plain Python where its caller does. Numbers, arrays, tuples of them and
    loops compile. A helper outside this package can be called from Python too, and its machine code is never kept.
    """
    # Within the package only kernels call it; leaving out the way in from Python halves the time to compile.
    return _compiled_on_use(function, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def inlined_kernel(function: F) -> F:
    """A kernel that becomes part of its callers: passing it the engine's state would cost more than its work."""
    return _compiled_on_use(function, no_cpython_wrapper=True, no_cfunc_wrapper=True, forceinline=True)


def is_own(function: Callable[..., Any]) -> bool:
    """Whether a function is part of this package."""
    return (function.__module__ or "").startswith("fluidgate.")


def _compiled_on_use(function: F, **options: bool) -> F:
    if not is_own(function):
        # A user's kernel may allocate, and its callees and constants may come from any file, of which `CodeCache` knows
        # nothing: code on disk would be stale after a change in one of them.
        return numba.njit(error_model="numpy")(function)  # type: ignore[no-any-return]
    # Kernels allocate nothing, so they need no reference counts, which would cost several times their work.
    dispatcher = numba.njit(error_model="numpy", _nrt=False, **options)(function)
    if isinstance(dispatcher, CPUDispatcher):  # it is the function itself where numba is switched off
        dispatcher._cache = CodeCache(function)
    return dispatcher  # type: ignore[no-any-return]


def interpreted(
    function: Callable[..., Any], replaced: Mapping[Callable[..., Any], Callable[..., Any]] | None = None
) -> Callable[..., Any]:
    """`function` and every kernel it calls, as plain Python: the same source, without compilation.

    Args:
        replaced: functions to call in place of kernels.

    Raises:
        ValueError: a kernel is to be replaced that `function` does not call.
    """
    made: dict[Any, Callable[..., Any]] = {_source(kernel): other for kernel, other in (replaced or {}).items()}
    met: set[Any] = set()

    def as_python(called: Callable[..., Any]) -> Callable[..., Any]:
        source = _source(called)
        met.add(source)
        if source not in made:
            scope = dict(source.__globals__)
            name, defaults, closure = source.__name__, source.__defaults__, source.__closure__
            made[source] = types.FunctionType(source.__code__, scope, name, defaults, closure)
            for name in source.__code__.co_names:
                if isinstance(scope.get(name), CPUDispatcher) or _source(scope.get(name)) in made:
                    scope[name] = as_python(scope[name])
        return made[source]

    plain = as_python(function)
    for kernel in replaced or {}:
        if _source(kernel) not in met:
            raise ValueError(f"{function.__name__} never calls {kernel.__name__}, which was to be replaced")
    return plain


def _source(function: Any) -> Any:
    """The Python function behind a kernel, or the function itself."""
    return getattr(function, "py_func", function)
