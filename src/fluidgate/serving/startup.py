"""Which policy a server runs: the plan file's, or one that learns as it runs."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from fluidgate.policies import Fluid, Policy, load_policy_file
from fluidgate.serving.gate import Limits
from fluidgate.serving.labels import Classes

logger = logging.getLogger("vllm.fluidgate")

PLAN_KEY = "fluidgate_plan"
"""Key of vLLM's `--additional-config` that names the plan file; the variable FLUIDGATE_PLAN takes precedence."""

POLICY_FILE_VARIABLE = "FLUIDGATE_POLICY_FILE"
"""Environment variable that names the Python file of a custom policy."""

TOLERATED_BLOCK_DIFFERENCE = 0.05


def configured_policy(plan_path: str | None, vllm_config: Any, limits: Limits) -> tuple[Policy, Classes, float]:
    """Of the plan file that the environment or vLLM's configuration names: policy, classes, and boundary, req/s.

    Without one the policy is `fluid`, and the boundary 0, unknown.

    Raises:
        InputError: the plan file cannot be used.
    """
    additional = vllm_config.additional_config
    path = plan_path or (additional.get(PLAN_KEY) if isinstance(additional, dict) else None)
    if path is None:
        logger.info("fluidgate: no plan file; learning output lengths from the requests served")
        return Fluid(), Classes(), 0.0
    from fluidgate.serving.planfile import PlanFile  # pydantic, needed only with a plan

    policy_file = os.environ.get(POLICY_FILE_VARIABLE)
    load_policy_file(Path(policy_file) if policy_file else None)
    plan = PlanFile.load(path)
    planned, actual = plan.hardware.num_gpu_blocks - 1, limits.total_blocks
    if abs(planned - actual) > TOLERATED_BLOCK_DIFFERENCE * actual:
        logger.warning(
            "fluidgate: %s was planned for %d KV blocks and this server has %d; plan again with --num-gpu-blocks %d",
            path,
            planned,
            actual,
            actual + 1,
        )
    return plan.make_policy(), plan.classes.to_classes(), plan.planned.boundary_rate
