"""What a replica tells a router of itself, by the names that llm-d's Python scheduler has for it."""

from __future__ import annotations

from collections.abc import Mapping
from math import nan
from typing import Any

from fluidgate.fleet import Gauges

BLOCKS = "kv_cache_size"
"""KV tokens of all blocks, the null block among them."""


def gauges_of(stats: Mapping[str, Any], measured_s: float) -> Gauges | None:
    """Waiting and running requests, the share of KV in use, and evictions; None: one of the first three is missing."""
    told = [stats.get(name) for name in ("num_waiting_reqs", "num_running_reqs", "kv", "num_preempted")]
    waiting, running, use, evicted = (float(value) if isinstance(value, int | float) else nan for value in told)
    if not (waiting >= 0 and running >= 0 and use >= 0):
        return None
    return Gauges(waiting, running, min(1.0, use), evicted if evicted >= 0 else nan, measured_s=measured_s)


def blocks_of(stats: Mapping[str, Any], block_size: int) -> int | None:
    """KV blocks, the null block not counted; None: it does not say."""
    tokens = stats.get(BLOCKS)
    blocks = int(tokens) // block_size - 1 if isinstance(tokens, int | float) and tokens == tokens else 0
    return blocks if blocks > 0 else None
