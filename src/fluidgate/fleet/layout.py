"""What kernels of the gate work on: replicas, requests, and the memory of `fluid`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fluidgate.arrays import FloatArray, IntArray

INT, NUMBER = np.int64, np.float64

REPLICA = np.dtype(
    [
        ("at", INT),  # where its forecast begins in memory
        ("loop", INT),  # and where its margin does
        ("block_size", INT),
        ("seats", INT),
        ("count", INT),  # ours in flight
        ("takes", INT),  # whether it is sent requests
        ("closed", INT),  # whether it had no room for the first in the queue, and nothing has changed since
        ("beyond", INT),  # of ours, those that entered beyond the forecast
        ("capacity", NUMBER),  # KV tokens
        ("unshared", NUMBER),  # share of prompt tokens that need blocks of their own
        ("pace_s", NUMBER),  # seconds of an iteration; 0: not known yet
        ("renewed_s", NUMBER),  # when its forecast was made; -infinity: it must be made again
        ("room", NUMBER),  # share of its capacity that the request asked for leaves free
        ("measured_s", NUMBER),  # time of the latest gauges; -infinity: none came
        ("others_kv", NUMBER),  # KV tokens of others then, and what ours held
        ("mine_kv", NUMBER),
        ("others", NUMBER),  # their requests then, and the number of ours
        ("mine", NUMBER),
        ("outside", NUMBER),  # requests of others now, as far as can be told
    ]
)
"""A replica."""


class Rows(NamedTuple):
    """What is known of requests, by row."""

    prompt_tokens: IntArray
    generated_tokens: IntArray
    class_id: IntArray
    replica: IntArray  # -1: it waits
    beyond: IntArray  # whether it entered beyond the forecast
    sent_s: FloatArray
    seen_s: FloatArray  # when its latest token was seen; NaN: none was
    mark_tokens: IntArray  # what had been seen of it at the latest look, and when
    mark_s: FloatArray
    arrival_s: FloatArray
    timeout_s: FloatArray


class Fleet(NamedTuple):
    """All that kernels work on. `table` has a record for each replica, `residents` its requests, first come first."""

    params: FloatArray
    memory: FloatArray
    table: Any
    residents: IntArray
    rows: Rows
    gates: float
    template: int  # where the forecast of what is in flight anywhere begins


class Held(NamedTuple):
    """What `fluid` looks at, of one replica or of all of them."""

    residents: IntArray
    prompt_tokens: IntArray
    generated_tokens: IntArray
    class_id: IntArray
    block_size: int
    total_blocks: int
    token_budget: int
    max_num_seqs: int
    iteration: float
    timeout_s: FloatArray
    ttft_timeout_s: FloatArray
