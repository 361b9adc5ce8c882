"""What a run of the engine holds: preallocated arrays of numbers and of records, by request, by seat or by block."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fluidgate.arrays import FloatArray, IntArray
from fluidgate.engine.source import Source

Records = np.recarray[Any, Any]
"""An array of records: `state.rows[row].blocks` in the loop, `state.rows["blocks"]` outside of it."""

INT, SHORT, SECONDS = np.int64, np.int32, np.float64

RUN = np.dtype(
    [
        ("next_arrival", INT),  # row of the next request to arrive; the number of requests if none is known
        ("last_sent", INT),  # the last one of those that are known
        ("running", INT),  # residents
        ("ordered", INT),  # places of the running order in use; only those before `first_walked` may be empty
        ("empty_places", INT),
        ("first_walked", INT),  # place of the first resident behind the decode group
        ("decodes", INT),  # members of the decode group
        ("tick", INT),  # tokens that it has given to each of its members so far
        ("residue", INT),  # residue of the members that need a block at the next tick: -tick modulo the block size
        ("ticked", INT),  # members in this iteration's batch
        ("group_kv", INT),  # tokens in the KV of all members
        ("retired", INT),  # members whose last tokens are in flight
        ("peaks", INT),  # in use of `State.peaks`
        ("launched", INT),  # batches launched so far, and of them those that have not landed
        ("flying", INT),
        ("walk_until", INT),  # iteration before which no group forms
        ("ring", INT),  # row at which the ring of counted free blocks begins and ends
        ("changes", INT),  # arrivals, admissions, evictions and departures so far
        ("refused_at", INT),  # `changes` when the policy last let nobody in, -1 if it has let someone in since
        ("waiting", INT),
        ("waiting_tokens", INT),  # prompt and generated tokens of waiting requests
        ("free_slots", INT),
        ("back", INT),  # sequence numbers of the two ends of the waiting queues
        ("front", INT),
        ("iteration", INT),
        ("empty_iterations", INT),  # of them, those without a batch: they only evicted, and took no time
        ("scheduled", INT),  # requests in this iteration's batch, less those of the decode group
        ("victims", INT),  # requests preempted in this iteration
        ("finished_requests", INT),
        ("last_finished", INT),  # of them, those of `last_finish_s`, and the blocks that they gave back
        ("last_freed", INT),
        ("aborted_requests", INT),
        ("last_aborted", INT),  # of them, those of `last_abort_s`, what they gave back, and their waiting tokens
        ("last_abort_blocks", INT),
        ("last_abort_tokens", INT),
        ("first_deadline", INT),  # row of the first client to give up; it may have finished since
        ("preemptions", INT),
        ("last_prefill", INT),  # iterations with a batch up to the last one that computed prompts (`cadence`)
        ("prefills_held", INT),  # the interval keeps prompts out of this iteration
        ("prefills_lag", INT),  # one that it let go left requests waiting
        ("futile", INT),  # preemptions since a request arrived or got a token that it had not had before
        ("computed_tokens", INT),
        ("peak_blocks", INT),
        ("fresh_keys", INT),  # of the states that this iteration's batch computes
        ("log_steps", INT),
        ("log_rows", INT),
        ("log_victims", INT),
        ("now_s", SECONDS),
        ("busy_until_s", SECONDS),  # end of the batch launched last
        ("wake_s", SECONDS),  # if after `now_s`: nothing can run until then, unless a request arrives
        ("ask_again_s", SECONDS),  # until when it asked for that refusal to stand
        ("last_step_end_s", SECONDS),
        ("last_tick_s", SECONDS),  # when the members of the decode group got their latest tokens
        ("last_finish_s", SECONDS),  # end of the latest iteration in which a request finished
        ("last_abort_s", SECONDS),  # when a client's departure was last noticed
        ("busy_s", SECONDS),
        ("block_seconds", SECONDS),  # integral of the blocks in use, over busy time
        ("nearly_full_s", SECONDS),  # busy time with more than 90% of the blocks in use
    ]
)
"""Where a run stands: counters, clocks, integrals over time."""

SETTING = np.dtype(
    [
        ("block_size", INT),
        ("total_blocks", INT),  # usable ones: the null block is not counted
        ("watermark_blocks", INT),
        ("seats", INT),
        ("max_futile", INT),  # more preemptions than a run that makes progress can have in a row
        ("max_num_seqs", INT),
        ("token_budget", INT),
        ("view_budget", INT),  # as a policy sees it: no limit where decodes alone are computed
        ("reserve_full_prompt", INT),
        ("prefix_caching", INT),
        ("long_prefill", INT),
        ("cut_lone_prefill", INT),
        ("prefill_interval", INT),
        ("spare_block", INT),  # free blocks that a decode needs even where it takes none: 1 or 0
        ("pad_prompts", INT),  # a batch of prompts counts as so many of the longest one
        ("prompts_arrive", INT),  # their KV is there at admission, all but the last token's
        ("restart", INT),
        ("offload", INT),
        ("mode", INT),
        ("prefix_block_tokens", INT),
        ("ids_cover_replies", INT),
        ("shared_keys", INT),
        ("key_stride", INT),
        ("num_classes", INT),
        ("patience", INT),  # clients may give up, or the policy sheds
        ("log_level", INT),
        ("view_blocks", INT),  # usable ones as a policy sees them, which counts one for each `block_size` tokens
        ("kv_groups", INT),  # groups of layers with blocks of their own; 0: one, which keeps every token
        ("hash_tokens", INT),  # of the pieces of content that blocks of all groups consist of
        ("hit_tokens", INT),  # prefix hits are multiples of it
        ("state_tokens", INT),  # chunks of a prompt end at multiples of it, where states are kept; 0: none is
        ("state_within", INT),  # whether a prompt's last chunk keeps one as well while it goes on
        ("counted", INT),  # free blocks are counted, not listed one by one
        ("depth", INT),  # batches in flight at once: 2 for an asynchronous engine, else 1
        ("grouping", INT),  # residents that decode steadily form a group
        ("c0", SECONDS),  # the step time, where the hardware has no grid
        ("c_tok", SECONDS),
        ("c_kv", SECONDS),
        ("c_attn", SECONDS),
        ("c_seq", SECONDS),  # per scheduled request, with or without a grid
    ]
)
"""What a run never changes."""

ROW = np.dtype(
    [
        ("following", SHORT),  # row that arrives after this one; the number of requests if none is known
        ("group", INT),  # what `classify` said
        ("slot", SHORT),  # -1: not resident
        ("blocks", SHORT),
        ("residency_start", SHORT),  # tokens found in the prefix cache when the current residency began
        ("high_water", SHORT),  # most tokens ever computed
        ("settled", SHORT),  # tokens computed whose content is known: full blocks of them can be found again
        ("in_flight", SHORT),  # tokens that it counts as generated and that have not landed
        ("computing", SHORT),  # tokens of its own in batches that have not landed
        ("kept_blocks", SHORT),  # of an evicted request: its own blocks in the queue of counted free blocks,
        ("blocks_ahead", SHORT),  # blocks of no further use between them and those of the entry before,
        ("next_kept", SHORT),  # and the neighbours in the queue
        ("prev_kept", SHORT),
        ("prev_waiting", SHORT),
        ("sequence", INT),  # place in the queueing order among equal ranks
        ("rank", SECONDS),
        ("hold_mark_s", SECONDS),  # the queue's `hold_clock_s` when the request joined it
    ],
    align=True,
)
"""A request. One record more for each engine is the end of its ring of kept blocks."""

WATCHED = np.dtype(
    [
        ("timeout_s", SECONDS),  # what of the client's patience is left to the engine
        ("ttft_timeout_s", SECONDS),
        ("deadline_s", SECONDS),
        ("child", INT),  # links of the heap of deadlines
        ("next", INT),
        ("spent_s", SECONDS),
        ("spent_tokens", INT),
        ("left_s", SECONDS),  # when the engine dropped it; NaN: it did not
        ("shed", INT),  # the policy gave it up
    ]
)
"""A request whose client may give up, or which the policy may (`engine.patience`)."""

QUEUE = np.dtype([("tail", INT), ("hold_clock_s", SECONDS)])
"""A class's waiting queue: a doubly linked list by (rank, sequence), and how long the policy kept its head out."""

