"""A new run of the engine: its state and its KV cache at time 0."""

from __future__ import annotations

import numpy as np

from fluidgate.arrays import NONE, FloatArray, IntArray
from fluidgate.engine.config import EngineConfig
from fluidgate.engine.group_layout import TABLE_COLUMNS
from fluidgate.engine.kv_cache import Cache, new_cache, new_counted_cache
from fluidgate.engine.layout import (
    FLIGHT,
    GAP_OCTAVES,
    GAP_SUBBINS_LOG2,
    LOG_NOTHING,
    LOGGED,
    PEAK,
    QUEUE,
    RETIRED,
    ROW,
    RUN,
    SCHEDULED,
    SEAT,
    SETTING,
    STEP,
    WATCHED,
    Log,
    Records,
    State,
    records,
)
from fluidgate.engine.policy_hooks import NO_LIMIT
from fluidgate.engine.refusals import (
    layout_for,
    refuse_beyond_grid,
    refuse_beyond_memory,
    refuse_coarse_clock,
    refuse_endless_hold,
    refuse_unschedulable,
    refuse_what_never_fits,
)
from fluidgate.engine.source import new_source
from fluidgate.errors import InputError
from fluidgate.fluid import plain_blocks
from fluidgate.hardware import Hardware, StepGrid
from fluidgate.hardware.step_grid import TABLES
from fluidgate.policies import Policy
from fluidgate.policies.protocol import SHED_AT_ONCE
from fluidgate.workload import Workload

FRESH_KEYS_EACH = 3
"""The most that a scheduled request adds to `State.fresh_keys`, of each group."""


def new_log(steps: int, entries: int) -> Log:
    """An empty log with room for `steps` iterations and `entries` scheduled requests."""
    return Log(records(STEP, steps), records(LOGGED, entries), np.zeros(entries, np.int64))


