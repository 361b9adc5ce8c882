"""`Engines`: the replicas of a run as compiled code holds them, from their start to their records."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from fluidgate.arrays import NONE, IntArray
from fluidgate.engine.compiled import DECISIONS, load_program, new_params
from fluidgate.engine.config import EngineConfig
from fluidgate.engine.kv_cache import Cache
from fluidgate.engine.layout import State
from fluidgate.engine.records import FleetRecords, RunRecords
from fluidgate.engine.replicas import replica_cache, replica_state, rows_of, stacked, summed
from fluidgate.engine.run import Progress, records_of, reporter, run_to_end
from fluidgate.engine.state import new_log, new_state
from fluidgate.hardware import Hardware
from fluidgate.kernel import interpreted
from fluidgate.policies import Policy
from fluidgate.workload import Workload

_replica_state, _replica_cache = interpreted(replica_state), interpreted(replica_cache)


class Engines:
    """Engines side by side that share the rows of one workload; none was sent a request yet.

    `sent_later`: when a request comes to an engine is decided as the run goes; until then it is NaN.

    Attributes:
        workload: the requests that the model takes.
        states, caches, memories: what the program runs on, by replica.
        policy_arguments: of the loop and of the routers, before the memory.

    Raises:
        InputError: as `run` does.
    """

    def __init__(
        self,
        workload: Workload,
        hardware: Hardware,
        policy: Policy,
        config: EngineConfig | None,
        replicas: int,
        *,
        compile: bool,
        progress: Progress | None,
        sent_later: bool = False,
    ) -> None:
        config = replace((config or EngineConfig()).on(hardware), **policy.engine_settings)
        self.workload = workload = workload.within(config.max_model_len)
        longest = int((workload.prompt_tokens + workload.output_tokens).max())
        self.config = replace(config, max_num_batched_tokens=config.token_budget(longest))  # the same in every replica
        self.hardware, self.policy = hardware, policy
        state, cache = new_state(workload, hardware, self.config, policy, replicas=replicas)
        if sent_later:
            state = state._replace(arrival_s=np.full(len(workload), np.nan))
        self._settled, self.caches = stacked(state, cache, replicas)
        self.memories = np.stack([policy.new_memory() for _ in range(replicas)])
        self.program = load_program(policy, compile=compile)
        self.states = self.program.live(self._settled)
        self.policy_arguments = (*self.program.decisions, self.program.hooks, new_params(policy))
        self.log = new_log(1, 1)
        self._report = reporter(progress, len(workload))

    def __len__(self) -> int:
        return len(self.memories)

    def engine(self, k: int) -> tuple[State, Cache]:
        """State and KV cache of one replica, as views."""
        return _replica_state(self.states, k), _replica_cache(self.caches, k)

    def quick_arguments(self) -> tuple[Any, ...]:
        """`policy_arguments` with which the loop is called many times faster; for policies that decide little."""
        if self.program.is_interpreted:
            return self.policy_arguments
        from fluidgate.engine.machine_code import Placed

        return (*map(Placed, self.program.decisions, DECISIONS), *self.policy_arguments[len(DECISIONS) :])

    def report(self) -> None:
        """Tell the progress of all of them."""
        self._report(sum(int(run[0].finished_requests + run[0].aborted_requests) for run in self.states.run))

    def drain(self, k: int) -> bool:
        """Run replica `k` to its end, now that no more requests are sent there; whether it stalled."""

        def report_all(_: int) -> None:
            self.report()

        state, cache = self.engine(k)
        return run_to_end(self.program, self.policy, state, cache, self.log, self.memories[k], report_all)[1]

    def settled(self) -> State:
        """The state of all engines, as arrays."""
        self.program.settle(self.states, self._settled)
        return self._settled

    def records(self, router: str, order: IntArray, to: IntArray) -> FleetRecords:
        """Drain them all, and read off what they did.

        Args:
            order, to: rows in order of sending, and the replica of each.
        """
        stalled = [self.drain(k) for k in range(len(self))]
        states, workload = self.settled(), self.workload
        about = self.hardware, self.config, self.policy
        runs: list[RunRecords | None] = [None] * len(self)
        for k in np.unique(to):
            rows = order[to == k]
            part = workload.reordered(rows, states.arrival_s[rows]).as_open_loop()
            part_state = rows_of(_replica_state(states, k), rows)
            runs[k] = records_of(part, *about, part_state, steps=None, stalled=stalled[k])
        whole = records_of(workload, *about, summed(states), steps=None, stalled=any(stalled))
        replica = np.full(len(workload), NONE, np.int64)
        replica[order] = to
        return FleetRecords(**vars(whole), router=router, replica=replica, runs=tuple(runs))
