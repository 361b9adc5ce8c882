"""Mode `vllm` equals vLLM's own scheduler on 2,000 consecutive requests of every real trace, under preemption."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fluidgate.engine import EngineConfig
from fluidgate.hardware import Hardware, StepTime
from fluidgate.policies import Policy, make_policy
from fluidgate.runs import plan_for
from fluidgate.workload import Poisson, Workload, read_trace

from .against_vllm import needs_vllm, simulate_as_vllm
from .rare_paths import rare_paths, require_reached

pytestmark = needs_vllm

REQUESTS = 2000
STEP_TIME = StepTime(0.0106, 5e-5, 4e-7, 1e-9, 1e-5)


@dataclass(frozen=True)
class Trace:
    """A file and the load and hardware at which residents are evicted; every request fits."""

    file: str
    rate_scale: float
    blocks: int
    block_size: int = 16
    config: dict[str, Any] = field(default_factory=dict)
    read: dict[str, Any] = field(default_factory=dict)
    reaches: dict[str, int] = field(default_factory=dict)

    def workload(self, folder: Path) -> Workload:
        path = folder / "traces" / self.file
        if not path.exists():
            pytest.skip(f"needs {self.file} in ../shared/traces, which is not here")
        workload, _ = read_trace(path, **self.read)
        return workload.take(slice(0, REQUESTS)).scaled(self.rate_scale)

    @property
    def hardware(self) -> Hardware:
        return Hardware("under preemption", STEP_TIME, self.blocks, self.block_size)


CHUNKS_MAY_OVERFLOW = {"scheduler_reserve_full_isl": False}

TRACES = {
    "reasoning": Trace(
        "servegen_r1_1h.csv.gz",
        1.0,
        blocks=120_000,
        config={"max_num_seqs": 2048, "max_num_batched_tokens": 8192},
        reaches={"hits on own old blocks": 30},
    ),
    "conversation": Trace("AzureLLMInferenceTrace_conv.csv", 4.0, blocks=3000),
    "code": Trace(
        "AzureLLMInferenceTrace_code.csv",
        4.0,
        blocks=2000,
        config=CHUNKS_MAY_OVERFLOW,
        reaches={"chunks of a prompt": 1000},
    ),
    "shared prefixes": Trace(
        "conversation_trace.jsonl",
        2.0,
        blocks=8000,
        block_size=64,
        config=CHUNKS_MAY_OVERFLOW | {"max_num_batched_tokens": 8192},
        reaches={"prefix hits": 500},
    ),
    "chat": Trace(
        "sharegpt_8k_lengths.csv.gz", 1.0, blocks=3000, read={"arrivals": Poisson(20.0), "seed": 1}
    ),
}  # fmt: skip


def check(trace: Trace, folder: Path, policy: Policy | str = "greedy", **settings: Any) -> None:
    workload, config = trace.workload(folder), EngineConfig(**trace.config, **settings)
    made = make_policy(policy, plan_for(workload, trace.hardware, config))
    records = simulate_as_vllm(workload, trace.hardware, config, made)
    assert len(records) == REQUESTS
    assert records.finished.all()
    require_reached(rare_paths(records), trace.reaches | ({"preemptions": 51} if policy == "greedy" else {}))


@pytest.mark.parametrize("name", TRACES)
def test_two_thousand_requests(name: str, shared_dir: Path) -> None:
    check(TRACES[name], shared_dir)


@pytest.mark.parametrize("name", ["code", "shared prefixes"])
def test_two_thousand_requests_with_batches_in_flight(name: str, shared_dir: Path) -> None:
    check(TRACES[name], shared_dir, async_scheduling=True)


@pytest.mark.parametrize("policy", ["wait", "nested-wait"])
def test_two_thousand_requests_under_a_policy(policy: str, shared_dir: Path) -> None:
    check(TRACES["conversation"], shared_dir, policy)
