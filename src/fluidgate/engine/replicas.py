"""Several engines in one layout: columns by request are shared, what an engine owns has one more leading dimension.

A request is served by one replica, so that columns by row need no copy per replica.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fluidgate.arrays import IntArray
from fluidgate.engine.kv_cache import Cache
from fluidgate.engine.layout import RUN, State, records
from fluidgate.engine.source import KIND, OPEN, SHARED
from fluidgate.kernel import inlined_kernel

OWN = (
    *("run", "queues", "head", "waiting", "quota"),
    *("seats", "free_slots", "running", "mask", "ending", "residues", "peaks", "retired"),
    *("flights", "batch", "victims", "hits", "group_table", "fresh_keys"),
    *("gap_histogram", "gap_scratch"),
)
"""Fields of a `State` that every replica has for itself."""

COLUMNS = (
    *("arrival_s", "output_tokens", "generated", "preemptions", "recomputed_tokens", "cached_tokens"),
    *("first_scheduled_s", "first_token_s", "last_token_s", "longest_gap_s", "held_s"),
)
"""Fields of a `State` that records are made of, by row."""


def stacked(state: State, cache: Cache, replicas: int) -> tuple[State, Cache]:
    """`replicas` copies of an engine at time 0 that share the rows of `state`; none was sent a request yet."""
    n = len(state.arrival_s)
    state.rows.following = n
    if state.source.number[KIND] != OPEN:
        state.source.number[KIND] = SHARED
    copies: dict[str, Any] = {name: np.stack([getattr(state, name)] * replicas) for name in OWN}
    tables: dict[str, Any] = {name: part.view(np.recarray) for name, part in copies.items() if part.dtype.names}
    tables["run"].next_arrival = n
    tables["run"].ring += np.arange(replicas)[:, None]
    blocks: Any = (np.stack([part] * replicas) for part in cache)
    return state._replace(**(copies | tables)), Cache(*blocks)


def rows_of(state: State, rows: IntArray) -> State:
    """The engine `state` with the columns of some rows only: what its records are made of."""
    columns = COLUMNS if len(state.watched) == 0 else (*COLUMNS, "watched")
    return state._replace(**{name: getattr(state, name)[rows] for name in columns})


def summed(states: State) -> State:
    """All replicas of a stack as one engine: totals added up, the latest clock, the highest peak of blocks."""
    total = records(RUN, 1)
    for name in RUN.names or ():
        total[name] = states.run[name].sum()
    total.peak_blocks, total.now_s = states.run.peak_blocks.max(), states.run.now_s.max()
    return states._replace(run=total, gap_histogram=states.gap_histogram.sum(axis=0))


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
        states.run[k],
        states.setting,
        states.rows,
        states.watched,
        states.arrival_s,
        states.prompt_tokens,
        states.output_tokens,
        states.shown_output,
        states.shown_timeout_s,
        states.shown_ttft_timeout_s,
        states.class_id,
        states.prefix_ids,
        states.prefix_offsets,
        states.generated,
        states.computed,
        states.next_waiting,
        states.queues[k],
        states.head[k],
        states.waiting[k],
        states.quota[k],
        states.shed_rows,
        states.seats[k],
        states.free_slots[k],
        states.running[k],
        states.mask[k],
        states.ending[k],
        states.residues[k],
        states.peaks[k],
        states.retired[k],
        states.flights[k],
        states.batch[k],
        states.victims[k],
        states.hits[k],
        states.kv_group,
        states.group_table[k],
        states.junction,
        states.fresh_keys[k],
        states.first_scheduled_s,
        states.first_token_s,
        states.last_token_s,
        states.longest_gap_s,
        states.held_s,
        states.preemptions,
        states.recomputed_tokens,
        states.cached_tokens,
        states.decode_s,
        states.decode_attention_s,
        states.shared_s,
        states.prefill_attention_s,
        states.gap_histogram[k],
        states.gap_scratch[k],
        states.source,
    )