SEAT = np.dtype(
    [
        ("row", INT),
        ("joined", INT),  # of a member of the decode group: its tokens less the tick at which it joined
        ("since", INT),  # that tick
        ("end", INT),  # the tick of its last token
        ("place", INT),  # its place in the running order
        ("heap_place", INT),  # its place in `State.ending`; -1: not a member
        ("steady_at", INT),  # `RUN.launched` after the last batch that gives it a token beside all members
    ]
)
"""A resident, by slot."""

NO_TOKEN, TOKEN, REPEATED_TOKEN = range(3)
"""What a batch gives a request; the last: a token that its stream has had before it started again."""

SCHEDULED = np.dtype([("row", INT), ("tokens", INT), ("gives", INT), ("number", INT)])
"""A request in a batch: the tokens computed, whether it gets one, and the number of that one."""

FLIGHT = np.dtype(
    [
        ("start_s", SECONDS),
        ("seconds", SECONDS),
        ("end_s", SECONDS),
        ("tokens", INT),
        ("scheduled", INT),  # entries of `State.batch`
        ("ticked", INT),  # members of the decode group, and the number of their tick
        ("tick", INT),
        ("moves_all", INT),  # all members get a token, or there are none
    ]
)
"""A batch on its way."""

RETIRED = np.dtype([("row", INT), ("since", INT)])
"""A former member of the decode group whose last token is in flight, and the tick at which it joined."""

