"""`GateScheduler`: a fluidgate policy inside stock vLLM.

    vllm serve MODEL --scheduler-cls fluidgate.serving.scheduler.GateScheduler

It subclasses vLLM's asynchronous scheduler, copies none of it, and acts through the seams of `serving.seams` alone.
Where the gate cannot run it is stock vLLM, and says so once. Where its books go wrong they are rebuilt from vLLM's
own queues; if that does not help it is stock vLLM for good.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import vllm
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, FinishReason
from vllm.v1.request import Request

from fluidgate.serving.capabilities import capabilities_of, describe, unsupported
from fluidgate.serving.counted_pool import law_of
from fluidgate.serving.gate import Gate, Limits
from fluidgate.serving.gate_state import StateWriter
from fluidgate.serving.metrics import GateMetrics, gate_metrics
from fluidgate.serving.publisher import Publisher
from fluidgate.serving.startup import configured_policy

if TYPE_CHECKING:
    from fluidgate.serving.gatekeeper import Gatekeeper

logger = logging.getLogger("vllm.fluidgate")


class GateScheduler(AsyncScheduler):
    """vLLM's scheduler with a gate: who may enter in this iteration, and who pauses.

    Attributes:
        gatekeeper: the gate and its books; None: this is stock vLLM, in every method.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gatekeeper: Gatekeeper | None = None
        self.gate_metrics = gate_metrics(self.vllm_config.parallel_config.data_parallel_rank)
        try:
            self._open_gate()
        except Exception:
            self._close_gate("start")

    def add_request(self, request: Request) -> None:
        """Queue a request, in vLLM and in the books."""
        super().add_request(request)
        if self.gatekeeper is not None:
            keeper = self.gatekeeper
            self._guarded("add_request", lambda: keeper.arrived(request, time.monotonic()))

    def finish_requests(self, *args: Any, **kwargs: Any) -> Any:
        """Stop requests; the books must know that they were stopped from outside."""
        stopped = super().finish_requests(*args, **kwargs)
        if self.gatekeeper is not None:
            keeper = self.gatekeeper
            self._guarded("finish_requests", lambda: keeper.stopped(map(_name_of, stopped)))
        return stopped

    def schedule(self, *args: Any, **kwargs: Any) -> SchedulerOutput:
        """vLLM's own schedule, within what the policy allows."""
        keeper = self.gatekeeper
        if keeper is None:
            return super().schedule(*args, **kwargs)
        with ExitStack() as seam:
            self._guarded("decide", lambda: keeper.decide(seam, time.monotonic()))
            output = super().schedule(*args, **kwargs)
        if self.gatekeeper is not None:
            self._guarded("book", lambda: keeper.book(output, time.monotonic()))
        return output

    def update_from_output(self, *args: Any, **kwargs: Any) -> dict[int, EngineCoreOutputs]:
        """vLLM's own update; clients are told of the requests that the policy has given up."""
        outputs: dict[int, EngineCoreOutputs] = super().update_from_output(*args, **kwargs)
        if self.gatekeeper is not None and self.gatekeeper.shed:
            for name, client in self.gatekeeper.shed:
                ended = EngineCoreOutput(name, [], finish_reason=FinishReason.ABORT)
                outputs.setdefault(client, EngineCoreOutputs()).outputs.append(ended)
            self.gatekeeper.shed = []
        return outputs

    def _guarded(self, where: str, what: Callable[[], None]) -> None:
        """Run a part of ours. If it fails, rebuild the books; if that fails too, be stock vLLM from now on."""
        try:
            what()
        except Exception:
            self._recover(where)

    def _recover(self, where: str) -> None:
        assert self.gatekeeper is not None
        logger.warning("fluidgate failed in %s: its books are rebuilt from vLLM's queues", where, exc_info=True)
        try:
            self.gatekeeper.rebuild(time.monotonic())
        except Exception:
            self._close_gate(where)
        else:
            self.gate_metrics.rebuilt(where)

    def _close_gate(self, where: str) -> None:
        self.gatekeeper = None
        self.gate_metrics.fell_back(where)
        logger.exception("fluidgate failed in %s: scheduling is stock vLLM's from now on", where)

    def _open_gate(self) -> None:
        self.gatekeeper = new_gatekeeper(self, self.gate_metrics)


def new_gatekeeper(scheduler: Any, metrics: GateMetrics, kind: type[Gatekeeper] | None = None) -> Gatekeeper | None:
    """The gate that the server's plan asks for, beside `scheduler`; None, and a warning, where it cannot run.

    Raises:
        InputError: the plan file cannot be used.
    """
    problem = unsupported(vllm.__version__, scheduler)
    if problem is not None:
        _say_off(metrics, problem)
        return None
    from fluidgate.serving.gatekeeper import Gatekeeper  # what it imports is only in versions that it runs on

    config = scheduler.vllm_config
    law = law_of(scheduler.kv_cache_config.kv_cache_groups, scheduler.block_size)
    limits = Limits(
        total_blocks=scheduler.kv_cache_manager.block_pool.num_gpu_blocks - 1,
        block_size=law.block_size,
        token_budget=scheduler.max_num_scheduled_tokens,
        max_num_seqs=getattr(scheduler, capabilities_of(vllm.__version__).seats),
        law=law,
    )
    policy, classes, boundary_rate = configured_policy(os.environ.get("FLUIDGATE_PLAN"), config, limits)
    if policy.advance is not None and getattr(scheduler, "local_prefill_interval", 1) > 1:
        # steps without tokens do not count in the interval, and paused decodes give none
        _say_off(
            metrics,
            f"policy {policy.name} pauses residents, and --prefill-schedule-interval may then hold prompts for ever; "
            "leave it out",
        )
        return None
    writer = StateWriter(config.parallel_config.data_parallel_rank)
    publisher = Publisher(writer, classes.names, boundary_rate, time.monotonic())
    logger.info("fluidgate: policy %s over %d blocks, in %s", policy, limits.total_blocks, describe(vllm.__version__))
    return (kind or Gatekeeper)(scheduler, Gate(policy, limits), classes, metrics, publisher)


def _say_off(metrics: GateMetrics, problem: str) -> None:
    logger.warning("fluidgate is off, scheduling is stock vLLM's: %s", problem)
    metrics.fell_back("probe")


def _name_of(stopped: Any) -> str:
    """Of a request, or of (name, client) as up to 0.25."""
    return str(stopped[0]) if isinstance(stopped, tuple) else str(stopped.request_id)
