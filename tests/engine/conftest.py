"""One way to write a hand-worked run: lists in, batches out."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fluidgate.engine import EngineConfig, RunRecords, run
from fluidgate.hardware import Hardware, StepTime
from fluidgate.policies import Greedy, Policy
from fluidgate.testing import check_records, check_same
from fluidgate.workload import Workload

Batch = tuple[float, dict[int, int], list[int]]
"""(start, {row: tokens}, victims) of one iteration."""


@pytest.fixture
def simulate() -> Callable[..., RunRecords]:
    """Run requests (arrival, prompt, output) on `blocks` usable blocks; compiled, interpreted and lawful."""

    def run_both(
        requests: list[tuple[float, int, int]],
        *,
        blocks: int = 100,
        block_size: int = 1,
        step: StepTime | None = None,
        policy: Policy | None = None,
        prefixes: tuple[list[list[int]], int] | None = None,
        timeout_s: list[float] | None = None,
        ttft_timeout_s: list[float] | None = None,
        **config: Any,
    ) -> RunRecords:
        policy = policy or Greedy()
        arrival_s, prompt, output = (np.array(column) for column in zip(*requests, strict=True))
        shared: dict[str, Any] = {}
        if prefixes is not None:
            ids, shared["prefix_block_tokens"] = prefixes
            shared["prefix_ids"] = np.array([i for own in ids for i in own], np.int64)
            shared["prefix_offsets"] = np.cumsum([0, *map(len, ids)])
        for name, column in (("timeout_s", timeout_s), ("ttft_timeout_s", ttft_timeout_s)):
            if column is not None:
                shared[name] = np.array(column)
        workload = Workload(arrival_s.astype(float), prompt, output, name="by hand", **shared)
        hardware = Hardware("by hand", step or StepTime(c0=1.0), blocks + 1, block_size)
        compiled, plain = (
            run(workload, hardware, policy, EngineConfig(**config), record="decisions", compile=compile)
            for compile in (True, False)
        )
        check_same(compiled, plain, "interpreted equals compiled")
        check_records(compiled, max_idle_s=np.inf if policy.may_idle else 0.0)
        return compiled

    return run_both


@pytest.fixture
def batches() -> Callable[[RunRecords], list[Batch]]:
    """The decisions of a run, one entry per iteration, in the order of the batch."""

    def table(records: RunRecords) -> list[Batch]:
        steps = records.steps
        assert steps is not None
        ran = np.split(steps.batch, np.cumsum(steps.scheduled)[:-1])
        evicted = np.split(steps.victims, np.cumsum(steps.preempted)[:-1])
        return [
            (float(start_s), {int(row): int(tokens) for row, tokens in batch}, victims.tolist())
            for start_s, batch, victims in zip(steps.start_s, ran, evicted, strict=True)
        ]

    return table
