"""Numba's dispatchers of kernels: what compiles them. Importing this module imports numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
from numba import types
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import FunctionPass, register_pass
from numba.core.registry import CPUDispatcher
from numba.core.typed_passes import NopythonTypeInference

from fluidgate.code_cache import CodeCache


class _PartLibrary(JITCodeLibrary):  # type: ignore[misc]
    """The code of a part: LLVM optimises and translates it once, with all that calls it, and not before as well."""

    def _optimize_functions(self, module: Any) -> None:
        module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalized = True


@register_pass(mutates_CFG=False, analysis_only=True)
class _LeaveToCaller(FunctionPass):  # type: ignore[misc]
    """Let the code go into a `_PartLibrary`, which Python has no way into."""

    _name = "leave_to_caller"

    def __init__(self) -> None:
        super().__init__()

    def run_pass(self, state: Any) -> bool:
        state.library = _PartLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        return False


class _PartCompiler(CompilerBase):  # type: ignore[misc]
    def define_pipelines(self) -> list[Any]:
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.add_pass_after(_LeaveToCaller, NopythonTypeInference)
        passes.finalize()
        return [passes]


class _Part(CPUDispatcher):  # type: ignore[misc]
    """A function that only compiled code calls. Nothing of it is kept."""

    def add_overload(self, compiled: Any) -> None:
        """Know the function by its description: it has no address."""
        self.targetctx.insert_user_function(compiled.fndesc, compiled.fndesc, [compiled.library])
        self.overloads[tuple(compiled.signature.args)] = compiled._replace(entry_point=compiled.fndesc)

    def get_call_template(self, args: Any, kws: Any) -> Any:
        """One version for all constants that are passed: LLVM sees them where it inlines."""
        return super().get_call_template(tuple(types.unliteral(argument) for argument in args), kws)


# Kernels allocate nothing, so they need no reference counts, which would cost several times their work.
_OPTIONS: dict[str, Any] = {"nopython": True, "error_model": "numpy", "_nrt": False}
_OPTIONS_OF_PARTS: dict[str, Any] = _OPTIONS | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def own_dispatcher(function: Callable[..., Any], cache: CodeCache | None, *, forceinline: bool) -> Any:
    """That of a function of this package: one that Python calls, whose code is kept in `cache`, or a part of others.

    It is the function itself where numba is switched off.
    """
    if numba.config.DISABLE_JIT:
        return function
    if cache is None:
        return _Part(
            function, targetoptions=_OPTIONS_OF_PARTS | {"forceinline": forceinline}, pipeline_class=_PartCompiler
        )
    dispatcher = CPUDispatcher(function, targetoptions=dict(_OPTIONS))
    dispatcher._cache = cache
    return dispatcher


def users_dispatcher(function: Callable[..., Any]) -> Any:
    """That of a user's function.

    It may allocate, and its callees and constants may come from any file, of which `CodeCache` knows nothing: code on
    disk would be stale after a change in one of them.
    """
    return numba.njit(error_model="numpy")(function)
