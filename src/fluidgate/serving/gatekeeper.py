"""`Gatekeeper`: a gate beside one of vLLM's schedulers. It reads what vLLM did, and limits it to what the policy says.

What one request says or is costs that request its special treatment, never the gate: a hint or a label that is no good
is ignored and counted, and a request that the books cannot follow (streamed input, a grammar that does not compile)
stays outside them, where vLLM alone decides about it.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, islice
from math import inf
from typing import Any

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.request import RequestStatus

from fluidgate.serving import seams
from fluidgate.serving.gate import Entry, Gate, Room, Standing
from fluidgate.serving.labels import Classes, output_tokens, timeouts_s
from fluidgate.serving.metrics import GateMetrics
from fluidgate.serving.publisher import Publisher
from fluidgate.serving.readiness import Readiness, grammar_failed, with_adapter_slots

STEPS_BETWEEN_REBUILDS = 64
"""Books that are wrong again sooner than this were not repaired by the rebuild before."""


@dataclass(frozen=True)
class Allowed:
    """A `Decision` in vLLM's requests.

    Attributes:
        admit: how many waiting requests may enter; None: no limit.
        only: the requests that may enter, in this order; None: any.
        paused: residents that skip the iteration.
    """

    admit: int | None
    only: list[Any] | None
    paused: list[Any]


class Gatekeeper:
    """Keeps a gate's books in step with a scheduler.

    Attributes:
        outside: names of the requests that are in vLLM and not in the books.
        shed: names and clients of the requests that were given up, until vLLM has told them.
    """

    def __init__(
        self, scheduler: Any, gate: Gate, classes: Classes, metrics: GateMetrics, publisher: Publisher
    ) -> None:
        self.scheduler, self.gate, self.classes, self.metrics = scheduler, gate, classes, metrics
        self.publisher = publisher
        self.shed: list[tuple[str, int]] = []
        self.readiness = Readiness(scheduler)
        self.outside: set[str] = set()
        self._aborted: set[str] = set()
        self._renewed: set[str] = set()  # names reused before vLLM reported the end of the earlier request
        self._steps_since_rebuild = STEPS_BETWEEN_REBUILDS
        self._loading: set[str] = set()  # residents whose KV is still being fetched

    def arrived(self, request: Any, now_s: float) -> None:
        """A request is in vLLM's queue, or has got more input."""
        name = request.request_id
        if name in self.outside:
            return
        if name in self.gate.books.row_of:
            self._end([name], now_s)
            self._renewed.add(name)
        if request.resumable:
            self.outside.add(name)
            return
        self.gate.joined(self._standing(request, counted=True), now_s)
        self.publisher.pulse.arrived()
        self.readiness.watch(request)

    def stopped(self, names: Iterable[str]) -> None:
        """Requests were stopped from outside: a policy must not take their lengths for whole ones."""
        for name in names:
            self._aborted.add(name)
            self._renewed.discard(name)

    def decide(self, seam: ExitStack, now_s: float) -> None:
        """Ask the policy, and let vLLM's next `schedule()`, within `seam`, do no more than it allows."""
        allowed = self.allow(now_s)
        seams.pause(self.scheduler, allowed.paused)
        self._apply(allowed, seam)

    def allow(self, now_s: float) -> Allowed:
        """Ask the policy what the next iteration may do, and drop what it gives up."""
        scheduler = self.scheduler
        if scheduler.finished_req_ids:
            self._end([name for name in scheduler.finished_req_ids if name not in self._renewed], now_s)
        self._renewed.clear()
        self._aborted.clear()
        self._book_evictions_between(now_s)
        self._set_blocked_aside(now_s)
        self._give_up(now_s)
        always = [*self._waiting_outside(), *self._holding()]
        by_name = bool(always or self.readiness.watched or self._looks_out_of_order())
        decision = self.gate.decide(now_s, self._room(), by_name=by_name)
        only = None
        if decision.only is not None:
            only = self._in_order([scheduler.requests[name] for name in decision.only], always)
        return Allowed(decision.admit, only, [scheduler.requests[name] for name in decision.paused])

    def _give_up(self, now_s: float) -> None:
        """End the requests that the policy gives up, as vLLM ends those whose clients have disconnected."""
        while names := self.gate.give_up(now_s, self._room()):
            self.publisher.shed(names, self.gate, now_s)
            self.drop(names)
            for name in names:
                self.readiness.forget(name)
            self._loading.difference_update(names)

    def drop(self, names: list[str]) -> None:
        """Have vLLM end requests, and note in `shed` whom to tell."""
        clients = [self.scheduler.requests[name].client_index for name in names]
        self.shed += zip(names, clients, strict=True)
        self.scheduler.finish_requests(names, RequestStatus.FINISHED_ABORTED)

    def _book_evictions_between(self, now_s: float) -> None:
        """Residents that lost their KV since the last iteration: an operator has reset the prefix cache."""
        books, requests = self.gate.books, self.scheduler.requests
        if books.num_residents != len(self.scheduler.running) + len(self._loading):
            names = [books.name_of[row] for row in books.residents[: books.num_residents]]
            lost = [name for name in names if requests[name].status == RequestStatus.PREEMPTED]
            self.gate.evicted([name for name in lost if name not in self._loading], now_s)

    def _looks_out_of_order(self) -> bool:
        """Whether vLLM may pass over requests that it has not reported as blocked, or look at another queue first."""
        scheduler = self.scheduler
        connected = scheduler.connector is not None or scheduler.ec_connector is not None  # either may need more time
        return connected or any(getattr(scheduler, name) for name in seams.HERE.waiting[1:])

    def _apply(self, allowed: Allowed, seam: ExitStack) -> None:
        scheduler, only = self.scheduler, allowed.only
        if allowed.paused and scheduler.lora_config is not None:
            only = with_adapter_slots(scheduler, self._first(allowed.admit) if only is None else only)
        if only is not None:
            seam.enter_context(seams.admit_only(scheduler, only))
        elif allowed.admit == 0:
            seam.enter_context(seams.hold_all(scheduler))
        elif allowed.admit is not None:
            seam.enter_context(seams.admit_at_most(scheduler, allowed.admit))

    def _in_order(self, allowed: list[Any], always: list[Any]) -> list[Any]:
        if not always:
            return allowed
        chosen = {*allowed, *always}
        return [request for request in self._first() if request in chosen]

    def _first(self, count: int | None = None) -> list[Any]:
        """The first waiting requests, or all, in vLLM's order."""
        queues = (getattr(self.scheduler, name) for name in seams.HERE.waiting)
        return list(islice(chain.from_iterable(queues), count))

    def book(self, output: SchedulerOutput, now_s: float) -> None:
        """Book what vLLM scheduled.

        Raises:
            RuntimeError: the books disagree with vLLM.
        """
        scheduled = output.num_scheduled_tokens
        evicted = [*self._inside_names(output.preempted_req_ids or ()), *self._failed_loads()]
        if self.outside:
            scheduled = {name: scheduled[name] for name in self._inside_names(scheduled)}
        entered = self._entered(output)
        for name in entered:
            self.readiness.forget(name)
            self.publisher.pulse.entered()
        self._loading.difference_update(entered)
        self.gate.book(now_s, scheduled, entered, evicted)
        for name in evicted:
            if name in self.scheduler.requests:
                self.readiness.watch(self.scheduler.requests[name])
        self._book_loads(now_s)
        self._compare()
        self._steps_since_rebuild += 1
        self.metrics.update(self.gate)
        self.publisher.update(self.gate, now_s)

    def _book_loads(self, now_s: float) -> None:
        began = [request for request in self._holding() if request.request_id not in self._loading]
        self._loading.update(request.request_id for request in began)
        self.gate.loading({request.request_id: self._entry(request) for request in began}, now_s)

    def _failed_loads(self) -> list[str]:
        """Requests that wait again without KV, since it could not be fetched."""
        waiting = ((name, self.scheduler.requests.get(name)) for name in self._loading)
        lost = [name for name, request in waiting if request is not None and not self._holds_kv(name)]
        self._loading.difference_update(lost)
        return lost

    def _entered(self, output: SchedulerOutput) -> dict[str, Entry]:
        """The requests that have just joined the running ones, in their order."""
        names = [new.req_id for new in output.scheduled_new_reqs]
        again = output.scheduled_cached_reqs
        if again.resumed_req_ids:
            names += [name for name in again.req_ids if name in again.resumed_req_ids]
        names = self._inside_names(names)
        if len(names) > 1:
            joined = set(names)
            names = [name for name in output.num_scheduled_tokens if name in joined]
        # vLLM has counted the scheduled tokens as computed already; the rest came from its caches
        tokens = output.num_scheduled_tokens
        return {name: self._entry(self.scheduler.requests[name], tokens[name]) for name in names}

    def _entry(self, request: Any, scheduled_tokens: int = 0) -> Entry:
        return Entry(request.num_computed_tokens - scheduled_tokens, request.num_output_tokens)

    def _compare(self) -> None:
        """Hold the numbers of residents and of waiting requests against vLLM's."""
        books, holding = self.gate.books, len(self._holding())
        running = len(self.scheduler.running)
        if self.outside:
            running = sum(request.request_id not in self.outside for request in self.scheduler.running)
        waiting = sum(map(len, self._queues())) - holding - len(self._waiting_outside())
        mine, theirs = (books.num_residents, books.num_waiting + len(books.aside)), (running + holding, waiting)
        if mine != theirs:
            raise RuntimeError(f"the books have {mine} requests that hold KV and that wait, vLLM has {theirs}")

    def rebuild(self, now_s: float) -> None:
        """Rebuild the books from vLLM's own queues.

        Raises:
            RuntimeError: they were rebuilt a moment ago.
        """
        if self._steps_since_rebuild < STEPS_BETWEEN_REBUILDS:
            raise RuntimeError(f"the books are wrong again {self._steps_since_rebuild} iterations after a rebuild")
        self._steps_since_rebuild = 0
        requests = self.scheduler.requests
        self.outside = {name for name in self.outside if name in requests}
        self.outside |= {name for name, request in requests.items() if request.resumable}
        holding = self._holding()
        self._loading = {request.request_id for request in holding}
        residents = [*self._inside(self.scheduler.running), *holding]
        queued = (request for queue in self._queues() for request in self._inside(queue))
        waiting = [request for request in queued if request.request_id not in self._loading]
        self.gate.rebuild([*map(self._standing, residents)], [*map(self._standing, waiting)], now_s)
        self._aborted.clear()
        self._renewed.clear()
        self.readiness = Readiness(self.scheduler)
        for request in waiting:
            self.readiness.watch(request)

    def _standing(self, request: Any, *, counted: bool = False) -> Standing:
        class_id, recognised = self.classes.of(request)
        tokens, sound = 0, True
        if self.gate.policy.needs_output_length:
            tokens, sound = output_tokens(request, self.scheduler.max_model_len)
        timeout_s, ttft_timeout_s = inf, inf
        if self.gate.policy.needs_timeouts:
            timeout_s, ttft_timeout_s, timely = timeouts_s(request)
            sound = sound and timely
        if counted:
            self.metrics.count_labels(bad_hint=not sound, unknown_class=not recognised)
        generated = request.num_output_tokens + request.num_output_placeholders
        return Standing(
            request.request_id,
            request.num_prompt_tokens,
            tokens,
            class_id,
            generated,
            request.num_computed_tokens,
            timeout_s,
            ttft_timeout_s,
        )

    def _end(self, names: list[str], now_s: float) -> None:
        self.gate.left(names, now_s, self._aborted)
        self.outside.difference_update(names)
        self._loading.difference_update(names)
        for name in names:
            self.readiness.forget(name)

    def _set_blocked_aside(self, now_s: float) -> None:
        failed = [name for name, request in self.readiness.watched.items() if grammar_failed(request)]
        for name in failed:  # vLLM ends it once it sees it
            self.gate.left([name], now_s, [name])
            self.readiness.forget(name)
            self.outside.add(name)
        blocked, ready = self.readiness.look()
        self.gate.set_aside(blocked, ready)

    def _room(self) -> Room:
        pool = self.scheduler.kv_cache_manager.block_pool
        if not self.outside:
            return Room(pool.get_num_free_blocks())
        seated = [name for name in self.outside if self._holds_kv(name)]
        blocks = sum(self._blocks_of(name) for name in seated)
        return Room(pool.get_num_free_blocks(), blocks, len(seated))

    def _blocks_of(self, name: str) -> int:
        """Blocks that a request holds in all groups of layers; the null block stands where one has forgotten."""
        null = self.scheduler.kv_cache_manager.block_pool.null_block.block_id
        groups = self.scheduler.kv_cache_manager.get_block_ids(name)
        return sum(block != null for blocks in groups for block in blocks)

    def _holds_kv(self, name: str) -> bool:
        request = self.scheduler.requests.get(name)
        return request is not None and (request.status == RequestStatus.RUNNING or _holds_kv(request))

    def _queues(self) -> list[Any]:
        """vLLM's waiting queues, in the order in which it looks at them."""
        names = dict.fromkeys((seams.HERE.holding, *seams.HERE.waiting))
        return [getattr(self.scheduler, name) for name in names]

    def _inside(self, requests: Iterable[Any]) -> list[Any]:
        return [request for request in requests if request.request_id not in self.outside]

    def _inside_names(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if name not in self.outside] if self.outside else list(names)

    def _waiting_outside(self) -> list[Any]:
        """Waiting requests that are not in the books."""
        requests = (self.scheduler.requests.get(name) for name in self.outside)
        return [request for request in requests if request is not None and request.status != RequestStatus.RUNNING]

    def _holding(self) -> list[Any]:
        """Requests in the books that hold KV while they wait for more of it."""
        return self._inside(filter(_holds_kv, getattr(self.scheduler, seams.HERE.holding)))


def _holds_kv(request: Any) -> bool:
    return bool(request.num_computed_tokens > 0 or request.status == RequestStatus.WAITING_FOR_REMOTE_KVS)
