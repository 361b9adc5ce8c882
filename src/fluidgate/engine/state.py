"""The engine's state: preallocated arrays, indexed by request row, by seat or by block. No objects in the loop."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fluidgate.arrays import NONE, FloatArray, IntArray
from fluidgate.bounds import physical_memory_bytes
from fluidgate.engine.config import EngineConfig
from fluidgate.engine.kv_cache import Cache, cache_bytes, new_cache
from fluidgate.errors import InputError
from fluidgate.hardware import Hardware, StepGrid
from fluidgate.hardware.step_grid import TABLES
from fluidgate.policies import Policy
from fluidgate.workload import Workload

CLOCK_PRECISION = 1e-3
"""How much of the shortest step the spacing of floats may be at a run's last time."""

# Counters of a run: indices into `State.counter`.
(
    NEXT_ARRIVAL,  # row of the next request to arrive, n if none is known
    RUNNING,  # residents
    WAITING,
    WAITING_TOKENS,  # prompt and generated tokens of waiting requests
    FREE_SLOTS,
    BACK,  # sequence numbers of the two ends of the waiting queues
    FRONT,
    ITERATION,
    EMPTY_ITERATIONS,  # of them, those without a batch: they only evicted, and took no time
    SCHEDULED,  # requests in this iteration's batch
    VICTIMS,  # requests preempted in this iteration
    FINISHED_REQUESTS,
    LAST_FINISHED,  # of them, those of LAST_FINISH, and the blocks that they gave back
    LAST_FREED,
    PREEMPTIONS,
    FUTILE,  # preemptions since a request arrived or got a token that it had not had before
    COMPUTED_TOKENS,
    PEAK_BLOCKS,
    LOG_STEPS,
    LOG_ROWS,
    LOG_VICTIMS,
    COUNTERS,
) = range(22)

# Clocks and time integrals: indices into `State.clock`, all in seconds.
(
    NOW,
    WAKE,  # if after NOW: nothing can run until then, unless a request arrives
    LAST_STEP_END,
    LAST_FINISH,  # end of the latest iteration in which a request finished
    BUSY,
    BLOCK_SECONDS,  # integral of the blocks in use, over busy time
    NEARLY_FULL,  # busy time with more than 90% of the blocks in use
    GAP_SUM,
    CLOCKS,
) = range(9)

# Settings of a run, which it never changes: indices into `State.setting`.
(
    BLOCK_SIZE,
    TOTAL_BLOCKS,  # usable ones: the null block is not counted
    WATERMARK_BLOCKS,
    SEATS,
    MAX_FUTILE,  # more preemptions than a run that makes progress can have in a row
    MAX_NUM_SEQS,
    TOKEN_BUDGET,
    RESERVE_FULL_PROMPT,
    PREFIX_CACHING,
    LONG_PREFILL,
    CUT_LONE_PREFILL,
    RESTART,
    OFFLOAD,
    MODE,
    PREFIX_BLOCK_TOKENS,
    SHARED_KEYS,
    KEY_STRIDE,
    NUM_CLASSES,
    LOG_LEVEL,
    SETTINGS,
) = range(20)

GAP_SUBBINS_LOG2 = 10
GAP_FIRST_EXPONENT = -24  # gaps below 2**-24 s (60 ns) fall into the first bin
GAP_OCTAVES = 48


class State(NamedTuple):
    """Everything the step loop reads and writes."""

    # the workload, by row
    arrival_s: FloatArray
    prompt_tokens: IntArray
    output_tokens: IntArray
    shown_output: IntArray
    class_id: IntArray
    prefix_ids: IntArray
    prefix_offsets: IntArray
    following: IntArray  # row that arrives after this one, n if none is known
    # progress, by row
    group: IntArray
    generated: IntArray
    computed: IntArray
    blocks: IntArray
    slot: IntArray
    residency_start: IntArray  # tokens found in the prefix cache when the current residency began
    high_water: IntArray  # most tokens ever computed
    # waiting queues: per group a doubly linked list ordered by (rank, sequence)
    next_waiting: IntArray
    prev_waiting: IntArray
    rank: FloatArray
    sequence: IntArray
    head: IntArray
    tail: IntArray
    waiting: IntArray
    hold_clock: FloatArray  # per group: total time in which the policy kept its head out
    hold_mark: FloatArray  # by row: the hold clock when the request joined the queue
    # seats
    running: IntArray
    free_slots: IntArray
    batch_rows: IntArray
    batch_tokens: IntArray
    victims: IntArray
    quota: IntArray
    mask: IntArray
    hits: IntArray
    # records, by row
    first_scheduled_s: FloatArray
    first_token_s: FloatArray
    last_token_s: FloatArray
    longest_gap_s: FloatArray
    held_s: FloatArray
    preemptions: IntArray
    recomputed_tokens: IntArray
    cached_tokens: IntArray
    # records of the run
    counter: IntArray
    clock: FloatArray
    setting: IntArray
    step_time: FloatArray  # c0, c_tok, c_kv, c_attn, and seconds per request scheduled
    decode_s: FloatArray  # the tables of the hardware's grid; of size 0 where there is only `step_time`
    decode_attention_s: FloatArray
    shared_s: FloatArray
    prefill_attention_s: FloatArray
    gap_histogram: IntArray
    gap_scratch: FloatArray