def new_state(
    workload: Workload,
    hardware: Hardware,
    config: EngineConfig,
    policy: Policy,
    *,
    log_level: int = LOG_NOTHING,
    replicas: int = 1,
    walked: bool = False,
) -> tuple[State, Cache]:
    """State and KV cache at time 0.

    Args:
        replicas: how many such caches there will be.
        walked: walk every resident in every iteration, and list every block: the general way, which all loads can go.

    Raises:
        InputError: a request that can never fit, prefix blocks that the engine's block size does not divide, steps
            that the hardware's grid does not reach, arrivals so late that a step could not move the clock, or more
            blocks than this machine's memory can simulate.
    """
    n = len(workload)
    longest = int((workload.prompt_tokens + workload.output_tokens).max())
    budget = config.token_budget(longest)
    slots = int(min(config.most_seqs, hardware.num_gpu_blocks - 1, n))
    layout = layout_for(hardware, config, longest, budget)
    groups = len(layout.groups)
    refuse_endless_hold(policy, config)
    refuse_what_never_fits(workload, hardware, layout)
    refuse_coarse_clock(workload.duration_s, hardware, f"{workload.name} lasts")
    refuse_unschedulable(workload, config, budget)
    refuse_beyond_grid(hardware, slots, longest, budget)
    shared_keys, prefix_ids = _dense_prefix_ids(workload, layout.hash_tokens)
    counted = groups == 0 and not walked and _can_count_blocks(workload, config)
    if not counted:
        refuse_beyond_memory(hardware, replicas)

    setting = _settings(hardware, config, slots, longest)
    setting.prefix_block_tokens = workload.prefix_block_tokens
    setting.ids_cover_replies = workload.ids_cover_replies
    setting.shared_keys = shared_keys
    setting.key_stride = -(-longest // layout.hash_tokens) | 1  # odd, so that requests do not share hash buckets
    setting.num_classes = policy.num_classes
    setting.log_level = log_level
    setting.view_blocks = plain_blocks(workload, hardware) - 1 if groups else hardware.num_gpu_blocks - 1
    setting.kv_groups = groups
    setting.hash_tokens, setting.hit_tokens = layout.hash_tokens, layout.hit_tokens
    setting.state_tokens, setting.state_within = layout.state_tokens, layout.state_within
    setting.patience = workload.gives_up or policy.sheds
    setting.counted = counted
    setting.grouping = counted and not setting.patience
    run = records(RUN, 1)
    run.free_slots = slots
    run.ring = n
    run.first_deadline = NONE
    run.refused_at = NONE
    run.last_prefill = -config.prefill_schedule_interval
    run.next_arrival = n if workload.is_closed else 0

    def ints(size: int = n, fill: int = 0) -> IntArray:
        return np.full(size, fill, np.int64)

    def floats(size: int = n, fill: float = 0.0) -> FloatArray:
        return np.full(size, fill, np.float64)

    shown = _left_to_engine_s(workload, hardware) if policy.needs_timeouts else (floats(0), floats(0))
    queues = records(QUEUE, policy.num_classes)
    queues.tail = NONE
    rows = _rows(n, replicas, hardware.num_gpu_blocks - 1)
    if workload.is_closed:
        rows.following = n
    state = State(
        run=run,
        setting=setting,
        rows=rows,
        watched=_watched(workload, hardware) if setting.patience else records(WATCHED, 0),
        arrival_s=floats(fill=np.nan) if workload.is_closed else workload.arrival_s,
        prompt_tokens=workload.prompt_tokens,
        output_tokens=workload.output_tokens,
        shown_output=workload.output_tokens if policy.needs_output_length else ints(fill=NONE),
        shown_timeout_s=shown[0],
        shown_ttft_timeout_s=shown[1],
        class_id=workload.class_id,
        prefix_ids=prefix_ids,
        prefix_offsets=workload.prefix_offsets,
        generated=ints(),
        computed=workload.prompt_tokens - 1 if config.prompts_arrive_computed else ints(),
        next_waiting=ints(fill=NONE),
        queues=queues,
        head=ints(policy.num_classes, NONE),
        waiting=ints(policy.num_classes),
        quota=ints(policy.num_classes),
        shed_rows=ints(SHED_AT_ONCE, NONE),
        seats=records(SEAT, slots),
        free_slots=np.arange(slots - 1, -1, -1, dtype=np.int64),
        running=ints(2 * slots, NONE),
        mask=ints(2 * slots, 1),
        ending=ints(slots),
        residues=ints(hardware.block_size),
        peaks=records(PEAK, 2 * slots),
        retired=records(RETIRED, slots),
        flights=records(FLIGHT, 2),
        batch=records(SCHEDULED, 2 * slots),
        victims=ints(slots),
        hits=ints(layout.row_blocks),
        kv_group=layout.groups,
        group_table=np.zeros((slots if groups else 0, groups, TABLE_COLUMNS), np.int64),
        junction=ints(n if groups else 0),
        fresh_keys=ints(setting[0].depth * FRESH_KEYS_EACH * slots * groups),
        first_scheduled_s=floats(fill=np.nan),
        first_token_s=floats(fill=np.nan),
        last_token_s=floats(fill=np.nan),
        longest_gap_s=floats(),
        held_s=floats(),
        preemptions=ints(),
        recomputed_tokens=ints(),
        cached_tokens=ints(),
        **_tables(hardware.grid),
        gap_histogram=ints(GAP_OCTAVES << GAP_SUBBINS_LOG2),
        gap_scratch=floats(1),
        source=new_source(workload, hardware.overhead_s),
    )
    if counted:
        return state, new_counted_cache(hardware.num_gpu_blocks - 1)
    return state, new_cache(hardware.num_gpu_blocks, slots, layout.row_blocks)


def _settings(hardware: Hardware, config: EngineConfig, slots: int, longest: int) -> Records:
    """What a run's hardware and limits set."""
    table = records(SETTING, 1)
    setting = table[0]
    setting.block_size = hardware.block_size
    setting.total_blocks = hardware.num_gpu_blocks - 1
    setting.watermark_blocks = int(config.watermark_share * hardware.num_gpu_blocks)
    setting.seats = min(config.seats, slots)
    setting.max_futile = slots * longest  # every resident evicted at every token of a prompt
    setting.max_num_seqs = config.most_seqs
    setting.token_budget = config.token_budget(longest)
    setting.view_budget = NO_LIMIT if config.prompts_arrive_computed else setting.token_budget
    setting.reserve_full_prompt = config.scheduler_reserve_full_isl
    setting.prefix_caching = config.enable_prefix_caching
    setting.long_prefill = config.long_prefill_token_threshold
    setting.cut_lone_prefill = config.cut_lone_prefill
    setting.prefill_interval = config.prefill_schedule_interval
    setting.spare_block = config.decodes_need_spare_block
    setting.pad_prompts = config.pad_prompt_batches
    setting.prompts_arrive = config.prompts_arrive_computed
    setting.restart = config.preemption == "restart"
    setting.offload = config.preemption == "offload"
    setting.mode = config.formation.number
    setting.depth = config.batches_in_flight
    step = hardware.step_time
    setting.c0, setting.c_tok, setting.c_kv, setting.c_attn = step.c0, step.c_tok, step.c_kv, step.c_attn
    setting.c_seq = hardware.sequence_s
    return table


def _can_count_blocks(workload: Workload, config: EngineConfig) -> bool:
    """Whether nothing asks which block is which.

    A request that starts again from nothing may find the blocks of its prompt, and leave those of its output behind.
    """
    starts_over = config.preemption == "restart" and config.enable_prefix_caching
    return len(workload.prefix_ids) == 0 and not starts_over


def _rows(requests: int, engines: int, total_blocks: int) -> Records:
    """The requests, and behind them the ends of the engines' queues of counted free blocks: each a ring of its own."""
    rows = records(ROW, requests + engines)
    row = np.arange(requests + engines)
    rows.following = row + 1
    rows.slot = rows.prev_waiting = NONE
    rows.next_kept = rows.prev_kept = row
    rows.blocks_ahead[requests:] = total_blocks
    return rows


def _watched(workload: Workload, hardware: Hardware) -> Records:
    """The requests that may be given up. A request takes time outside the engine as well."""
    watched = records(WATCHED, len(workload))
    watched.timeout_s, watched.ttft_timeout_s = _left_to_engine_s(workload, hardware)
    watched.left_s = np.nan
    return watched


def _left_to_engine_s(workload: Workload, hardware: Hardware) -> tuple[FloatArray, FloatArray]:
    """What of the clients' patience is left to the engine, until the last and the first token: shape (n,), seconds."""
    if not workload.gives_up:
        return np.full(len(workload), np.inf), np.full(len(workload), np.inf)
    waits = workload.timeout_s, workload.ttft_timeout_s
    last_s, first_s = (np.maximum(wait_s - hardware.overhead_s, 0.0) for wait_s in waits)
    return last_s, first_s


def _tables(grid: StepGrid | None) -> dict[str, FloatArray]:
    if grid is None:
        return {name: np.zeros(0 if name == "shared_s" else (0, 0)) for name in TABLES}
    return {name: getattr(grid, name) for name in TABLES}


def _dense_prefix_ids(workload: Workload, block_size: int) -> tuple[int, IntArray]:
    """(number of block keys that shared content takes, prefix ids renumbered from 0)."""
    if len(workload.prefix_ids) == 0:
        return 0, np.zeros(1, np.int64)
    if workload.prefix_block_tokens % block_size:
        raise InputError(
            f"{workload.name}: prefix blocks of {workload.prefix_block_tokens} tokens are not a multiple of the KV "
            f"block size {block_size}; choose a block size that divides them"
        )
    unique, dense = np.unique(workload.prefix_ids, return_inverse=True)
    return len(unique) * (workload.prefix_block_tokens // block_size), dense.astype(np.int64)
