"""fluidgate's gate as an `AdmissionPolicy`: what `GateScheduler` does, without a scheduler of its own or seams.

    PYTHONPATH=contrib/vllm-admission-point vllm serve MODEL --admission-policy gate_admission.GateAdmission

Needs a vLLM 0.33 with the patch beside this file. Books, policies and plan files are the plugin's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from vllm.v1.core.sched.admission import Admission, AdmissionPolicy

from fluidgate.serving.gatekeeper import Gatekeeper
from fluidgate.serving.metrics import gate_metrics
from fluidgate.serving.scheduler import new_gatekeeper

logger = logging.getLogger("vllm.fluidgate")


class PointKeeper(Gatekeeper):
    """A gatekeeper that leaves it to vLLM to end what the policy gives up, and to tell the clients."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.dropped: list[str] = []

    def drop(self, names: list[str]) -> None:
        """Note requests for `Admission.shed`."""
        self.dropped += names


class GateAdmission(AdmissionPolicy):
    """The gate at vLLM's admission point.

    Attributes:
        gatekeeper: the gate and its books; None: every request may enter, as without an admission policy.
    """

    def __init__(self, scheduler: Any) -> None:
        super().__init__(scheduler)
        self.gate_metrics = gate_metrics(scheduler.vllm_config.parallel_config.data_parallel_rank)
        self.gatekeeper: Any = None
        try:
            self.gatekeeper = new_gatekeeper(scheduler, self.gate_metrics, PointKeeper)
        except Exception:
            self._close("start")

    def arrived(self, request: Any) -> None:
        """Book a request that was queued."""
        self._guarded("add_request", lambda keeper: keeper.arrived(request, time.monotonic()))

    def next_step(self) -> Admission:
        """What the policy allows in the next step."""
        return self._guarded("decide", self._decide) or Admission()

    def scheduled(self, output: Any) -> None:
        """Book the step that vLLM has formed."""
        self._guarded("book", lambda keeper: keeper.book(output, time.monotonic()))

    def stopped(self, requests: Sequence[Any]) -> None:
        """Book requests that were ended from outside."""
        self._guarded("finish_requests", lambda keeper: keeper.stopped([one.request_id for one in requests]))

    def _decide(self, keeper: PointKeeper) -> Admission:
        allowed = keeper.allow(time.monotonic())
        shed, keeper.dropped = keeper.dropped, []
        return Admission(limit=allowed.admit, only=allowed.only, paused=allowed.paused, shed=shed)

    def _guarded(self, where: str, what: Callable[[Any], Any]) -> Any:
        """Run a part of ours. If it fails, rebuild the books; if that fails too, let every request enter for good."""
        if self.gatekeeper is None:
            return None
        try:
            return what(self.gatekeeper)
        except Exception:
            logger.warning("fluidgate failed in %s: its books are rebuilt from vLLM's queues", where, exc_info=True)
        try:
            self.gatekeeper.rebuild(time.monotonic())
            self.gate_metrics.rebuilt(where)
        except Exception:
            self._close(where)
        return None

    def _close(self, where: str) -> None:
        self.gatekeeper = None
        self.gate_metrics.fell_back(where)
        logger.exception("fluidgate failed in %s: every request may enter from now on", where)
