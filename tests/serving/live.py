"""vLLM's scheduler under a gate, driven step by step without a model: on a clock of its own, with batches in flight."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from fluidgate.engine import EngineConfig
from fluidgate.hardware import Hardware, StepTime
from fluidgate.policies import Policy

STEP_S = 0.01
BLOCK_SIZE = 16
CONTENT = 1000


class Clock:
    """Stands in for the module `time`: time passes when the test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        """Seconds."""
        return self.now_s


@dataclass
class Live:
    """A scheduler with its gate, and what became of the requests.

    Attributes:
        in_flight: batches whose tokens are still to come, each with the names that get one.
        depth: most batches in flight; 2 is vLLM's asynchronous scheduling.
    """

    scheduler: Any
    clock: Clock
    depth: int
    unfinished: dict[str, Any] = field(default_factory=dict)
    in_flight: deque[tuple[Any, set[str]]] = field(default_factory=deque)
    finished: set[str] = field(default_factory=set)
    aborted: set[str] = field(default_factory=set)
    idle_s: float = 0.0
    longest_idle_s: float = 0.0

    @property
    def num_seen(self) -> int:
        """Requests so far."""
        return len(self.unfinished) + len(self.finished) + len(self.aborted)

    def add(self, prompt_tokens: int, output_tokens: int) -> None:
        """A request arrives, with content of its own."""
        from fluidgate.serving.vllm_core import new_request

        row = self.num_seen
        content = list(range(row * CONTENT, row * CONTENT + prompt_tokens))
        caching = self.scheduler.cache_config.enable_prefix_caching
        request = new_request(row, 0.0, content, output_tokens, BLOCK_SIZE if caching else None)
        self.unfinished[request.request_id] = request
        self.scheduler.add_request(request)

    def abort(self, name: str) -> None:
        """A client goes away."""
        from vllm.v1.request import RequestStatus

        self.scheduler.finish_requests(name, RequestStatus.FINISHED_ABORTED)
        del self.unfinished[name]
        self.aborted.add(name)

    def form(self) -> list[str]:
        """Form a batch and send it off; returns the names in it."""
        self.clock.now_s += STEP_S
        output = self.scheduler.schedule()
        names = list(output.num_scheduled_tokens)
        self.in_flight.append((output, {name for name in names if not self._is_mid_prompt(name)}))
        self.idle_s = 0.0 if names or not self.unfinished else self.idle_s + STEP_S
        self.longest_idle_s = max(self.longest_idle_s, self.idle_s)
        return names

    def _is_mid_prompt(self, name: str) -> bool:
        return bool(self.scheduler.requests[name].is_prefill_chunk)

    def receive(self) -> None:
        """The tokens of the oldest batch arrive, once as many are in flight as may be."""
        from fluidgate.serving.vllm_core import runner_output

        if len(self.in_flight) < self.depth and self.scheduler.has_requests():
            return
        output, emitting = self.in_flight.popleft()
        names = list(output.num_scheduled_tokens)
        tokens = [[7] if name in emitting else [] for name in names]
        self.scheduler.update_from_output(output, runner_output(names, tokens))
        for name in [name for name, request in self.unfinished.items() if request.is_finished()]:
            del self.unfinished[name]
            self.finished.add(name)

    def assert_books_are_vllms(self) -> None:
        """Right after a batch was formed: who holds KV, who waits, in which order, and how far everybody is."""
        books, scheduler = self.scheduler.gate.books, self.scheduler
        rows = books.residents[: books.num_residents].tolist()
        assert [books.name_of[row] for row in rows] == [request.request_id for request in scheduler.running]
        assert waiting_names(books) == sorted(request.request_id for request in scheduler.waiting)
        for row, request in zip(rows, scheduler.running, strict=True):
            coming = request.num_output_placeholders
            assert books.ints["prompt"][row] == request.num_prompt_tokens
            assert books.ints["computed"][row] == request.num_computed_tokens
            assert books.ints["generated"][row] == request.num_output_tokens + coming


def waiting_names(books: Any) -> list[str]:
    """Names in the queues of all classes, sorted; follows the links one way and the counts must agree."""
    names = []
    for group, row in enumerate(books.head.tolist()):
        queue = []
        while row >= 0:
            queue.append(books.name_of[row])
            row = int(books.ints["next"][row])
        assert len(queue) == books.waiting[group]
        names += queue
    return sorted(names)


def new_live(
    monkeypatch: pytest.MonkeyPatch,
    policy: Policy,
    *,
    blocks: int = 20,
    seats: int = 8,
    caching: bool = False,
    depth: int = 1,
    kind: type[Any] | None = None,
) -> Live:
    """A scheduler that runs `policy`, over so many blocks of 16 tokens and so many seats."""
    from fluidgate.serving import scheduler, vllm_core

    clock = Clock()
    monkeypatch.setattr(scheduler, "time", clock)
    monkeypatch.setattr(scheduler, "configured_policy", lambda *_: policy)
    hardware = Hardware("test", StepTime(STEP_S), blocks, BLOCK_SIZE)
    config = EngineConfig(max_num_seqs=seats, max_num_batched_tokens=64, enable_prefix_caching=caching)
    made = vllm_core.new_scheduler(hardware, config, 64, kind or scheduler.GateScheduler)
    return Live(made, clock, depth)


def disturb(live: Live, random: Random, most: int) -> None:
    """Between two batches: perhaps arrivals, one or a burst, and perhaps a client that goes away."""
    if live.num_seen < most and random.random() < 0.4:
        for _ in range(random.choice([1, 1, 5])):
            live.add(random.randint(1, 100), random.randint(1, 60))
    if live.unfinished and random.random() < 0.05:
        live.abort(random.choice(list(live.unfinished)))
