"""Plan files for the servers of these tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fluidgate import EngineConfig, Hardware, StepTime, Workload
from fluidgate.policies import make_policy
from fluidgate.runs import plan_for
from fluidgate.serving.planfile import PlanFile

from .server import BLOCK_SIZE, NUM_BLOCKS, SEATS, TOKEN_BUDGET

MEAN_PROMPT, MEAN_OUTPUT, SPREAD = 64, 96, 0.6
"""Lengths as `vllm bench serve` draws them: uniform, the mean ± 60%."""


CLASSES = ("chat", "code")


def write_plan(path: Path, policy: str, *, rate: float, step: StepTime) -> Path:
    """Write the plan of a policy for this traffic, of two labels with the same lengths, on this server."""
    rng = np.random.default_rng(0)
    count = 2000
    prompts, outputs = (
        rng.integers(round(mean * (1 - SPREAD)), round(mean * (1 + SPREAD)), count, endpoint=True)
        for mean in (MEAN_PROMPT, MEAN_OUTPUT)
    )
    labels = np.arange(count) % len(CLASSES)
    workload = Workload(np.arange(count) / rate, prompts, outputs, class_id=labels, class_names=CLASSES)
    hardware = Hardware("tiny model on a CPU", step, NUM_BLOCKS, BLOCK_SIZE)
    config = EngineConfig(max_num_seqs=SEATS, max_num_batched_tokens=TOKEN_BUDGET)
    fluid_plan = plan_for(workload, hardware, config)
    PlanFile.of(fluid_plan, make_policy(policy, fluid_plan), config).save(path)
    return path
