"""`run`: simulate a workload through the engine under a policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, NoReturn

import numpy as np

from fluidgate.arrays import FloatArray, IntArray
from fluidgate.engine import layout, loop
from fluidgate.engine.compiled import Program, load_program, new_params
from fluidgate.engine.config import EngineConfig
from fluidgate.engine.decode_group import dissolve_group
from fluidgate.engine.kv_cache import Cache
from fluidgate.engine.layout import Log, State
from fluidgate.engine.records import RunRecords, StepRecords
from fluidgate.engine.refusals import refuse_coarse_clock
from fluidgate.engine.state import new_log, new_state
from fluidgate.engine.step import end_residency
from fluidgate.errors import InputError, Stalled
from fluidgate.hardware import Hardware
from fluidgate.kernel import interpreted
from fluidgate.policies import Policy
from fluidgate.workload import Workload

Progress = Callable[[int, int], None]
Record = Literal["requests", "steps", "decisions"]
_LOG_LEVEL = {"requests": layout.LOG_NOTHING, "steps": layout.LOG_STEP, "decisions": layout.LOG_DECISIONS}

ITERATIONS_PER_CALL = 200_000
"""How often a long run comes back from compiled code, to report progress and to notice Ctrl-C."""


def run(
    workload: Workload,
    hardware: Hardware,
    policy: Policy,
    config: EngineConfig | None = None,
    *,
    record: Record = "requests",
    compile: bool = True,
    progress: Progress | None = None,
) -> RunRecords:
    """Simulate `workload` on `hardware` under `policy`; equal inputs give equal bits.

    Requests that are too long for the model are the `refused` of the records' workload.

    Args:
        record: `requests` keeps per-request records and totals, `steps` adds one row per iteration, `decisions`
            also every batch and every victim.
        compile: False runs the same source in the interpreter: slow, for debugging, with the same results.
        progress: called now and then with (requests finished, requests in all).

    Raises:
        InputError: a request that can never fit, none that the model takes, settings that cannot work, or a class the
            policy does not have.
        Stalled: the policy holds requests forever, or lets them evict each other forever.
    """
    config = (config or EngineConfig()).on(hardware)
    workload = workload.within(config.max_model_len)
    program = load_program(policy, compile=compile)
    return run_program(program, workload, hardware, policy, config, record=record, progress=progress)


def run_program(
    program: Program,
    workload: Workload,
    hardware: Hardware,
    policy: Policy,
    config: EngineConfig,
    *,
    record: Record,
    progress: Progress | None,
    iterations_per_call: int = ITERATIONS_PER_CALL,
    walked: bool = False,
) -> RunRecords:
    """`run` with a step loop that is loaded already, the settings in force, and only requests that are taken."""
    config = replace(config, **policy.engine_settings)
    state, cache = new_state(workload, hardware, config, policy, log_level=_LOG_LEVEL[record], walked=walked)
    log = new_log(1, 1) if record == "requests" else new_log(4096, 4096 + 64 * len(state.free_slots))
    report = reporter(progress, len(workload))
    live = program.live(state)
    log, stalled = run_to_end(program, policy, live, cache, log, policy.new_memory(), report, iterations_per_call)
    program.settle(live, state)
    steps = None if record == "requests" else _step_records(state, log)
    return records_of(workload, hardware, config, policy, state, steps=steps, stalled=stalled)


def reporter(progress: Progress | None, requests: int) -> Callable[[int], None]:
    """A function that passes the number of finished requests on to `progress`."""

    def report(finished: int) -> None:
        if progress is not None:
            progress(finished, requests)

    return report


def run_to_end(
    program: Program,
    policy: Policy,
    state: State,
    cache: Cache,
    log: Log,
    memory: FloatArray,
    report: Callable[[int], None],
    iterations_per_call: int = ITERATIONS_PER_CALL,
) -> tuple[Log, bool]:
    """Run an engine until nothing is left to do: (its log, whether it stalled); `report` gets the finished requests."""
    policy_arguments = (*program.decisions, program.hooks, new_params(policy), memory)
    while True:
        status = program.run_loop(state, cache, log, *policy_arguments, iterations_per_call, np.inf)
        report(int(state.run[0].finished_requests + state.run[0].aborted_requests))
        if status == loop.LOG_FULL:
            log = _grown(log)
        elif status != loop.MORE:
            break
    if status == loop.UNKNOWN_CLASS:
        refuse_class(state, policy)
    stalled = status in (loop.STUCK, loop.FUTILE_RUN)
    if stalled:
        _end_stuck_run(state, cache, policy, futile=status == loop.FUTILE_RUN)
    return log, stalled


def _grown(log: Log) -> Log:
    doubled: Any = (np.concatenate((part, np.zeros_like(part))) for part in log)
    return Log(*(new.view(type(old)) for new, old in zip(doubled, log, strict=True)))


def refuse_class(state: State, policy: Policy) -> NoReturn:
    """Say which request `classify` put into a class that does not exist."""
    row = next(i for i, request in enumerate(state.rows) if not 0 <= request.group < policy.num_classes)
    raise InputError(
        f"policy {policy.name}: classify puts request {row} into class {state.rows[row].group}, and its num_classes is "
        f"{policy.num_classes}; return a class from 0 to {policy.num_classes - 1}"
    )


def _end_stuck_run(state: State, cache: Cache, policy: Policy, *, futile: bool) -> None:
    running, waiting = int(state.run[0].running), int(state.run[0].waiting)
    if futile and not policy.may_idle:
        raise Stalled(
            f"policy {policy.name} lets requests evict each other forever: at {state.run[0].now_s:.3f} s "
            f"{waiting} wait, {running} are resident, and {state.run[0].futile:,} preemptions have brought no "
            "new token. Let the first resident run in every iteration"
        )
    if not policy.may_idle:
        raise Stalled(
            f"policy {policy.name} holds requests forever: at {state.run[0].now_s:.3f} s {waiting} requests wait "
            f"and {running} are resident, no more arrive, and it named no later time to ask again. Return a time from "
            "admit or advance, or admit something when no request is resident"
        )
    interpreted(dissolve_group)(state)
    free = interpreted(end_residency)  # books what the left-over residents computed
    for row in state.running[:running]:
        free(state, cache, row, False)


def records_of(
    workload: Workload,
    hardware: Hardware,
    config: EngineConfig,
    policy: Policy,
    state: State,
    *,
    steps: StepRecords | None,
    stalled: bool,
) -> RunRecords:
    """What an engine did, read off its final state."""
    busy_s = float(state.run[0].busy_s)
    refuse_coarse_clock(float(state.run[0].now_s), hardware, f"{workload.name} takes")
    counts, edges_s = _gaps(state)
    watched = len(state.watched) > 0
    return RunRecords(
        workload=workload,
        hardware=hardware,
        config=config,
        policy=policy.name,
        arrival_s=state.arrival_s,
        first_scheduled_s=state.first_scheduled_s,
        first_token_s=state.first_token_s,
        last_token_s=state.last_token_s,
        finished=state.generated == state.output_tokens,
        generated_tokens=state.generated,
        longest_gap_s=state.longest_gap_s,
        held_s=state.held_s,
        preemptions=state.preemptions,
        recomputed_tokens=state.recomputed_tokens,
        cached_tokens=state.cached_tokens,
        left_s=state.watched.left_s.copy() if watched else np.broadcast_to(np.nan, len(workload)),
        shed=state.watched.shed == 1 if watched else np.zeros(len(workload), bool),
        spent_s=state.watched.spent_s.copy() if watched else None,
        spent_tokens=state.watched.spent_tokens.copy() if watched else None,
        end_s=float(state.run[0].now_s),
        busy_s=busy_s,
        iterations=int(state.run[0].iteration),
        empty_iterations=int(state.run[0].empty_iterations),
        computed_tokens=int(state.run[0].computed_tokens),
        peak_blocks=int(state.run[0].peak_blocks),
        mean_blocks=float(state.run[0].block_seconds) / busy_s if busy_s > 0 else 0.0,
        nearly_full_s=float(state.run[0].nearly_full_s),
        gap_sum_s=float(np.nansum(state.last_token_s - state.first_token_s)),
        gap_counts=counts,
        gap_edges_s=edges_s,
        stalled=stalled,
        steps=steps,
    )


def _gaps(state: State) -> tuple[IntArray, FloatArray]:
    """The occupied part of the gap histogram, with the bins' edges."""
    used = np.flatnonzero(state.gap_histogram)
    first, last = (int(used[0]), int(used[-1])) if len(used) else (0, 0)
    bits = np.arange(first, last + 2, dtype=np.int64) + ((layout.GAP_FIRST_EXPONENT + 1023) << layout.GAP_SUBBINS_LOG2)
    edges_s = (bits << (52 - layout.GAP_SUBBINS_LOG2)).view(np.float64)
    return state.gap_histogram[first : last + 1].copy(), edges_s


def _step_records(state: State, log: Log) -> StepRecords:
    run = state.run[0]
    steps = log.steps[: run.log_steps]
    columns = ("start_s", "end_s", "scheduled", "tokens", "running", "waiting", "free_blocks", "preempted")
    batch = log.batch[: run.log_rows]
    return StepRecords(
        **{name: steps[name].copy() for name in columns},
        batch=np.column_stack((batch["row"], batch["tokens"])),
        victims=log.victims[: run.log_victims].copy(),
    )
