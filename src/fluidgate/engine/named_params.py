"""`params.share` in compiled code: the type of a policy's parameters knows their names, which cost nothing in a run."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numba
from numba import types
from numba.core.imputils import impl_ret_borrowed
from numba.core.registry import CPUDispatcher
from numba.extending import intrinsic, models, overload_attribute, register_model

from fluidgate.kernel import Kernel
from fluidgate.policies.params import Place, Places


@cache
def compiled_by_name(function: Callable[..., Any], signature: Any, places: Places) -> CPUDispatcher:
    """`function` compiled so that its first argument has named parts, behind the signature without names."""
    named = _type_of(places)
    if isinstance(function, Kernel):
        function = function.dispatcher
    lean = numba.njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
    callee = function if isinstance(function, CPUDispatcher) else lean(function)
    callee.compile(signature.return_type(named, *signature.args[1:]))
    caller = numba.njit(error_model="numpy")(_caller(callee, _as_type(named), len(signature.args)))
    caller.compile(signature)
    return caller


def _caller(function: Any, named: Any, num_arguments: int) -> Callable[..., Any]:
    """Numba compiles no `*arguments` to a signature that spells them out."""
    callers: dict[int, Callable[..., Any]] = {
        2: lambda params, request: function(named(params), request),
        3: lambda params, memory, event: function(named(params), memory, event),
        4: lambda params, memory, view, out: function(named(params), memory, view, out),
    }
    return callers[num_arguments]


@cache
def _type_of(places: Places) -> types.Array:
    """An array's type with attributes more; its own class, as numba looks attributes up by class."""
    kind = type("NamedParams", (types.Array,), {})
    register_model(kind)(models.ArrayModel)
    for name, place in places:
        overload_attribute(kind, name)(_getter(place))
    return kind(types.float64, 1, "C", name=f"params({', '.join(name for name, _ in places)})")


def _getter(place: Place) -> Callable[..., Any]:
    if isinstance(place, int):
        return lambda params: lambda params: params[place]
    start, stop = place
    return lambda params: lambda params: params[start:stop]


def _as_type(named: types.Array) -> Any:
    """A function of compiled code that gives an array the other type; both have the same parts in memory."""

    @intrinsic  # type: ignore[untyped-decorator]
    def as_named(_typing: Any, params: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return impl_ret_borrowed(context, builder, signature.return_type, arguments[0])

        return named(params), generate

    return as_named
