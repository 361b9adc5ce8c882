"""From a policy to callables for the step loop: compiled once for all policies, or interpreted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.engine import loop, routing
from fluidgate.engine.layout import State
from fluidgate.engine.objects import with_objects, write_back
from fluidgate.engine.policy_hooks import (
    HAS_ADMIT,
    HAS_ADVANCE,
    HAS_CLASSIFY,
    HAS_OBSERVE,
    HAS_RANK,
    HAS_SHED,
    REFUSALS_STAND,
)
from fluidgate.kernel import interpreted
from fluidgate.policies import Policy

DECISIONS = ("classify", "rank", "admit", "advance", "shed", "observe")
HOOKS = (HAS_CLASSIFY, HAS_RANK, HAS_ADMIT, HAS_ADVANCE, HAS_SHED, HAS_OBSERVE)


def _no_classify(params: Any, request: Any) -> int:
    return 0


def _no_rank(params: Any, request: Any) -> float:
    return 0.0


def _no_decision(params: Any, memory: Any, view: Any, out: Any) -> float:
    return np.inf


def _no_observe(params: Any, memory: Any, event: Any) -> None:
    return None


PLACEHOLDERS: tuple[Callable[..., Any], ...] = (
    _no_classify,
    _no_rank,
    *3 * (_no_decision,),
    _no_observe,
)


@dataclass(frozen=True)
class Program:
    """The step loop, the router around it, and a policy's decision functions, ready to call.

    `route` and `route_closed` are functions that load a router, which a single engine does not need. An interpreted
    program runs on the state that `live` gives, and `settle` brings the other one up to it.
    """

    run_loop: Callable[..., int]
    route: Callable[[], Callable[..., bool]]
    route_closed: Callable[[], Callable[..., int]]
    decisions: tuple[Callable[..., Any], ...]
    hooks: int
    is_interpreted: bool = False

    def live(self, state: State) -> State:
        """The state as the program runs on it."""
        return with_objects(state) if self.is_interpreted else state

    def settle(self, live: State, state: State) -> None:
        """Bring `state` up to what the program made of `live`."""
        if self.is_interpreted:
            write_back(live, state)


def load_program(policy: Policy, *, compile: bool = True) -> Program:
    """The loop with `policy`; `compile=False` runs the same source in the interpreter, with the same results.

    Raises:
        InputError: numba cannot compile one of the policy's functions; the message gives its line and numba's reason.
    """
    own = [getattr(type(policy), name) if name != "shed" or policy.sheds else None for name in DECISIONS]
    hooks = sum(bit for bit, function in zip(HOOKS, own, strict=True) if function is not None)
    hooks += REFUSALS_STAND if policy.refusals_stand and not policy.sheds else 0  # time passes for who waits
    functions = [function or none for function, none in zip(own, PLACEHOLDERS, strict=True)]
    if not compile or _numba_is_off():
        plain = tuple(interpreted(f) for f in functions)
        route, route_closed = (partial(interpreted, router) for router in (routing.route, routing.route_closed))
        return Program(interpreted(loop.run_loop), route, route_closed, plain, hooks, is_interpreted=True)
    from fluidgate.engine import machine_code

    compiled = tuple(
        machine_code.compiled_decision(function, name, policy)
        for function, name in zip(functions, DECISIONS, strict=True)
    )
    routers = machine_code.compiled_router, machine_code.compiled_closed_router
    return Program(machine_code.compiled_loop(), *routers, compiled, hooks)


def _numba_is_off() -> bool:
    import numba

    return bool(numba.config.DISABLE_JIT)


def new_params(policy: Policy) -> FloatArray:
    """The policy's parameters as the loop takes them: at least one value, contiguous."""
    packed = policy.pack()
    return packed if len(packed) else np.zeros(1)
