"""`run_fleet`: a workload through several replicas of an engine behind a router."""

from __future__ import annotations

import numpy as np

from fluidgate.arrays import NONE, IntArray
from fluidgate.engine.config import EngineConfig
from fluidgate.engine.engines import Engines
from fluidgate.engine.records import FleetRecords
from fluidgate.engine.routing import Fleet, Turns, turns_of
from fluidgate.engine.run import Progress, refuse_class
from fluidgate.hardware import Hardware
from fluidgate.policies import Policy
from fluidgate.workload import Workload

REQUESTS_PER_CALL = 10_000
"""How often routing comes back from compiled code, to report progress and to notice Ctrl-C."""


def run_fleet(
    workload: Workload,
    hardware: Hardware,
    policy: Policy,
    fleet: Fleet,
    config: EngineConfig | None = None,
    *,
    compile: bool = True,
    progress: Progress | None = None,
) -> FleetRecords:
    """Simulate `workload` on the replicas of `fleet`, each on `hardware` under a `policy` of its own.

    Every replica gives, to the bit, what `run` gives for its requests alone.

    Args:
        compile, progress: as in `run`.

    Raises:
        InputError, Stalled: as `run` does.
    """
    engines = Engines(workload, hardware, policy, config, fleet.replicas, compile=compile, progress=progress)
    turns = turns_of(fleet, engines.workload)
    if engines.workload.is_closed:
        return engines.records(fleet.router, *_route_closed(engines, turns))
    n = len(engines.workload)
    replica = np.full(n, NONE, np.int64)
    send(engines, turns, replica, 0, n)
    return engines.records(fleet.router, np.arange(n), replica)


def send(engines: Engines, turns: Turns, replica: IntArray, start: int, stop: int) -> None:
    """Send rows `start` to `stop` of an open loop, and write the replica of each. They run only as far as it asks."""
    route = engines.program.route()
    for first in range(start, stop, REQUESTS_PER_CALL):
        to = replica[first : min(first + REQUESTS_PER_CALL, stop)]
        shared = engines.states, engines.caches, engines.log, *engines.policy_arguments, engines.memories
        if not route(*shared, turns, first, to):
            refuse_class(engines.states, engines.policy)
        engines.report()


def _route_closed(engines: Engines, turns: Turns) -> tuple[IntArray, IntArray]:
    """Rows in order of sending and the replica of each, where replies decide what is sent when.

    Those that are never sent are missing.
    """
    n, route = len(engines.workload), engines.program.route_closed()
    order, replica = np.full(n, NONE, np.int64), np.full(n, NONE, np.int64)
    ready = np.full(len(engines), np.inf)
    shared = engines.states, engines.caches, engines.log, *engines.policy_arguments, engines.memories
    sent = 0
    while sent < n:
        room = slice(sent, sent + REQUESTS_PER_CALL)
        new = route(*shared, turns, sent, ready, order[room], replica[room])
        if new < 0:
            refuse_class(engines.states, engines.policy)
        engines.report()
        sent += new
        if new < len(order[room]) and sent < n:
            break
    return order[:sent], replica[:sent]