class Log(NamedTuple):
    """Per-step records: one row per iteration, and the batch and the victims of all iterations end to end."""

    number: IntArray  # (steps, LOG_COLUMNS)
    time: FloatArray  # (steps, 2): start and end
    batch: IntArray  # (entries, 2): row, tokens
    victims: IntArray  # (entries,)


# Columns of `Log.number`.
LOG_SCHEDULED, LOG_TOKENS, LOG_RUNNING, LOG_WAITING, LOG_FREE_BLOCKS, LOG_PREEMPTED, LOG_COLUMNS = range(7)

LOG_NOTHING, LOG_STEP, LOG_DECISIONS = range(3)


def new_log(steps: int, entries: int) -> Log:
    """An empty log with room for `steps` iterations and `entries` scheduled requests."""
    return Log(
        np.zeros((steps, LOG_COLUMNS), np.int64),
        np.zeros((steps, 2)),
        np.zeros((entries, 2), np.int64),
        np.zeros(entries, np.int64),
    )


def new_state(
    workload: Workload,
    hardware: Hardware,
    config: EngineConfig,
    policy: Policy,
    *,
    log_level: int = LOG_NOTHING,
    replicas: int = 1,
) -> tuple[State, Cache]:
    """State and KV cache at time 0.

    Args:
        replicas: how many such caches there will be.

    Raises:
        InputError: a request that can never fit, prefix blocks that the engine's block size does not divide, steps
            that the hardware's grid does not reach, arrivals so late that a step could not move the clock, or more
            blocks than this machine's memory can simulate.
    """
    n, block_size = len(workload), hardware.block_size
    total_blocks = hardware.num_gpu_blocks - 1
    longest = workload.prompt_tokens + workload.output_tokens
    _refuse_what_never_fits(workload, hardware)
    refuse_coarse_clock(workload.duration_s, hardware, f"{workload.name} lasts")
    _refuse_beyond_memory(hardware, replicas)
    budget = config.token_budget(int(longest.max()))
    _refuse_unschedulable(workload, config, budget)
    shared_keys, prefix_ids = _dense_prefix_ids(workload, block_size)

    most_blocks = int(-(-longest.max() // block_size))
    slots = int(min(config.most_seqs, total_blocks, n))
    _refuse_beyond_grid(hardware, slots, int(longest.max()), budget)
    setting = np.zeros(SETTINGS, np.int64)
    setting[BLOCK_SIZE] = block_size
    setting[TOTAL_BLOCKS] = total_blocks
    setting[WATERMARK_BLOCKS] = int(config.watermark_share * hardware.num_gpu_blocks)
    setting[SEATS] = min(config.seats, slots)
    setting[MAX_FUTILE] = slots * int(longest.max())  # every resident evicted at every token of a prompt
    setting[MAX_NUM_SEQS] = config.most_seqs
    setting[TOKEN_BUDGET] = budget
    setting[RESERVE_FULL_PROMPT] = config.scheduler_reserve_full_isl
    setting[PREFIX_CACHING] = config.enable_prefix_caching
    setting[LONG_PREFILL] = config.long_prefill_token_threshold
    setting[CUT_LONE_PREFILL] = config.cut_lone_prefill
    setting[RESTART] = config.preemption == "restart"
    setting[OFFLOAD] = config.preemption == "offload"
    setting[MODE] = config.formation.number
    setting[PREFIX_BLOCK_TOKENS] = workload.prefix_block_tokens if len(prefix_ids) else 0
    setting[SHARED_KEYS] = shared_keys
    setting[KEY_STRIDE] = most_blocks | 1  # odd, so that requests do not share hash buckets
    setting[NUM_CLASSES] = policy.num_classes
    setting[LOG_LEVEL] = log_level
    counter = np.zeros(COUNTERS, np.int64)
    counter[FREE_SLOTS] = slots
    c = hardware.step_time

    def ints(size: int = n, fill: int = 0) -> IntArray:
        return np.full(size, fill, np.int64)

    def floats(size: int = n, fill: float = 0.0) -> FloatArray:
        return np.full(size, fill, np.float64)

    state = State(
        arrival_s=workload.arrival_s,
        prompt_tokens=workload.prompt_tokens,
        output_tokens=workload.output_tokens,
        shown_output=workload.output_tokens if policy.needs_output_length else ints(fill=NONE),
        class_id=workload.class_id,
        prefix_ids=prefix_ids,
        prefix_offsets=workload.prefix_offsets,
        following=np.arange(1, n + 1, dtype=np.int64),
        group=ints(),
        generated=ints(),
        computed=ints(),
        blocks=ints(),
        slot=ints(fill=NONE),
        residency_start=ints(),
        high_water=ints(),
        next_waiting=ints(fill=NONE),
        prev_waiting=ints(fill=NONE),
        rank=floats(),
        sequence=ints(),
        head=ints(policy.num_classes, NONE),
        tail=ints(policy.num_classes, NONE),
        waiting=ints(policy.num_classes),
        hold_clock=floats(policy.num_classes),
        hold_mark=floats(),
        running=ints(slots, NONE),
        free_slots=np.arange(slots - 1, -1, -1, dtype=np.int64),
        batch_rows=ints(slots),
        batch_tokens=ints(slots),
        victims=ints(slots),
        quota=ints(policy.num_classes),
        mask=ints(slots, 1),
        hits=ints(most_blocks),
        first_scheduled_s=floats(fill=np.nan),
        first_token_s=floats(fill=np.nan),
        last_token_s=floats(fill=np.nan),
        longest_gap_s=floats(),
        held_s=floats(),
        preemptions=ints(),
        recomputed_tokens=ints(),
        cached_tokens=ints(),
        counter=counter,
        clock=floats(CLOCKS),
        setting=setting,
        step_time=np.array([c.c0, c.c_tok, c.c_kv, c.c_attn, hardware.sequence_s]),
        **_tables(hardware.grid),
        gap_histogram=ints(GAP_OCTAVES << GAP_SUBBINS_LOG2),
        gap_scratch=floats(1),
    )
    return state, new_cache(hardware.num_gpu_blocks, slots, most_blocks)


def _tables(grid: StepGrid | None) -> dict[str, FloatArray]:
    if grid is None:
        return {name: np.zeros(0 if name == "shared_s" else (0, 0)) for name in TABLES}
    return {name: getattr(grid, name) for name in TABLES}


def refuse_coarse_clock(time_s: float, hardware: Hardware, what: str) -> None:
    """Refuse times at which the floats lie so far apart that the clock rounds the steps.

    Raises:
        InputError: their spacing at `time_s` is more than a thousandth of the shortest step.
    """
    spacing_s = float(np.spacing(time_s))
    if spacing_s > CLOCK_PRECISION * hardware.shortest_step_s:
        raise InputError(
            f"{what} {time_s:,.0f} s, where the clock moves by {spacing_s:.2g} s at the least, too coarse for steps of "
            f"{hardware.name} from {hardware.shortest_step_s:.2g} s on; use a part of the trace, or a higher rate"
        )


def _refuse_beyond_memory(hardware: Hardware, replicas: int) -> None:
    needed, available = replicas * cache_bytes(hardware.num_gpu_blocks), physical_memory_bytes()
    if needed > available:
        several = f" on each of {replicas:,} replicas" if replicas > 1 else ""
        raise InputError(
            f"{hardware.name}: to simulate {hardware.num_gpu_blocks:,} KV blocks{several} takes {needed / 2**30:,.1f} "
            f"GiB of memory, and this machine has {available / 2**30:,.1f}; use fewer blocks, or a larger block_size"
        )


def _refuse_beyond_grid(hardware: Hardware, slots: int, longest: int, budget: int) -> None:
    if hardware.grid is not None:
        hardware.grid.refuse_beyond(slots, longest, budget, hardware.name)


def _refuse_what_never_fits(workload: Workload, hardware: Hardware) -> None:
    peak_tokens = workload.prompt_tokens + workload.output_tokens - 1  # the last token's KV is never written
    too_large = peak_tokens > hardware.kv_capacity_tokens
    if too_large.any():
        i = int(np.argmax(too_large))
        raise InputError(
            f"{workload.name}: request {i} needs {peak_tokens[i]:,} KV tokens (prompt {workload.prompt_tokens[i]:,} + "
            f"output {workload.output_tokens[i]:,}) and {hardware.name} holds {hardware.kv_capacity_tokens:,}; "
            f"{int(too_large.sum()):,} of {len(workload):,} requests are too large. "
            "Use more KV blocks, or leave those requests out of the trace"
        )


def _refuse_unschedulable(workload: Workload, config: EngineConfig, budget: int) -> None:
    if not config.formation.chunks_prompts:
        whole = workload.prompt_tokens + workload.output_tokens - 1  # a resumed request prefills all it had
        if whole.max() > budget:
            raise InputError(
                f"mode {config.mode} runs whole prompts, and request {int(whole.argmax())} may need {whole.max():,} "
                f"tokens in one iteration: set max_num_batched_tokens to at least that (it is {budget:,})"
            )


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
