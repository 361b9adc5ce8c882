"""How a policy's decisions reach vLLM's scheduler: three seams, none of which needs a copy of `schedule()`.

1. No request may enter: `_pause_state = PAUSED_NEW` around the call.
2. A number of requests may enter: the limit on residents, for the call.
3. A resident pauses: `next_decode_eligible_step` beyond the call; its KV stays.

Where it matters which requests enter, the others are hidden for the call and put back in their places after it.
Source: vLLM 0.24 to 0.33, `v1/core/sched/scheduler.py`; what differs between them is in `serving.capabilities`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import vllm
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.request_queue import FCFSRequestQueue

from fluidgate.serving.capabilities import capabilities_of

HERE = capabilities_of(vllm.__version__)
"""What the scheduler of the installed vLLM offers."""


class QueueView(FCFSRequestQueue):
    """The requests of a queue that vLLM may see, in order; its length counts the `hidden` ones too.

    vLLM looks at the length to tell a lone request from several, and to tell whether it could admit all.
    """

    hidden = 0

    def __bool__(self) -> bool:
        return deque.__len__(self) > 0

    def __len__(self) -> int:
        return deque.__len__(self) + self.hidden


@contextmanager
def hold_all(scheduler: Any) -> Iterator[None]:
    """Admit no request within the block."""
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
    before = getattr(scheduler, HERE.seats)
    setattr(scheduler, HERE.seats, min(before, len(scheduler.running) + count))
    try:
        yield
    finally:
        setattr(scheduler, HERE.seats, before)


@contextmanager
def admit_only(scheduler: Any, allowed: Sequence[Any]) -> Iterator[None]:
    """Admit only `allowed`, in that order, within the block; the others are hidden from vLLM."""
    main, *others = HERE.waiting
    elsewhere: set[Any] = set()
    with ExitStack() as views:
        for name in others:
            elsewhere.update(getattr(scheduler, name))
            visible = [request for request in allowed if request in elsewhere]
            views.enter_context(_only(scheduler, name, visible))
        visible = [request for request in allowed if request not in elsewhere] if elsewhere else list(allowed)
        views.enter_context(_only(scheduler, main, visible))
        yield


@contextmanager
def _only(scheduler: Any, name: str, visible: list[Any]) -> Iterator[None]:
    """Show vLLM only `visible` of one queue within the block."""
    queue = getattr(scheduler, name)
    view = QueueView(visible)
    view.hidden = len(queue) - len(visible)
    setattr(scheduler, name, view)
    try:
        yield
    finally:
        left = list(view)
        still_there, were_there = set(left), set(visible)
        for request in visible:
            if request not in still_there:
                queue.remove(request)
        queue.extendleft(request for request in reversed(left) if request not in were_there)
        setattr(scheduler, name, queue)


def pause(scheduler: Any, requests: Iterable[Any]) -> None:
    """Let residents skip the next call of `schedule`; a pause that vLLM itself set is never shortened."""
    for request in requests:
        request.next_decode_eligible_step = max(request.next_decode_eligible_step, scheduler.current_step + 2)
