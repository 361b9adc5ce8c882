"""How a policy's decisions reach vLLM's scheduler: three seams, none of which needs a copy of `schedule()`.

1. Nobody may enter: `_pause_state = PAUSED_NEW` around the call.
2. So many may enter: `max_num_active_reqs` for the call.
3. A resident pauses: `next_decode_eligible_step` beyond the call; its KV stays.

Requests of a class that may not enter are out of `waiting` for the call, and at their place again after it.
Source: vLLM 0.32, `v1/core/sched/scheduler.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.request_queue import FCFSRequestQueue


@contextmanager
def hold_all(scheduler: Any) -> Iterator[None]:
    """Admit nobody within the block."""
    before = scheduler._pause_state
    if before == PauseState.UNPAUSED:  # an operator's pause goes further
        scheduler._pause_state = PauseState.PAUSED_NEW
    try:
        yield
    finally:  # left set, the engine would forget queued work and sleep
        scheduler._pause_state = before


@contextmanager
def admit_at_most(scheduler: Any, count: int) -> Iterator[None]:
    """Admit at most `count` requests within the block, in vLLM's order."""
    before = scheduler.max_num_active_reqs
    scheduler.max_num_active_reqs = min(before, len(scheduler.running) + count)
    try:
        yield
    finally:
        scheduler.max_num_active_reqs = before


@contextmanager
def admit_only(scheduler: Any, allowed: list[Any]) -> Iterator[None]:
    """Admit nobody but `allowed`, given in vLLM's order, within the block.

    The others are out of vLLM's sight meanwhile, whatever their number. It looks at their number only to tell a lone
    request from several, for `long_prefill_token_threshold`: one of them stays in sight, behind those allowed.
    """
    everyone = scheduler.waiting
    chosen = set(allowed)
    witness = next((request for request in everyone if request not in chosen), None)
    scheduler.waiting = FCFSRequestQueue([*allowed, witness] if witness is not None else allowed)
    try:
        with admit_at_most(scheduler, len(allowed)):
            yield
    finally:
        left = list(scheduler.waiting)
        waiting = set(left)
        for request in allowed:
            if request not in waiting:
                everyone.remove(request)
        everyone.extendleft(request for request in reversed(left) if request not in chosen and request is not witness)
        scheduler.waiting = everyone


def pause(scheduler: Any, requests: Iterable[Any]) -> None:
    """Let residents skip the next call of `schedule`."""
    for request in requests:
        request.next_decode_eligible_step = scheduler.current_step + 2


def missing(scheduler: Any) -> str | None:
    """Why the seams cannot be used on this scheduler, in words; None if they can."""
    config = scheduler.vllm_config
    needed = ("_pause_state", "max_num_active_reqs", "current_step", "running", "waiting", "finished_req_ids")
    absent = [name for name in needed if not hasattr(scheduler, name)]
    if absent:
        return f"this vLLM's scheduler has no {', '.join(absent)}; use a version that fluidgate was tested with"
    if not isinstance(scheduler.waiting, FCFSRequestQueue):
        return "priority scheduling is not supported; use --scheduling-policy fcfs"
    if config.speculative_config is not None:
        return "speculative decoding is not supported; leave --speculative-config out"
    if len(scheduler.kv_cache_config.kv_cache_groups) != 1:
        return "models with several kinds of KV cache are not supported"
    if config.kv_transfer_config is not None:
        return "KV connectors are not supported; leave --kv-transfer-config out"
    return None
