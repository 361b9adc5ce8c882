"""`GateScheduler`: a fluidgate policy inside stock vLLM.

    vllm serve MODEL --scheduler-cls fluidgate.serving.scheduler.GateScheduler

It subclasses vLLM's asynchronous scheduler, copies none of it, and acts through the seams of `serving.seams` alone. At
the start it probes them; where one is missing, and after any error of a policy or of our books, it is stock vLLM for
good, says so once, and counts it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.request import Request

from fluidgate.serving import seams
from fluidgate.serving.gate import Gate, Limits
from fluidgate.serving.metrics import gate_metrics
from fluidgate.serving.startup import configured_policy

logger = logging.getLogger("vllm.fluidgate")

OUTPUT_TOKENS_HINT = "output_tokens"
"""Key of `SamplingParams.extra_args` with the output length, for policies that need to know it."""


class GateScheduler(AsyncScheduler):
    """vLLM's scheduler with a gate: who may enter in this iteration, and who pauses."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gate: Gate | None = None
        self.gate_metrics = gate_metrics()
        self.aborted: set[str] = set()
        self.guarded("start", self._open_gate)

    def add_request(self, request: Request) -> None:
        """Queue a request, in vLLM and in the books."""
        super().add_request(request)
        self.guarded("add_request", lambda: self._book_arrival(request))

    def finish_requests(self, *args: Any, **kwargs: Any) -> list[Request]:
        """Note who was stopped from outside: a policy must not take their lengths for whole ones."""
        stopped: list[Request] = super().finish_requests(*args, **kwargs)
        self.aborted.update(request.request_id for request in stopped)
        return stopped

    def schedule(self, *args: Any, **kwargs: Any) -> SchedulerOutput:
        """vLLM's own schedule, within what the policy allows."""
        with ExitStack() as seam:
            if self.gate is not None:
                self.guarded("decide", lambda: self._decide(seam))
            output = super().schedule(*args, **kwargs)
        if self.gate is not None:
            self.guarded("book", lambda: self._book_step(output))
        return output

    def guarded(self, where: str, what: Callable[[], Any]) -> Any:
        """Run a part of ours; if it fails, be stock vLLM from now on."""
        try:
            return what()
        except Exception:
            self.gate = None
            self.gate_metrics.fell_back(where)
            logger.exception("fluidgate failed in %s: scheduling is stock vLLM's from now on", where)
            return None

    def _open_gate(self) -> None:
        missing = seams.missing(self)
        if missing:
            logger.warning("fluidgate is off, scheduling is stock vLLM's: %s", missing)
            self.gate_metrics.fell_back("probe")
            return
        limits = Limits(
            total_blocks=self.kv_cache_manager.block_pool.num_gpu_blocks - 1,
            block_size=self.block_size,
            token_budget=self.max_num_scheduled_tokens,
            max_num_seqs=self.max_num_active_reqs,
        )
        policy = configured_policy(os.environ.get("FLUIDGATE_PLAN"), self.vllm_config, limits)
        self.gate = Gate(policy, limits)
        logger.info("fluidgate: policy %s over %d blocks", policy, limits.total_blocks)

    def _book_arrival(self, request: Request) -> None:
        if request.resumable:
            raise RuntimeError("requests whose input is streamed are not supported")
        if self.gate is not None:
            self.gate.joined(
                request.request_id,
                time.monotonic(),
                request.num_prompt_tokens,
                output_tokens=_expected_output(request),
            )

    def _decide(self, seam: ExitStack) -> None:
        assert self.gate is not None
        now_s = time.monotonic()
        if self.finished_req_ids:
            self.gate.left(self.finished_req_ids, now_s, self.aborted)
        self.aborted.clear()
        decision = self.gate.decide(now_s, self.kv_cache_manager.block_pool.get_num_free_blocks())
        if decision.paused:
            seams.pause(self, (self.requests[name] for name in decision.paused))
        if decision.only is not None:
            seam.enter_context(seams.admit_only(self, [self.requests[name] for name in decision.only]))
        elif decision.admit == 0:
            seam.enter_context(seams.hold_all(self))
        elif decision.admit is not None:
            seam.enter_context(seams.admit_at_most(self, decision.admit))

    def _book_step(self, output: SchedulerOutput) -> None:
        assert self.gate is not None
        cached = {new.req_id: new.num_computed_tokens for new in output.scheduled_new_reqs}
        again = output.scheduled_cached_reqs
        if again.resumed_req_ids:
            resumed = zip(again.req_ids, again.num_computed_tokens, strict=True)
            cached |= {name: tokens for name, tokens in resumed if name in again.resumed_req_ids}
        if len(cached) > 1:  # in the order in which they became resident
            cached = {name: cached[name] for name in output.num_scheduled_tokens if name in cached}
        self.gate.book(time.monotonic(), output.num_scheduled_tokens, cached, output.preempted_req_ids or ())
        if self.gate.books.num_residents != len(self.running):
            raise RuntimeError(f"{self.gate.books.num_residents} residents in the books, {len(self.running)} in vLLM")
        self.gate_metrics.update(self.gate)


def _expected_output(request: Request) -> int:
    """The output length a request announces: the hint if it gives one, else its `max_tokens`."""
    parameters = request.sampling_params
    hint = (parameters.extra_args or {}).get(OUTPUT_TOKENS_HINT) if parameters is not None else None
    return int(hint) if hint is not None else int(request.max_tokens)
