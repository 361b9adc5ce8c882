"""vLLM's scheduler under a gate, driven step by step without a model: on a clock of its own, with batches in flight."""

from __future__ import annotations

import importlib.util
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from fluidgate.engine import EngineConfig
from fluidgate.hardware import Hardware, KvLaw, StepTime
from fluidgate.policies import Policy
from fluidgate.serving.labels import Classes

needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None,
    reason="vLLM is not installed here; `make test` runs these in an environment of their own",
)

STEP_S = 0.01
MAX_STEPS = 5000
BLOCK_SIZE = 16
CONTENT = 1000
NO_CLASSES = Classes()


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
        num_seen: requests so far.
        spoilt: how often the test spoilt the books.
        before: rebuilds in tests before this one: metrics belong to the process.
        depth: most batches in flight; 2 is vLLM's asynchronous scheduling.
    """

    scheduler: Any
    clock: Clock
    depth: int
    unfinished: dict[str, Any] = field(default_factory=dict)
    in_flight: deque[tuple[Any, set[str]]] = field(default_factory=deque)
    finished: set[str] = field(default_factory=set)
    aborted: set[str] = field(default_factory=set)
    num_seen: int = 0
    spoilt: int = 0
    before: float = 0.0
    idle_s: float = 0.0
    longest_idle_s: float = 0.0

    @property
    def gate(self) -> Any:
        """The gate, which must be there."""
        assert self.scheduler.gatekeeper is not None, "fell back to stock scheduling"
        return self.scheduler.gatekeeper.gate

    @property
    def books(self) -> Any:
        """The gate's books."""
        return self.gate.books

    def add(
        self,
        prompt_tokens: int,
        output_tokens: int,
        *,
        name: str | None = None,
        extra: dict[str, Any] | None = None,
        adapter: str | int | None = None,
        priority: int = 0,
        resumable: bool = False,
        content: list[int] | None = None,
        before: Callable[[Any], None] = lambda request: None,
    ) -> Any:
        """A request arrives; returns it.

        Args:
            name: by default its number.
            extra: its `extra_args`.
            adapter: name, or number, of its LoRA adapter.
            content: its prompt's tokens; by default its own.
            before: what else is done to it before vLLM sees it.
        """
        from fluidgate.serving.vllm_core import new_request

        row = self.num_seen
        content = content or list(range(row * CONTENT, row * CONTENT + prompt_tokens))
        caching = self.scheduler.cache_config.enable_prefix_caching
        hashed = getattr(self.scheduler, "hash_block_size", BLOCK_SIZE)
        request = new_request(row, 0.0, content, output_tokens, hashed if caching else None)
        request.request_id = name or request.request_id
        request.sampling_params.extra_args = extra
        request.priority, request.resumable = priority, resumable
        if adapter is not None:
            request.lora_request = SimpleNamespace(lora_name=str(adapter), lora_int_id=hash(adapter) or 1)
        before(request)
        self.unfinished[request.request_id] = request
        self.num_seen += 1
        self.scheduler.add_request(request)
        return request

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

    def receive(self, transfers: Callable[[Any], Any] = lambda output: None) -> None:
        """The tokens of the oldest batch arrive, once as many are in flight as may be.

        Args:
            transfers: what the workers tell of KV transfers with the batch that comes back, a `KVConnectorOutput`.
        """
        from fluidgate.serving.vllm_core import runner_output

        if len(self.in_flight) < self.depth and self.scheduler.has_requests():
            return
        output, emitting = self.in_flight.popleft()
        names = list(output.num_scheduled_tokens)
        tokens = [[7] if name in emitting else [] for name in names]
        answer = runner_output(names, tokens)
        answer.kv_connector_output = transfers(output)
        self.scheduler.update_from_output(output, answer)
        for name in [name for name, request in self.unfinished.items() if request.is_finished()]:
            del self.unfinished[name]
            self.finished.add(name)

    def rebuilds(self) -> float:
        """How often the books were made anew since the start of this test."""
        return sum(counter._value.get() for counter in self.scheduler.gate_metrics.rebuilds.values()) - self.before

    def assert_books_are_vllms(self) -> None:
        """Right after a batch was formed: who holds KV, who waits, in which order, and how far everybody is.

        The books were kept step by step: none were made anew but those that the test itself spoilt.
        """
        assert self.rebuilds() == self.spoilt
        books, outside = self.books, self.scheduler.gatekeeper.outside
        running = [request for request in self.scheduler.running if request.request_id not in outside]
        waiting = [request for request in waiting_in_vllm(self.scheduler) if request.request_id not in outside]
        holding = {request.request_id for request in waiting if holds_kv(request)}
        residents = [books.name_of[row] for row in books.residents[: books.num_residents]]
        assert [name for name in residents if name not in holding] == [request.request_id for request in running]
        assert {name for name in residents if name in holding} == holding
        aside = [books.name_of[row] for row in books.aside]
        assert sorted([*waiting_names(books), *aside]) == sorted(
            request.request_id for request in waiting if request.request_id not in holding
        )
        for request in running:
            row = books.row_of[request.request_id]
            coming = request.num_output_placeholders
            assert books.ints["prompt"][row] == request.num_prompt_tokens
            assert books.ints["computed"][row] == request.num_computed_tokens
            assert books.ints["generated"][row] == request.num_output_tokens + coming


def waiting_in_vllm(scheduler: Any) -> list[Any]:
    """Every request that waits, whatever queues this version has."""
    names = ("waiting", "skipped_waiting", "kv_holding_waiting")
    return [request for name in names for request in getattr(scheduler, name, ())]


def holds_kv(request: Any) -> bool:
    """Whether a waiting request has blocks: its KV is being fetched, or has been."""
    return bool(request.num_computed_tokens > 0 or request.status.name == "WAITING_FOR_REMOTE_KVS")


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
    classes: Classes = NO_CLASSES,
    law: KvLaw | None = None,
    interval: int = 1,
) -> Live:
    """A scheduler that runs `policy`, over so many blocks (of 16 tokens, or of `law`'s groups) and so many seats."""
    from fluidgate.serving import scheduler, vllm_core

    clock = Clock()
    monkeypatch.setattr(scheduler, "time", clock)
    monkeypatch.setattr(scheduler, "configured_policy", lambda *_: (policy, classes, 0.0))
    block_size = BLOCK_SIZE if law is None else law.block_size
    hardware = Hardware("test", StepTime(STEP_S), blocks, block_size, kv_law=law)
    config = EngineConfig(
        max_num_seqs=seats,
        max_num_batched_tokens=64,
        enable_prefix_caching=caching,
        prefill_schedule_interval=interval,
    )
    made = vllm_core.new_scheduler(hardware, config, 64, kind or scheduler.GateScheduler)
    live = Live(made, clock, depth)
    live.before = live.rebuilds()
    return live


def run_down(live: Live) -> None:
    """Step until every request is done."""
    for _ in range(MAX_STEPS):
        live.form()
        live.receive()
        if not live.unfinished:
            return
    raise AssertionError(f"{len(live.unfinished)} requests never finished")


def disturb(live: Live, random: Random, most: int) -> None:
    """Between two batches: perhaps arrivals, one or a burst, and perhaps a client that goes away."""
    if live.num_seen < most and random.random() < 0.4:
        for _ in range(random.choice([1, 1, 5])):
            live.add(random.randint(1, 100), random.randint(1, 60))
    if live.unfinished and random.random() < 0.05:
        live.abort(random.choice(list(live.unfinished)))
