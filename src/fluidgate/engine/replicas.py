"""Several engines in one layout: columns by request are shared, what an engine owns has one more leading dimension.

A request is served by one replica, so that columns by row need no copy per replica.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fluidgate.arrays import IntArray
from fluidgate.engine.kv_cache import Cache
from fluidgate.engine.state import NEXT_ARRIVAL, NOW, PEAK_BLOCKS, State
from fluidgate.kernel import inlined_kernel

OWN = (
    *("head", "tail", "waiting", "hold_clock"),
    *("running", "free_slots", "batch_rows", "batch_tokens", "victims", "quota", "mask", "hits"),
    *("counter", "clock", "gap_histogram", "gap_scratch"),
)
"""Fields of a `State` that every replica has for itself."""

COLUMNS = (
    *("output_tokens", "generated", "preemptions", "recomputed_tokens", "cached_tokens"),
    *("first_scheduled_s", "first_token_s", "last_token_s", "longest_gap_s", "held_s"),
)
"""Fields of a `State` that records are made of, by row."""


def stacked(state: State, cache: Cache, replicas: int) -> tuple[State, Cache]:
    """`replicas` copies of an engine at time 0 that share the rows of `state`; none was sent a request yet."""
    n = len(state.arrival_s)
    state.counter[NEXT_ARRIVAL] = n
    state.following[:] = n
    copies = {name: np.stack([getattr(state, name)] * replicas) for name in OWN}
    blocks: Any = (np.stack([part] * replicas) for part in cache)
    return state._replace(**copies), Cache(*blocks)


def rows_of(state: State, rows: IntArray) -> State:
    """The engine `state` with the columns of some rows only: what its records are made of."""
    return state._replace(**{name: getattr(state, name)[rows] for name in COLUMNS})


def summed(states: State) -> State:
    """All replicas of a stack as one engine: totals added up, the latest clock, the highest peak of blocks."""
    counter, clock = states.counter.sum(axis=0), states.clock.sum(axis=0)
    counter[PEAK_BLOCKS], clock[NOW] = states.counter[:, PEAK_BLOCKS].max(), states.clock[:, NOW].max()
    return states._replace(counter=counter, clock=clock, gap_histogram=states.gap_histogram.sum(axis=0))


@inlined_kernel
def replica_cache(caches, k):
    """The KV cache of one replica of a stack, as views."""
    return Cache(
        caches.next_free[k],
        caches.prev_free[k],
        caches.references[k],
        caches.key[k],
        caches.next_same[k],
        caches.prev_same[k],
        caches.bucket_head[k],
        caches.bucket_tail[k],
        caches.table[k],
        caches.free[k],
    )


@inlined_kernel
def replica_state(states, k):
    """The state of one replica of a stack, as views. In the order of `State`: compiled code knows no names."""
    return State(
        states.arrival_s,
        states.prompt_tokens,
        states.output_tokens,
        states.shown_output,
        states.class_id,
        states.prefix_ids,
        states.prefix_offsets,
        states.following,
        states.group,
        states.generated,
        states.computed,
        states.blocks,
        states.slot,
        states.residency_start,
        states.high_water,
        states.next_waiting,
        states.prev_waiting,
        states.rank,
        states.sequence,
        states.head[k],
        states.tail[k],
        states.waiting[k],
        states.hold_clock[k],
        states.hold_mark,
        states.running[k],
        states.free_slots[k],
        states.batch_rows[k],
        states.batch_tokens[k],
        states.victims[k],
        states.quota[k],
        states.mask[k],
        states.hits[k],
        states.first_scheduled_s,
        states.first_token_s,
        states.last_token_s,
        states.longest_gap_s,
        states.held_s,
        states.preemptions,
        states.recomputed_tokens,
        states.cached_tokens,
        states.counter[k],
        states.clock[k],
        states.setting,
        states.step_time,
        states.decode_s,
        states.decode_attention_s,
        states.shared_s,
        states.prefill_attention_s,
        states.gap_histogram[k],
        states.gap_scratch[k],
    )
