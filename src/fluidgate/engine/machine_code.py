"""The machine code of the loop, the routers and a policy's decision functions. Importing this module imports numba."""

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
from numba.experimental.function_type import _get_wrapper_address

import fluidgate.engine.address_type  # noqa: F401  # teaches numba what `by_address` is
from fluidgate.code_cache import cache_folder, is_kept, say
from fluidgate.engine import loop, routing
from fluidgate.engine.compile_errors import compile_error
from fluidgate.engine.config import EngineConfig
from fluidgate.engine.named_params import compiled_by_name
from fluidgate.engine.policy_hooks import make_view
from fluidgate.engine.replicas import stacked
from fluidgate.engine.state import new_log, new_state
from fluidgate.errors import InputError
from fluidgate.hardware import Hardware, StepTime
from fluidgate.kernel import Kernel, entry_kernel, interpreted, is_own
from fluidgate.policies import Policy
from fluidgate.policies.params import places_of
from fluidgate.policies.protocol import Event, Request
from fluidgate.workload import Workload


@dataclass(frozen=True)
class _Signatures:
    decisions: dict[str, Any]
    run_loop: Any
    route: Any
    route_closed: Any


class _Knowing(Policy):
    needs_output_length = True


@cache
def _signatures() -> _Signatures:
    """Numba types of the decision functions and of the loop, read off a smallest possible run."""
    hardware = Hardware("types", StepTime(c0=1.0), num_gpu_blocks=2)
    workload = Workload(np.zeros(1), np.ones(1, np.int64), np.ones(1, np.int64))
    state, kv = new_state(workload, hardware, EngineConfig(), _Knowing())
    view = numba.typeof(interpreted(make_view)(state, kv))
    view = types.NamedTuple(tuple(_native(t) for t in view.types), view.instance_class)
    number, integer, nothing = types.float64, types.int64, types.none
    floats, ints = types.float64[::1], types.int64[::1]
    request = types.NamedTuple((integer, number, integer, integer, integer), Request)
    event = types.NamedTuple((integer, number, integer, number, integer, integer, integer, integer, integer), Event)
    decide = number(floats, floats, view, ints)
    decisions = {
        "classify": integer(floats, request),
        "rank": number(floats, request),
        "admit": decide,
        "advance": decide,
        "shed": decide,
        "observe": nothing(floats, floats, event),
    }
    log_and_policy = (
        numba.typeof(new_log(1, 1)),
        *(types.FunctionType(signature) for signature in decisions.values()),
        integer,
        floats,
    )
    run_loop = integer(numba.typeof(state), numba.typeof(kv), *log_and_policy, floats, integer, number)
    states, caches = stacked(state, kv, 1)
    turns = numba.typeof(routing.turns_of(routing.Fleet(), workload))
    route = types.boolean(
        *(numba.typeof(states), numba.typeof(caches), *log_and_policy, types.float64[:, ::1], turns),
        *(integer, ints),
    )
    route_closed = integer(*route.args[:-1], floats, ints, ints)
    return _Signatures(decisions, run_loop, route, route_closed)


def _native(numba_type: Any) -> Any:
    """The type a value has inside compiled code, where scalars are not numpy objects."""
    return types.int64 if isinstance(numba_type, types.Integer) else numba_type


@cache
def compiled_loop() -> Callable[..., int]:
    _announce("the engine", loop.run_loop)
    run_loop: Callable[..., int] = _compiled_for(loop.run_loop, _signatures().run_loop)
    return run_loop


@cache
def compiled_router() -> Callable[..., bool]:
    return _compiled_around_the_loop(routing.route, _signatures().route)  # type: ignore[no-any-return]


@cache
def compiled_closed_router() -> Callable[..., int]:
    return _compiled_around_the_loop(routing.route_closed, _signatures().route_closed)  # type: ignore[no-any-return]


def _compiled_around_the_loop(router: Any, signature: Any) -> Any:
    _announce("the router", router)
    compiled_loop()
    return _compiled_for(router, signature)


def _announce(what: str, kernel: Any) -> None:
    if not is_kept(kernel):
        once = "" if cache_folder() is None else ", once for this version"
        say(f"compiling {what}{once} (20 to 40 s) …", once=f"compiling {what}")


def _compiled_for(kernel: Any, signature: Any) -> Any:
    dispatcher = kernel.dispatcher
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", numba.core.errors.NumbaExperimentalFeatureWarning)
        dispatcher.compile(signature)
    dispatcher.disable_compile()  # arguments are converted to the one signature, never compiled for again
    return dispatcher


def compiled_decision(function: Callable[..., Any], name: str, policy: Policy) -> CPUDispatcher:
    """A policy's decision function, `name` in the protocol.

    Raises:
        InputError: numba cannot compile it.
    """
    signature = _signatures().decisions[name]
    dispatcher = _dispatcher(function)
    places = places_of(policy.pack())
    try:
        if places and not is_own(function):
            return compiled_by_name(function, signature, places)
        dispatcher.compile(signature)
    except Exception as error:  # numba raises its own errors, and others for what Python itself would refuse
        raise InputError(compile_error(error, policy.name, name, function)) from error
    return dispatcher


@cache
def _dispatcher(function: Any) -> CPUDispatcher:
    if isinstance(function, CPUDispatcher):
        return function
    kernel: Any = function if isinstance(function, Kernel) else entry_kernel(function)
    return kernel.dispatcher


class Placed(types.WrapperAddressProtocol):  # type: ignore[misc]  # numba has no types
    """A decision function whose address is looked up once: numba does so at every call, which takes a millisecond."""

    def __init__(self, decision: CPUDispatcher, name: str) -> None:
        signature = _signatures().decisions[name]
        self._signature, self._decision = signature, decision  # kept: the code lives as long as it does
        self._address = _get_wrapper_address(decision, signature)

    def __wrapper_address__(self) -> int:
        """Where its machine code is."""
        return int(self._address)

    def signature(self) -> Any:
        """The types that it takes and gives."""
        return self._signature
