"""`FluidRouter`: the gate as Ray Serve's request router, for deployments whose replicas are engines.

    @serve.deployment(request_router_config=RequestRouterConfig(
        request_router_class="fluidgate.adapters.ray_serve.FluidRouter",
        request_router_kwargs={"plan": "/path/plan.json"},
    ))

Every handle of a deployment has a router, and so a gate, of its own: `entrances()["APPLICATION/DEPLOYMENT"]`. Needs the
extra `ray-serve`. Ray Serve sends this module to its processes by value, so nothing in it may be a global that changes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from math import inf, isnan
from typing import Any

from ray.exceptions import RayError, TaskCancelledError
from ray.serve.exceptions import BackPressureError
from ray.serve.request_router import PendingRequest, ReplicaID, ReplicaResult, RequestRouter, RunningReplica
from ray.util import metrics
from starlette.exceptions import HTTPException

from fluidgate.adapters.answers import usage_of
from fluidgate.adapters.entrance import Entrance, Refused, give_name
from fluidgate.adapters.planned import Planned
from fluidgate.adapters.prompts import PromptSizes
from fluidgate.adapters.routing_stats import blocks_of, gauges_of
from fluidgate.bounds import MAX_SECONDS
from fluidgate.serving.labels import CLASS_KEY, TIMEOUT_KEY

SECONDS_BETWEEN_TELLS = 0.25
"""How often the gate hears of the tokens of a stream, and of replicas' gauges; metrics are published as often."""

MOST_ROUTING_TASKS = 100_000
"""Ray Serve routes a few requests at a time by default. The gate must know all that wait: it decides who goes next."""


class FluidRouter(RequestRouter):
    """Sends a request where the forecast of KV memory leaves most room, and lets it wait where none has any."""

    max_num_routing_tasks_cap = MOST_ROUTING_TASKS

    def initialize_state(self, *, plan: str, gates: int = 1, total_blocks: int | None = None) -> None:
        """Called by Ray Serve with `request_router_kwargs`.

        Args:
            plan: plan file, readable on every node that has a handle.
            gates: how many handles send requests to this deployment, as the replicas of its ingress do.
            total_blocks: KV blocks of a replica; None: as planned, until replicas say otherwise.

        Raises:
            InputError: no usable plan.
        """
        self._planned, self._sized = Planned.load(plan, total_blocks), total_blocks is None
        self._planned.warm_up()
        self.entrance = Entrance(self._planned.gate(gates=gates))
        self._sizes = PromptSizes()
        self._heard: dict[str, Mapping[str, Any]] = {}
        self._routed: set[str] = set()
        self._teller: asyncio.Task[None] | None = None
        self._metrics = _Metrics(self._deployment_id.name)
        give_name(self.entrance, f"{self._deployment_id.app_name}/{self._deployment_id.name}")

    @property
    def max_num_routing_tasks(self) -> int:
        """One task for each request that waits."""
        return self.max_num_routing_tasks_cap

    # Replicas

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Called by Ray Serve with all that take requests. Others may still serve what they have."""
        super().update_replicas(replicas)
        names = {name_of(replica.replica_id): replica for replica in replicas}
        for name in set(self.entrance.replicas) - names.keys():
            self.entrance.suspend(name)
        for name in names.keys() - set(self.entrance.replicas):
            self.entrance.add(self._planned.replica(name))
        self._keep_telling()

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """Called by Ray Serve once a request has found it so. What it had not taken yet will be sent again."""
        super().on_replica_actor_died(replica_id)
        self.entrance.lose(name_of(replica_id), not_taken=self.entrance.in_flight.keys() - self._routed)

    def _forget_gone(self) -> None:
        """A replica that Ray Serve has taken away is gone once it has served what it had."""
        busy = {*self.entrance.in_flight.values(), *map(name_of, self.curr_replicas)}
        for name in set(self.entrance.replicas) - busy:
            self.entrance.lose(name)
            self._heard.pop(name, None)

    def _note_gauges(self) -> None:
        for replica_id, replica in self.curr_replicas.items():
            name, stats = name_of(replica_id), replica.routing_stats
            if stats is not self._heard.get(name):
                self._heard[name] = stats
                blocks = blocks_of(stats, self._planned.block_size)
                if blocks is not None and self._sized:
                    self.entrance.resize(name, blocks)
                gauges = gauges_of(stats, self.entrance.now_s)
                if gauges is not None:
                    self.entrance.note_gauges(name, gauges)

    # Requests

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Called by Ray Serve until a request has a replica; returns once the gate has named it."""
        if pending_request is None:
            return [candidate_replicas]
        name = pending_request.metadata.internal_request_id
        chosen = self.entrance.in_flight.get(name)
        if chosen is not None and chosen not in map(name_of, self.curr_replicas):  # it was taken away in between
            self.entrance.turn_back(name)
            chosen = None
        if chosen is None:
            try:
                chosen = await self._enter(name, pending_request)
            except Refused as refused:
                self._refuse(pending_request, refused)
                return [candidate_replicas[:1]]  # Ray Serve sees that it has been answered
        else:  # its replica has more requests than Ray Serve lets it have: it is asked again in a moment
            pending_request.routing_context.should_backoff = True
        return [[replica for replica in self.curr_replicas.values() if name_of(replica.replica_id) == chosen]]

    async def _enter(self, name: str, pending: PendingRequest) -> str:
        body = (*pending.args, *pending.kwargs.values())
        extra = _extra(body)
        return await self.entrance.enter(
            name,
            self._sizes.tokens(body),
            self._planned.class_id(extra.get(CLASS_KEY)),
            timeout_s=_seconds(extra.get(TIMEOUT_KEY)),
            prefix=pending.metadata.session_id,
        )

    def _refuse(self, pending: PendingRequest, refused: Refused) -> None:
        """The handle raises what a Ray Serve ingress answers with 429 and Retry-After, or 413."""
        error: Exception = HTTPException(413, str(refused))
        if refused.retry_after_s < inf:
            waiting = self.entrance.state().waiting
            error = BackPressureError(waiting, waiting, status_code=429, retry_after_s=refused.retry_after_s)
        if not pending.future.done():
            pending.future.set_exception(error)
            self._remove_pending_request_from_indices(pending)

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: ReplicaResult) -> None:
        """Called by Ray Serve when a replica has taken a request."""
        name = pending_request.metadata.internal_request_id
        self._routed.add(name)
        loop = asyncio.get_running_loop()
        stream = _Stream(lambda tokens: loop.call_soon_threadsafe(self.entrance.note_tokens, name, tokens))
        if pending_request.metadata.is_streaming:
            _count_items(result, stream)
        # called on a thread of Ray's
        result.add_done_callback(lambda outcome: loop.call_soon_threadsafe(self._ended, name, outcome, stream))

    def _ended(self, name: str, outcome: Any, stream: _Stream) -> None:
        self._routed.discard(name)
        if isinstance(outcome, TaskCancelledError):
            self.entrance.leave(name)
        elif isinstance(outcome, RayError):
            self.entrance.fail(name)
        else:
            self.entrance.end(name, stream.tokens or None)

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """Called by Ray Serve when a request is over at a replica, or was never taken by it."""
        was_at = self.entrance.in_flight.get(internal_request_id)
        if internal_request_id not in self._routed and was_at == name_of(replica_id):
            self.entrance.turn_back(internal_request_id)

    # Time

    def _keep_telling(self) -> None:
        if self._teller is None or self._teller.done():
            self._teller = self._event_loop.create_task(self._tell())

    async def _tell(self) -> None:
        while self.entrance.replicas:
            self._forget_gone()
            self._note_gauges()
            self._metrics.publish(self.entrance)
            await asyncio.sleep(SECONDS_BETWEEN_TELLS)


