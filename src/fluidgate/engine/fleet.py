"""`run_fleet`: a workload through several replicas of an engine behind a router."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from fluidgate.arrays import NONE, FloatArray, IntArray
from fluidgate.engine.compiled import Program, load_program, new_params
from fluidgate.engine.config import EngineConfig
from fluidgate.engine.kv_cache import Cache
from fluidgate.engine.records import FleetRecords, RunRecords
from fluidgate.engine.replicas import replica_cache, replica_state, rows_of, stacked, summed
from fluidgate.engine.routing import Fleet, turns_of
from fluidgate.engine.run import Progress, records_of, refuse_class, reporter, run_to_end
from fluidgate.engine.state import FINISHED_REQUESTS, State, new_log, new_state
from fluidgate.hardware import Hardware
from fluidgate.kernel import interpreted
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
    config = replace((config or EngineConfig()).on(hardware), **policy.engine_settings)
    workload = workload.within(config.max_model_len)
    longest = int((workload.prompt_tokens + workload.output_tokens).max())
    config = replace(config, max_num_batched_tokens=config.token_budget(longest))  # the same in every replica
    state, cache = new_state(workload, hardware, config, policy, replicas=fleet.replicas)
    states, caches = stacked(state, cache, fleet.replicas)
    memories = np.stack([policy.new_memory() for _ in range(fleet.replicas)])
    program = load_program(policy, compile=compile)
    report = reporter(progress, len(workload))
    replica = _route(program, policy, fleet, states, caches, memories, report)
    stalled = [_drain(program, policy, k, states, caches, memories, report) for k in range(fleet.replicas)]
    runs: list[RunRecords | None] = [None] * fleet.replicas
    for k in np.unique(replica):
        rows = np.flatnonzero(replica == k)
        part = workload.reordered(rows, workload.arrival_s[rows])
        part_state = rows_of(_replica_state(states, k), rows)
        runs[k] = records_of(part, hardware, config, policy, part_state, steps=None, stalled=stalled[k])
    whole = records_of(workload, hardware, config, policy, summed(states), steps=None, stalled=any(stalled))
    return FleetRecords(**vars(whole), router=fleet.router, replica=replica, runs=tuple(runs))


_replica_state, _replica_cache = interpreted(replica_state), interpreted(replica_cache)


def _route(
    program: Program,
    policy: Policy,
    fleet: Fleet,
    states: State,
    caches: Cache,
    memories: FloatArray,
    report: Callable[[int], None],
) -> IntArray:
    """Send every request to a replica: which one, shape (n,). The replicas run only as far as the router asks."""
    n, route = len(states.arrival_s), program.route()
    replica, last_sent = np.full(n, NONE, np.int64), np.full(fleet.replicas, NONE, np.int64)
    policy_arguments = (*program.decisions, program.hooks, new_params(policy), memories)
    turns, log = turns_of(fleet, n), new_log(1, 1)
    for start in range(0, n, REQUESTS_PER_CALL):
        to = replica[start : start + REQUESTS_PER_CALL]
        if not route(states, caches, log, *policy_arguments, turns, start, last_sent, to):
            refuse_class(states, policy)
        report(int(states.counter[:, FINISHED_REQUESTS].sum()))
    return replica


def _drain(
    program: Program,
    policy: Policy,
    k: int,
    states: State,
    caches: Cache,
    memories: FloatArray,
    report: Callable[[int], None],
) -> bool:
    """Run replica `k` to its end, now that no more requests are sent there; whether it stalled."""
    state, cache = _replica_state(states, k), _replica_cache(caches, k)

    def report_all(_: int) -> None:
        report(int(states.counter[:, FINISHED_REQUESTS].sum()))

    return run_to_end(program, policy, state, cache, new_log(1, 1), memories[k], report_all)[1]
