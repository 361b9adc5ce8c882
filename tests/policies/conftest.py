"""One way to write a hand-worked run of a policy: one class of requests, a block per token, a second per iteration."""

from collections.abc import Callable

import numpy as np
import pytest

from fluidgate.engine import EngineConfig, RunRecords, run
from fluidgate.hardware import Hardware, StepTime
from fluidgate.policies import Policy
from fluidgate.testing import check_records, check_same
from fluidgate.workload import Workload


@pytest.fixture
def simulate() -> Callable[..., RunRecords]:
    """Run requests (arrival, prompt, output) under a policy; compiled, interpreted and lawful."""

    def run_both(
        policy: Policy,
        requests: list[tuple[float, int, int]],
        *,
        blocks: int = 1000,
        max_idle_s: float = 0.0,
        config: EngineConfig | None = None,
    ) -> RunRecords:
        arrival_s, prompt, output = (np.array(column) for column in zip(*requests, strict=True))
        workload = Workload(arrival_s.astype(float), prompt, output, name="by hand")
        hardware = Hardware("by hand", StepTime(c0=1.0), blocks + 1, block_size=1)
        compiled, plain = (
            run(workload, hardware, policy, config, record="decisions", compile=compile) for compile in (True, False)
        )
        check_same(compiled, plain, "interpreted equals compiled")
        check_records(compiled, max_idle_s=np.inf if policy.may_idle else max_idle_s)
        return compiled

    return run_both


@pytest.fixture
def rows() -> Callable[[RunRecords], list[tuple[float, list[int]]]]:
    """When each iteration began, and which requests ran in it."""

    def table(records: RunRecords) -> list[tuple[float, list[int]]]:
        steps = records.steps
        assert steps is not None
        ran = np.split(steps.batch[:, 0], np.cumsum(steps.scheduled)[:-1])
        return [(float(start_s), batch.tolist()) for start_s, batch in zip(steps.start_s, ran, strict=True)]

    return table
