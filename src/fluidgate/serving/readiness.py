"""`Readiness`: which waiting requests vLLM would pass over now, so that a policy must not count on them.

vLLM skips a request whose grammar is not compiled, whose adapter finds no slot, or whose tokens from before a
preemption are still on their way, and looks at the one behind it (`Scheduler.schedule`, vLLM 0.24 to 0.33).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vllm.v1.request import RequestStatus


class Readiness:
    """Watches the few requests that may be skipped.

    Attributes:
        watched: waiting requests that may be skipped, by name.
        blocked: names of those that would be, as of the last look.
    """

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        self.watched: dict[str, Any] = {}
        self.blocked: set[str] = set()

    def watch(self, request: Any) -> None:
        """Look at a request that has begun to wait, if it is of a kind that may be skipped."""
        if request.lora_request is not None or _awaits_grammar(request) or _has_stale_tokens(request):
            self.watched[request.request_id] = request

    def forget(self, name: str) -> None:
        """A request waits no longer."""
        self.watched.pop(name, None)
        self.blocked.discard(name)

    def look(self) -> tuple[list[str], list[str]]:
        """Names that have become blocked, and names that have become ready, since the last look."""
        if not self.watched:
            return [], []
        taken = self._adapters_if_full()
        now = {name for name, request in self.watched.items() if _is_blocked(request, taken)}
        blocked, ready = now - self.blocked, self.blocked - now
        self.blocked = now
        for name in [name for name, request in self.watched.items() if name not in now and _is_settled(request)]:
            del self.watched[name]
        return list(blocked), list(ready)

    def _adapters_if_full(self) -> set[int] | None:
        """The adapters of the residents, where no other fits; else None."""
        if self.scheduler.lora_config is None:
            return None
        loaded = [request.lora_request for request in self.scheduler.running if request.lora_request is not None]
        taken = {adapter.lora_int_id for adapter in loaded}
        return taken if len(taken) >= self.scheduler.lora_config.max_loras else None


def grammar_failed(request: Any) -> bool:
    """Whether a request's grammar cannot be compiled: vLLM ends it as soon as it sees it."""
    return _awaits_grammar(request) and isinstance(request.structured_output_request.grammar, Exception)


def with_adapter_slots(scheduler: Any, requests: Iterable[Any]) -> list[Any]:
    """Requests whose adapters find slots besides the residents': vLLM up to 0.32 forgets those of paused residents."""
    running = (request.lora_request for request in scheduler.running)
    taken = {adapter.lora_int_id for adapter in running if adapter is not None}
    chosen = []
    for request in requests:
        adapter = request.lora_request
        if adapter is not None and adapter.lora_int_id not in taken:
            if len(taken) >= scheduler.lora_config.max_loras:
                continue
            taken.add(adapter.lora_int_id)
        chosen.append(request)
    return chosen


def _is_blocked(request: Any, adapters: set[int] | None) -> bool:
    if _awaits_grammar(request):
        return request.structured_output_request.grammar is None
    if _has_stale_tokens(request):
        return True
    return (
        adapters is not None and request.lora_request is not None and request.lora_request.lora_int_id not in adapters
    )


def _is_settled(request: Any) -> bool:
    """Whether a request that is ready stays so: only adapters lose their slots again."""
    return request.lora_request is None and not _has_stale_tokens(request)


def _awaits_grammar(request: Any) -> bool:
    waits = request.status == RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR
    return waits and request.structured_output_request is not None


def _has_stale_tokens(request: Any) -> bool:
    """Tokens of a step before its preemption are still to be delivered (from 0.27 on)."""
    return bool(getattr(request, "num_stale_output_tokens", 0)) and not request.drop_stale_output
