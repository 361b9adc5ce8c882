"""A router as py-inference-scheduler's integrations are: it asks, schedules, reserves, releases, and tells lengths.

One waiting request is asked for again when one ends, and none at any other time.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from py_inference_scheduler import Endpoint, LLMRequest, Scheduler

BLOCK_SIZE = 16


@dataclass
class FakeReplica:
    """Holds requests as long as a token takes times their tokens, and says what it holds."""

    name: str
    blocks: int
    token_s: float
    held: dict[str, int] = field(default_factory=dict)  # KV tokens by request, at its end
    most_held: int = 0
    gone: threading.Event = field(default_factory=threading.Event)

    def stats(self) -> dict[str, Any]:
        tokens = sum(list(self.held.values()))
        return {
            "kv": min(1.0, tokens / (self.blocks * BLOCK_SIZE)),
            "num_waiting_reqs": 0,
            "num_running_reqs": len(self.held),
            "num_preempted": 0,
            "kv_cache_size": (self.blocks + 1) * BLOCK_SIZE,
        }

    def endpoint(self) -> Endpoint:
        stats = self.stats()
        return Endpoint(self.name, {"queue_len": 0, "routing_stats": stats, "kv_cache_size": stats["kv_cache_size"]})

    def serve(self, name: str, prompt_tokens: int, output_tokens: int) -> bool:
        """Whether it was served: it is not by a replica that goes."""
        self.held[name] = prompt_tokens + output_tokens // 2
        self.most_held = max(self.most_held, len(self.held))
        gone = self.gone.wait(output_tokens * self.token_s)
        del self.held[name]
        return not gone


class Router:
    """Threads ask for requests of theirs; those that wait sleep until they are woken."""

    def __init__(self, scheduler: Scheduler, replicas: list[FakeReplica]) -> None:
        self.scheduler, self.replicas = scheduler, replicas
        self._queue: deque[threading.Event] = deque()
        self._lock = threading.Lock()
        self._routing = threading.Lock()  # the scheduler itself is not for several threads

    def there(self) -> list[FakeReplica]:
        return [replica for replica in self.replicas if not replica.gone.is_set()]

    def serve(self, request: LLMRequest, prompt_tokens: int, output_tokens: int, *, tell: bool = True) -> bool:
        plugins = self.scheduler.get_flow_control_plugins()
        while True:
            woken = threading.Event()
            with self._lock:
                self._queue.append(woken)
            endpoints = [replica.endpoint() for replica in self.there()]
            for plugin in plugins:
                endpoints = list(plugin.get_allowed_candidates(request, endpoints))
            if endpoints:
                with self._lock:
                    self._queue.remove(woken) if woken in self._queue else self._wake()
                break
            assert woken.wait(60.0), f"nobody wakes {request.request_id}"
        with self._routing:
            (selected,) = self.scheduler.run(request, endpoints)
        for plugin in plugins:
            plugin.reserve(request, selected.endpoint)
        replica = next(one for one in self.replicas if one.name == selected.endpoint.name)
        served = replica.serve(request.request_id, prompt_tokens, output_tokens)
        for plugin in plugins:
            plugin.release(request, replica.name)
            if served and tell:
                name, _ = plugin._get_rollout_request_id(request.body)
                plugin.update_learned_stats(name, prompt_tokens, output_tokens)
        with self._lock:
            self._wake()
        return served

    def _wake(self) -> None:
        if self._queue:
            self._queue.popleft().set()
