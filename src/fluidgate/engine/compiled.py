"""From a policy to callables for the step loop: compiled once for all policies, or interpreted."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numba
import numpy as np
from numba import types
from numba.core.registry import CPUDispatcher

from fluidgate.arrays import FloatArray
from fluidgate.code_cache import cache_folder, is_kept, say
from fluidgate.engine import loop, routing
from fluidgate.engine.compile_errors import compile_error
from fluidgate.engine.config import EngineConfig
from fluidgate.engine.named_params import compiled_by_name
from fluidgate.engine.replicas import stacked
from fluidgate.engine.state import new_log, new_state
from fluidgate.errors import InputError
from fluidgate.hardware import Hardware, StepTime
from fluidgate.kernel import entry_kernel, interpreted, is_own
from fluidgate.policies import Policy
from fluidgate.policies.params import places_of
from fluidgate.policies.protocol import Event, Request
from fluidgate.workload import Workload

DECISIONS = ("classify", "rank", "admit", "advance", "observe")
HOOKS = (loop.HAS_CLASSIFY, loop.HAS_RANK, loop.HAS_ADMIT, loop.HAS_ADVANCE, loop.HAS_OBSERVE)


def _no_classify(params: Any, request: Any) -> int:
    return 0


def _no_rank(params: Any, request: Any) -> float:
    return 0.0


def _no_decision(params: Any, memory: Any, view: Any, out: Any) -> float:
    return np.inf


def _no_observe(params: Any, memory: Any, event: Any) -> None:
    return None


PLACEHOLDERS: tuple[Callable[..., Any], ...] = (_no_classify, _no_rank, _no_decision, _no_decision, _no_observe)


@dataclass(frozen=True)
class Program:
    """The step loop, the router around it, and a policy's decision functions, ready to call.

    `route` is a function that loads the router, which a single engine does not need.
    """

    run_loop: Callable[..., int]
    route: Callable[[], Callable[..., bool]]
    decisions: tuple[Callable[..., Any], ...]
    hooks: int


def load_program(policy: Policy, *, compile: bool = True) -> Program:
    """The loop with `policy`; `compile=False` runs the same source in the interpreter, with the same results.

    Raises:
        InputError: numba cannot compile one of the policy's functions; the message gives its line and numba's reason.
    """
    own = [getattr(type(policy), name) for name in DECISIONS]
    hooks = sum(bit for bit, function in zip(HOOKS, own, strict=True) if function is not None)
    functions = [function or none for function, none in zip(own, PLACEHOLDERS, strict=True)]
    if not compile or numba.config.DISABLE_JIT:
        plain = tuple(interpreted(f) for f in functions)
        return Program(interpreted(loop.run_loop), lambda: interpreted(routing.route), plain, hooks)
    signatures = _signatures()
    compiled = (
        _compile_decision(function, name, policy, signature)
        for function, name, signature in zip(functions, DECISIONS, signatures.decisions, strict=True)
    )
    return Program(_compiled_loop(), _compiled_router, tuple(compiled), hooks)


@dataclass(frozen=True)
class _Signatures:
    decisions: tuple[Any, ...]
    run_loop: Any
    route: Any


class _Knowing(Policy):
    needs_output_length = True


@cache
def _signatures() -> _Signatures:
    """Numba types of the decision functions and of the loop, read off a smallest possible run."""
    hardware = Hardware("types", StepTime(c0=1.0), num_gpu_blocks=2)
    workload = Workload(np.zeros(1), np.ones(1, np.int64), np.ones(1, np.int64))
    state, kv = new_state(workload, hardware, EngineConfig(), _Knowing())
    view = numba.typeof(interpreted(loop.make_view)(state, kv))
    view = types.NamedTuple(tuple(_native(t) for t in view.types), view.instance_class)
    number, integer, nothing = types.float64, types.int64, types.none
    floats, ints = types.float64[::1], types.int64[::1]
    request = types.NamedTuple((integer, number, integer, integer, integer), Request)
    event = types.NamedTuple((integer, number, integer, number, integer, integer, integer, integer, integer), Event)
    decide = number(floats, floats, view, ints)
    decisions = (
        integer(floats, request),
        number(floats, request),
        decide,
        decide,
        nothing(floats, floats, event),
    )
    log_and_policy = (
        numba.typeof(new_log(1, 1)),
        *(types.FunctionType(signature) for signature in decisions),
        integer,
        floats,
    )
    run_loop = integer(numba.typeof(state), numba.typeof(kv), *log_and_policy, floats, integer, number)
    states, caches = stacked(state, kv, 1)
    turns = numba.typeof(routing.turns_of(routing.Fleet(), 1))
    route = types.boolean(
        *(numba.typeof(states), numba.typeof(caches), *log_and_policy, types.float64[:, ::1], turns),
        *(integer, ints, ints),
    )
    return _Signatures(decisions, run_loop, route)


def _native(numba_type: Any) -> Any:
    """The type a value has inside compiled code, where scalars are not numpy objects."""
    return types.int64 if isinstance(numba_type, types.Integer) else numba_type


@cache
def _compiled_loop() -> Callable[..., int]:
    _announce("the engine", loop.run_loop)
    run_loop: Callable[..., int] = _compiled_for(loop.run_loop, _signatures().run_loop)
    return run_loop


@cache
def _compiled_router() -> Callable[..., bool]:
    _announce("the router", routing.route)
    _compiled_loop()
    route: Callable[..., bool] = _compiled_for(routing.route, _signatures().route)
    return route


def _announce(what: str, kernel: Any) -> None:
    if not is_kept(kernel):
        once = "" if cache_folder() is None else ", once for this version"
        say(f"compiling {what}{once} (10 to 20 s) …", once=f"compiling {what}")


def _compiled_for(function: Any, signature: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", numba.core.errors.NumbaExperimentalFeatureWarning)
        function.compile(signature)
    function.disable_compile()  # arguments are converted to the one signature, never compiled for again
    return function


@cache
def _dispatcher(function: Callable[..., Any]) -> CPUDispatcher:
    return function if isinstance(function, CPUDispatcher) else entry_kernel(function)


def _compile_decision(function: Callable[..., Any], name: str, policy: Policy, signature: Any) -> Any:
    dispatcher = _dispatcher(function)
    places = places_of(policy.pack())
    try:
        if places and not is_own(function):
            return compiled_by_name(function, signature, places)
        dispatcher.compile(signature)
    except Exception as error:  # numba raises its own errors, and others for what Python itself would refuse
        raise InputError(compile_error(error, policy.name, name, function)) from error
    return dispatcher


def new_params(policy: Policy) -> FloatArray:
    """The policy's parameters as the loop takes them: at least one value, contiguous."""
    packed = policy.pack()
    return packed if len(packed) else np.zeros(1)