LOGGED = np.dtype([("row", INT), ("tokens", INT)])
"""A request in a batch, in the log."""

PEAK = np.dtype([("tick", INT), ("seconds", SECONDS), ("needed", INT)])
"""A tick of the decode group that no later one was as long as."""

STEP = np.dtype(
    [
        ("scheduled", INT),
        ("tokens", INT),
        ("running", INT),
        ("waiting", INT),
        ("free_blocks", INT),
        ("preempted", INT),
        ("start_s", SECONDS),
        ("end_s", SECONDS),
    ]
)
"""An iteration, in the log."""


class State(NamedTuple):
    """Everything the step loop reads and writes. What policies see has arrays of its own."""

    run: Records  # one RUN
    setting: Records  # one SETTING
    # by row
    rows: Records
    watched: Records  # of size 0 where nobody gives up
    arrival_s: FloatArray  # when it was sent; in a closed loop NaN until then
    prompt_tokens: IntArray
    output_tokens: IntArray
    shown_output: IntArray
    shown_timeout_s: FloatArray  # of size 0 where the policy does not ask for timeouts
    shown_ttft_timeout_s: FloatArray
    class_id: IntArray
    prefix_ids: IntArray
    prefix_offsets: IntArray
    generated: IntArray
    computed: IntArray
    next_waiting: IntArray
    # by class of the policy
    queues: Records
    head: IntArray
    waiting: IntArray
    quota: IntArray
    shed_rows: IntArray  # what the policy gives up in one call
    # by slot, by place in the running order, or stacks
    seats: Records
    free_slots: IntArray
    running: IntArray  # rows in running order; twice as many places as seats
    mask: IntArray
    ending: IntArray  # slots of the decode group's members, a heap by the tick of their last token
    residues: IntArray  # members of each residue (`decode_group`)
    peaks: Records
    retired: Records
    flights: Records  # two
    batch: Records  # of both flights, one after the other
    victims: IntArray
    hits: IntArray
    # groups of layers (`engine.kv_groups`)
    kv_group: IntArray  # (groups, COLUMNS)
    group_table: IntArray  # (slots, groups, TABLE_COLUMNS)
    junction: IntArray  # by row: where a shared prefix ends that some group had forgotten; 0: nowhere
    fresh_keys: IntArray
    # records, by row
    first_scheduled_s: FloatArray
    first_token_s: FloatArray
    last_token_s: FloatArray
    longest_gap_s: FloatArray
    held_s: FloatArray
    preemptions: IntArray
    recomputed_tokens: IntArray
    cached_tokens: IntArray
    # the tables of the hardware's grid; of size 0 where it has none
    decode_s: FloatArray
    decode_attention_s: FloatArray
    shared_s: FloatArray
    prefill_attention_s: FloatArray
    gap_histogram: IntArray
    gap_scratch: FloatArray
    source: Source


class Log(NamedTuple):
    """Per-step records: one row per iteration, and the batch and the victims of all iterations end to end."""

    steps: Records  # (steps,)
    batch: Records  # (entries,)
    victims: IntArray  # (entries,)


LOG_NOTHING, LOG_STEP, LOG_DECISIONS = range(3)

GAP_SUBBINS_LOG2 = 10
GAP_FIRST_EXPONENT = -24  # gaps below 2**-24 s (60 ns) fall into the first bin
GAP_OCTAVES = 48


def records(dtype: np.dtype[Any], count: int) -> Records:
    """`count` records of zeros, whose fields are attributes too."""
    return np.zeros(count, dtype).view(np.recarray)
