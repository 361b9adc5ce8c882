"""Two ways to write a hand-worked case: a run with a block per token and a second per iteration, and one decision."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from fluidgate.engine import EngineConfig, RunRecords, run
from fluidgate.hardware import Hardware, StepTime
from fluidgate.kernel import interpreted
from fluidgate.policies import Policy, View
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


UNLIMITED = 10**6


@pytest.fixture(scope="session")
def decide() -> Callable[..., int]:
    """How many of the waiting requests a policy lets in; all if it says nothing.

    Requests are (prompt, generated tokens). Residents hold the KV of all but their last token, or what a third number
    says they hold; `shared_blocks` is how many blocks that saves because they hold the same ones.
    """

    def quota(
        policy: Policy,
        residents: list[tuple[int, ...]],
        waiting: list[tuple[int, int]],
        *,
        blocks: int,
        block_size: int = 1,
        iteration: int = 0,
        token_budget: int = 2048,
        max_num_seqs: int = 256,
        shared_blocks: int = 0,
        class_id: int = 0,
        memory: NDArray[np.float64] | None = None,
    ) -> int:
        held, count = len(residents), len(residents) + len(waiting)
        columns = np.array([r[:2] for r in residents] + waiting, dtype=np.int64).reshape(-1, 2)
        computed = np.zeros(count, np.int64)
        computed[:held] = [r[2] if len(r) == 3 else r[0] + r[1] - 1 for r in residents]
        view = View(
            now_s=float(iteration),
            iteration=iteration,
            free_blocks=blocks + shared_blocks - int((-(-computed // block_size)).sum()),
            total_blocks=blocks,
            block_size=block_size,
            token_budget=token_budget,
            max_num_seqs=max_num_seqs,
            residents=np.arange(held),
            waiting_head=np.array([held if waiting else -1]),
            waiting_count=np.array([len(waiting)]),
            next_waiting=np.append(np.arange(1, count), -1),
            arrival_s=np.zeros(count),
            prompt_tokens=columns[:, 0],
            generated_tokens=columns[:, 1],
            computed_tokens=computed,
            output_tokens=np.full(count, -1),
            class_id=np.full(count, class_id),
        )
        out_quota = np.array([UNLIMITED])
        assert policy.admit is not None
        interpreted(policy.admit)(policy.pack(), policy.new_memory() if memory is None else memory, view, out_quota)
        return min(int(out_quota[0]), len(waiting))

    return quota
