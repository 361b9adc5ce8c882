"""Admission control in vLLM's API server: refusals before any work, and expiry in the queue.

    vllm serve MODEL --scheduler-cls fluidgate.serving.scheduler.GateScheduler \
        --middleware fluidgate.serving.admission.Admission
"""

import os

from fluidgate.serving.admission.limits import class_limits
from fluidgate.serving.admission.middleware import Admission

class_limits(os.environ)  # here, because uvicorn swallows what a middleware's constructor raises

__all__ = ["Admission"]
