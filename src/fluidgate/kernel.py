"""Compiled functions: `kernel`, for helpers of a policy, and what the engine itself needs beside it."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from fluidgate.code_cache import CodeCache

__all__ = ["kernel"]

F = TypeVar("F", bound=Callable[..., Any])


def entry_kernel(function: F) -> F:
    """A kernel that Python calls. Compiled on first use; the machine code is kept in `cache_folder()`."""
    return cast(F, Kernel(function, CodeCache(function) if is_own(function) else None))


def kernel(function: F) -> F:
    """Decorator of a helper function that a policy's decision functions, or other helpers, call.

    It is compiled with its caller, and runs as plain Python where its caller does. Numbers, arrays, tuples of them and
    loops compile. A helper outside this package can be called from Python too, and its machine code is never kept.
    """
    return cast(F, Kernel(function))


def inlined_kernel(function: F) -> F:
    """A kernel that becomes part of its callers: passing it the engine's state would cost more than its work."""
    return cast(F, Kernel(function, forceinline=True))


class Kernel:
    """A function that numba compiles when it is called, or when a function that calls it is compiled.

    Numba is imported then, not before: that takes as long as a plan. To numba it is what its `dispatcher` is.
    """

    def __init__(
        self, function: Callable[..., Any], cache: CodeCache | None = None, *, forceinline: bool = False
    ) -> None:
        functools.update_wrapper(self, function)
        self.py_func = function
        self.cache = cache
        self._forceinline = forceinline

    @functools.cached_property
    def dispatcher(self) -> Any:
        """Numba's dispatcher of the function; the function itself where numba is switched off."""
        from fluidgate.dispatchers import own_dispatcher, users_dispatcher

        if not is_own(self.py_func):
            return users_dispatcher(self.py_func)
        return own_dispatcher(self.py_func, self.cache, forceinline=self._forceinline)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self.dispatcher(*arguments, **named)

    @property
    def _numba_type_(self) -> Any:
        """By this name numba asks a value for its type; so does it with its own dispatchers."""
        return self.dispatcher._numba_type_


def is_own(function: Callable[..., Any]) -> bool:
    """Whether a function is part of this package."""
    return (function.__module__ or "").startswith("fluidgate.")


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
                if hasattr(scope.get(name), "py_func") or scope.get(name) in made:
                    scope[name] = as_python(scope[name])
        return made[source]

    plain = as_python(function)
    for kernel in replaced or {}:
        if _source(kernel) not in met:
            raise ValueError(f"{function.__name__} never calls {kernel.__name__}, which was to be replaced")
    return plain


def _source(function: Any) -> Any:
    """The Python function behind a kernel, or behind a function that numba compiles; or the function itself."""
    return getattr(function, "py_func", function)