def name_of(replica_id: ReplicaID) -> str:
    """What the gate calls a replica: Ray Serve's own unique name for it."""
    return str(replica_id.unique_id)


class _Stream:
    """The items of a stream that its consumer has taken, on whatever thread."""

    def __init__(self, tell: Callable[[int], object]) -> None:
        self._tell, self._told_s, self.tokens = tell, 0.0, 0

    def seen(self, item: Any) -> None:
        """One more: a token, a list of as many, or a whole answer that says how many it has."""
        usage = usage_of(item)
        if usage is not None:
            self.tokens = usage[1]
        else:
            self.tokens += len(item) if isinstance(item, list | tuple) else 1
        now_s = time.monotonic()
        if now_s - self._told_s >= SECONDS_BETWEEN_TELLS:
            self._told_s = now_s
            self._tell(self.tokens)


def _count_items(result: ReplicaResult, stream: _Stream) -> None:
    """Let a stream see its items pass. Ray Serve gives the result out itself, so it is the result that must count."""
    kind: Any = type(result)

    class Counting(kind):
        def __next__(self) -> Any:
            item = super().__next__()
            stream.seen(item)
            return item

        async def __anext__(self) -> Any:
            item = await super().__anext__()
            stream.seen(item)
            return item

    result.__class__ = Counting


class _Metrics:
    """What Ray publishes of a gate; the tag `deployment` says whose it is."""

    def __init__(self, deployment: str) -> None:
        tags, own = ("deployment",), {"deployment": deployment}
        self._requests = metrics.Counter(
            "fluidgate_gate_requests",
            "Requests that have ended at the gate, by what became of them.",
            (*tags, "outcome"),
        )
        self._waiting = metrics.Gauge("fluidgate_gate_waiting", "Requests that wait at the gate.", tags)
        self._in_flight = metrics.Gauge(
            "fluidgate_gate_in_flight", "Requests that the gate has sent to a replica.", (*tags, "replica")
        )
        self._peak = metrics.Gauge(
            "fluidgate_gate_predicted_peak_kv_share",
            "Largest share of a KV cache that the gate expects.",
            (*tags, "replica"),
        )
        for metric in (self._requests, self._waiting, self._in_flight, self._peak):
            metric.set_default_tags(own)
        self._counted = dict.fromkeys(("served", "failed", "left", "refused"), 0)

    def publish(self, entrance: Entrance) -> None:
        """Bring them up to date."""
        for outcome, counted in self._counted.items():
            now = getattr(entrance.ledger, outcome)
            if now > counted:
                self._requests.inc(now - counted, {"outcome": outcome})
                self._counted[outcome] = now
        state = entrance.state()
        self._waiting.set(state.waiting)
        for replica in state.replicas:
            self._in_flight.set(replica.in_flight, {"replica": replica.name})
            self._peak.set(replica.peak_share, {"replica": replica.name})


def _extra(body: Iterable[Any]) -> Mapping[str, Any]:
    """The extra arguments for vLLM of a request, a mapping or an object."""
    for part in body:
        extra = part.get("vllm_xargs") if isinstance(part, Mapping) else getattr(part, "vllm_xargs", None)
        if isinstance(extra, Mapping):
            return extra
    return {}


def _seconds(value: Any) -> float:
    """How long a client waits; for ever where it does not say so soundly."""
    if isinstance(value, bool) or not isinstance(value, int | float) or isnan(value) or value <= 0:
        return inf
    return min(float(value), MAX_SECONDS)
